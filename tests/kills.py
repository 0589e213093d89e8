"""Trainings killed at chosen moments, what they were doing then, and how they end."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from signal import SIGCONT, SIGKILL, SIGSTOP
from typing import Any

import torch

from detengine.checkpoint.files import load_file
from detengine.evaluation.predictions_file import load_predictions
from processes import Process

PHASES = ("start-up", "training", "saving", "scoring", "reporting")
"""What can be aimed at. One that is there by the time that the process is held may be another."""
ENDED = "ended before"
PARTING_SECONDS = 30.0
"""What a rank may take to notice that another one is gone, and to end."""

_MARKS = {
    "Start training": "training",
    "iter: ": "training",
    "Start evaluation": "scoring",
    "Total training time": "reporting",
}


class Start:
    """One start of a run, which goes on with what there is, on so many processes."""

    def __init__(self, run: Any, ranks: int, *, scored: bool) -> None:
        self.run, self.ranks = run, ranks
        self._logged = len(run.log())
        self._old = set(self._halves())
        self.processes: list[Process] = run.start_ranks(ranks, resume=True, scored=scored)

    def kill(self, aim: str, moments: Random, seconds: float) -> tuple[str, list[int]]:
        """Kill some of the processes, at least one; gives the phase, and all exit codes.

        aim: of PHASES. seconds: what an unbroken run takes.
        """
        self._wait_for(aim, moments, seconds)
        whom = list(range(self.ranks))
        if self.ranks > 1 and self.log():  # before that, they have not met: nobody could notice
            whom = moments.choice([[0], [1], [0, 1]])
        for process in self.processes:
            process.signal(SIGSTOP)
        phase = self.phase()
        for rank in whom:
            self.processes[rank].signal(SIGKILL)
        for process in self.processes:
            process.signal(SIGCONT)
        codes = [process.wait(PARTING_SECONDS) for process in self.processes]
        may_be_done = phase in (ENDED, "reporting")
        for rank, code in enumerate(codes):
            by_itself = () if phase == ENDED else (1,)
            expected = (-SIGKILL,) if rank in whom else by_itself
            assert code in (*expected, *[0] * may_be_done), (codes, whom, self.run.output())
        return phase, codes

    def log(self) -> str:
        """What this start has logged so far."""
        return str(self.run.log()[self._logged :])

    def phase(self) -> str:
        """What it is doing, by its files and its log."""
        if all(map(_has_ended, self.processes)):
            return ENDED
        halves = {name for name, _ in set(self._halves()) - self._old}
        if any(name.startswith(("model_", "last_checkpoint")) for name in halves):
            return "saving"
        log = self.log()
        last = max(_MARKS, key=log.rfind)
        return _MARKS[last] if last in log else "start-up"

    def _wait_for(self, aim: str, moments: Random, seconds: float) -> None:
        if aim == "start-up":
            time.sleep(moments.uniform(0, 0.4))
            return
        begins = {"scoring": "Start evaluation", "reporting": "Total training time"}
        self._until(lambda: begins.get(aim, "Start training") in self.log())
        if aim in ("training", "saving"):
            share = 0.7 if aim == "training" else 0.4
            self._until(lambda: False, moments.uniform(0, share) * seconds)
        if aim == "saving":
            self._until(lambda: not self._old.issuperset(self._halves()), pause=0.0)
        elif aim != "training":
            time.sleep(moments.uniform(0, 0.1))

    def _until(
        self, holds: Callable[[], bool], seconds: float = 60.0, *, pause: float = 0.002
    ) -> None:
        """Until it holds, the processes have ended, or the time is over."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not holds():
            if all(map(_has_ended, self.processes)):
                return
            time.sleep(pause)

    def _halves(self) -> Iterator[tuple[str, int]]:
        """The files that are being written, or were when a process was killed: name and inode."""
        for path in Path(self.run.folder).glob("*.tmp"):
            try:
                yield path.name, path.stat().st_ino
            except FileNotFoundError:
                continue


def _has_ended(process: Process) -> bool:
    try:
        return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def kill_again_and_again(
    run: Any, aims: Sequence[str], moments: Random, *, seconds: float, ranks: int, scored: bool
) -> Counter[str]:
    """Kill a run as often as there are aims, each time resumed; and let it end. Gives the phases.

    One that has ended is resumed like the others.
    """
    phases: Counter[str] = Counter()
    for aim in aims:
        phase, _ = Start(run, ranks, scored=scored).kill(aim, moments, seconds)
        phases[phase] += 1
    assert run.train_ranks(ranks, resume=True, scored=scored) == [0] * ranks, run.output()
    return phases


def in_words(phases: Counter[str]) -> str:
    """'30 kills: 12 training, 9 saving, ...'."""
    kills = {name: count for name, count in phases.items() if name != ENDED}
    listed = ", ".join(f"{kills[name]} {name}" for name in PHASES if name in kills)
    return f"{sum(kills.values())} kills: {listed}"


def scores_differ(run: Any, expected: Any) -> list[str]:
    """Which of the results of two runs that have ended are not the same, to the last bit."""
    found = [
        name
        for name in ("results.json", "per_class.json")
        if (run.folder / name).read_bytes() != (expected.folder / name).read_bytes()
    ]
    if run.metrics("val/") != expected.metrics("val/"):
        found.append("metrics.jsonl")
    for folder in sorted((expected.folder / "inference").iterdir()):
        if not _same_predictions(run.folder / "inference" / folder.name, folder):
            found.append(f"predictions of {folder.name}")
        for path in folder.glob("*.json"):
            ours, theirs = (
                json.loads(each.read_text())
                for each in (run.folder / "inference" / folder.name / path.name, path)
            )
            if sorted(ours, key=repr) != sorted(theirs, key=repr):
                found.append(path.name)
    best = expected.folder / "model_best.pth"
    if best.exists():
        ours, theirs = (load_file(each) for each in (run.folder / best.name, best))
        same = all(
            torch.equal(ours["model"][name], theirs["model"][name]) for name in ours["model"]
        )
        if not same or ours["iteration"] != theirs["iteration"]:
            found.append(best.name)
    return found


def _same_predictions(one: Path, other: Path) -> bool:
    ours, theirs = dict(load_predictions(one)), dict(load_predictions(other))
    return ours.keys() == theirs.keys() and all(
        torch.equal(ours[key].boxes_xyxy, theirs[key].boxes_xyxy)
        and torch.equal(ours[key].scores, theirs[key].scores)
        for key in ours
    )
