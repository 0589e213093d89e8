"""What lies in a run's folder, as values: read by whoever reports on a run, and by nobody else.

What cannot be read is said in `problems`, and the rest is there.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import orjson

from detengine.config.load import parse_config
from detengine.config.schema import Config
from detengine.monitor.sinks import METRICS
from detengine.output_folder import CONFIG, read_run_config
from detengine.report.history import History, read_history
from detengine.run_report.record import ENVIRONMENT, Session, load_sessions
from detengine.scoring import PER_CLASS, RESULTS

_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ (\S+) (INFO|WARNING|ERROR|CRITICAL): (.*)")
_MOST_LOG_BYTES = 64 << 20

PlainScores = dict[str, dict[str, dict[str, float]]]
"""By test set, task, and metric or class."""


@dataclass(frozen=True)
class Message:
    """A warning or an error of the log. times: how often it was said, word for word."""

    level: str
    source: str
    text: str
    times: int


@dataclass(frozen=True)
class Checkpoint:
    """A file of weights. sha256: as it was written beside it; None where it is not there."""

    name: str
    size: int
    sha256: str | None


@dataclass(frozen=True)
class RunFolder:
    """A run as its folder tells it.

    cfg: of the last session, which made what lies in the folder. sessions: the oldest first; none
    of a run that an earlier version made. problems: what is there and cannot be read.
    """

    path: Path
    cfg: Config
    history: History
    results: PlainScores
    per_class: PlainScores
    sessions: tuple[Session, ...]
    messages: tuple[Message, ...]
    checkpoints: tuple[Checkpoint, ...]
    problems: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def working_folder(self) -> Path | None:
        """Where relative paths of the configuration start, if it is known."""
        return Path(self.sessions[-1].working_folder) if self.sessions else None


def read_run_folder(path: Path) -> RunFolder:
    """All that a folder says of its run.

    Raises FileNotFoundError if it holds none, ConfigError for a configuration that cannot be read.
    """
    problems: list[str] = []
    sessions: list[Session] = []
    try:
        sessions = load_sessions(path)
    except ValueError as error:
        problems.append(str(error))
    history = read_history(path / METRICS)
    if history.unread:
        problems.append(
            f"{history.unread} line{'s' * (history.unread > 1)} of {METRICS} cannot be read: a run "
            "that is killed while it writes leaves a torn one, which the resumed run makes again"
        )
    return RunFolder(
        path=path,
        cfg=_read_config(path, sessions),
        history=history,
        results=_read_scores(path / RESULTS, problems),
        per_class=_read_scores(path / PER_CLASS, problems),
        sessions=tuple(sessions),
        messages=_read_messages(path / "log.txt"),
        checkpoints=_find_checkpoints(path),
        problems=tuple(problems),
    )


def _read_config(path: Path, sessions: list[Session]) -> Config:
    if sessions and sessions[-1].config is not None:
        return parse_config(sessions[-1].config, source=str(path / ENVIRONMENT))
    if not (path / CONFIG).is_file():
        below = sorted(each.parent.name for each in path.glob(f"*/{CONFIG}"))
        raise FileNotFoundError(
            f"{path} holds no run: {CONFIG} is missing. Give the output folder of a training or a "
            "scoring (OUTPUT_DIR)"
            + (f"; below it, {', '.join(below[:10])} may be such." if below else ".")
        )
    return read_run_config(path)


def _read_scores(path: Path, problems: list[str]) -> PlainScores:
    if not path.is_file():
        return {}
    try:
        return {
            test_set: {
                task: {name: float(value) for name, value in metrics.items()}
                for task, metrics in tasks.items()
            }
            for test_set, tasks in orjson.loads(path.read_bytes()).items()
        }
    except orjson.JSONDecodeError as error:
        reason = str(error)
    except (ValueError, TypeError, AttributeError):
        reason = "it does not hold numbers by test set, task and name"
    problems.append(f"{path.name} cannot be read and is left out: {reason}")
    return {}


def _read_messages(path: Path) -> tuple[Message, ...]:
    """The warnings and errors of a log, equal ones once, in the order of their first appearance."""
    if not path.is_file():
        return ()
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _MOST_LOG_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    found: list[tuple[str, str, list[str]]] = []
    current: list[str] | None = None
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is not None:
            source, level, text = match.groups()
            current = [text] if level != "INFO" else None
            if current is not None:
                found.append((level, source, current))
        elif current is not None:
            current.append(line)
    times: dict[tuple[str, str, str], int] = {}
    for level, source, texts in found:
        key = level.lower(), source, "\n".join(texts).strip()
        times[key] = times.get(key, 0) + 1
    return tuple(Message(*key, number) for key, number in times.items())


def _find_checkpoints(folder: Path) -> tuple[Checkpoint, ...]:
    return tuple(
        Checkpoint(path.name, path.stat().st_size, _written_digest(path))
        for path in sorted(folder.glob("model_*.pth"))
    )


def _written_digest(path: Path) -> str | None:
    beside = path.with_name(path.name + ".sha256")
    words = beside.read_text(encoding="utf-8", errors="replace").split() if beside.is_file() else []
    return words[0] if words else None
