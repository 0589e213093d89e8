"""What a run's folder says of how it was made: `environment.json`, with a session for each start.

A session is one process's time in the folder, of a training, a resumed one, or a scoring.
"""

import contextlib
import hashlib
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import torch
import torchvision
from pydantic import TypeAdapter

from detengine import __version__
from detengine.disk.writing import write_text
from detengine.distributed.comm import get_world_size
from detengine.monitor.timer import Stages
from detengine.run_report.git_commit import git_commit
from detengine.untrusted.addresses import without_secrets

ENVIRONMENT = "environment.json"
_FORMAT = 1

State = Literal["running", "finished", "stopped", "failed"]


@dataclass(frozen=True)
class Session:
    """One start in a run's folder. Times are ISO 8601 with the zone's offset.

    - kind: "train" or "eval". command: as it was typed, as one line of a shell, but for a signed
      address's signature.
    - seen: when the record was last written; end: None while it runs, and if it was killed.
    - error: why it failed, else None. start_iteration, iteration: finished ones, then and now.
    - environment: names and versions, in words. stages: seconds of each stage of the start.
    - seconds: of each phase (`evaluation`, `checkpoint`, `report`) since the start.
    - weights: what it began with, as it was named, and its sha256; both None for none.
    - config: a scoring's configuration, as YAML; a training's is config.yaml beside the record.
    """

    kind: Literal["train", "eval"]
    command: str
    working_folder: str
    process: int
    host: str
    start: str
    seen: str
    end: str | None = None
    state: State = "running"
    error: str | None = None
    start_iteration: int = 0
    iteration: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    stages: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    weights: str | None = None
    weights_sha256: str | None = None
    config: str | None = None

    @property
    def total_seconds(self) -> float:
        """From the start to the last sign of life."""
        start, seen = map(datetime.fromisoformat, (self.start, self.seen))
        return (seen - start).total_seconds()


def now() -> str:
    """This moment, to the millisecond, with the zone's offset."""
    return datetime.now().astimezone().isoformat(timespec="milliseconds")


def begin_session(kind: Literal["train", "eval"], device: torch.device, start: str) -> Session:
    """The session of this process, which began at `start`."""
    return Session(
        kind=kind,
        command=shlex.join(map(without_secrets, _command())),
        working_folder=str(Path.cwd()),
        process=os.getpid(),
        host=platform.node(),
        start=start,
        seen=now(),
        environment=describe_environment(device),
    )


def _command() -> list[str]:
    """The command as a user types it: of a script or `python -m`, not of the interpreter."""
    program, *arguments = sys.argv or [""]
    name = Path(program).name
    if name == "__main__.py":
        return [*["python", "-m"], Path(program).parent.name, *arguments]
    return [name or "python", *arguments]


def describe_environment(device: torch.device) -> dict[str, str]:
    """What the run stands on, by name, in words. Nothing of the environment's variables."""
    found = {
        "detengine": __version__,
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "device": _describe_device(device),
        "CPU": f"{_name_of_cpu()}, {os.cpu_count()} cores",
        "threads": str(torch.get_num_threads()),
        "ranks": str(get_world_size()),
        "system": platform.platform(),
    }
    if commit := git_commit():
        found["git commit"] = commit
    return found


def _describe_device(device: torch.device) -> str:
    if device.type != "cuda":
        return str(device)
    properties = torch.cuda.get_device_properties(device)
    memory = properties.total_memory / 2**30
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    versions = f"CUDA {torch.version.cuda}" + (f", cuDNN {cudnn}" if cudnn else "")
    return f"{properties.name}, {memory:.0f} GiB, {versions}"


def _name_of_cpu() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def sha256_of(weights: str) -> str | None:
    """The sha256 of a file of weights; None for what is no path of one."""
    path = Path(weights)
    if not weights or not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_sessions(folder: Path) -> list[Session]:
    """The sessions of a folder, the oldest first; none where there is no record.

    Raises ValueError, naming the file, if it is damaged or another version's.
    """
    path = folder / ENVIRONMENT
    if not path.is_file():
        return []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            raise ValueError(f"its format is {content['format']!r}, but this version reads 1")
        sessions = TypeAdapter(list[Session]).validate_python(content["sessions"])
        if any(each.total_seconds < 0 for each in sessions):  # raises for what is no time, too
            raise ValueError("a session ends before its start")
        return sessions
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} is no record of a run, or it is damaged: {error}. Remove it to do without."
        ) from error


def write_sessions(folder: Path, sessions: Sequence[Session]) -> None:
    """Write the record anew. Raises OSError."""
    content = {"format": _FORMAT, "sessions": [_plain(each) for each in sessions]}
    write_text(folder / ENVIRONMENT, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _plain(session: Session) -> dict[str, Any]:
    plain = asdict(session)
    for name in ("stages", "seconds"):
        plain[name] = {key: round(value, 3) for key, value in plain[name].items()}
    return plain


class Recorder:
    """Keeps this process's session in a folder's record. On the main process only."""

    def __init__(
        self,
        folder: Path,
        session: Session,
        stages: Stages,
        *,
        anew: bool = False,
        counted: Mapping[str, Callable[[], float]] | None = None,
    ) -> None:
        """anew: the sessions that are there are another run's, and go. counted: the seconds of
        phases that somebody else counts.
        """
        self._folder = folder
        self._before = [] if anew else load_sessions(folder)
        self.session = session
        self._stages = stages
        self._seconds: dict[str, float] = {}
        self._counted = counted or {}
        self.write()

    def write(self, **changes: Any) -> None:
        """Write the session as it is now, with these fields changed."""
        seconds = self._seconds | {phase: count() for phase, count in self._counted.items()}
        self.session = replace(
            self.session, seen=now(), stages=dict(self._stages.seconds), seconds=seconds, **changes
        )
        write_sessions(self._folder, [*self._before, self.session])

    @contextlib.contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Adds the seconds of a block to a phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self._seconds[phase] = self._seconds.get(phase, 0.0) + spent
