"""A run that reports on itself: its record at the start, its page on the way and at the end.

The record and the page never make a run fail: what goes wrong with them is a warning.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import torch

from detengine.config.load import to_yaml
from detengine.config.schema import Config
from detengine.distributed.comm import is_main_process
from detengine.distributed.failure import FILE_ONLY
from detengine.distributed.report import message_of
from detengine.evaluation.expected import ExpectedResultsError
from detengine.monitor.timer import Stages
from detengine.run_report.record import Recorder, begin_session, now, sha256_of
from detengine.scoring import INFERENCE
from detengine.untrusted.addresses import without_secrets

if TYPE_CHECKING:
    from detengine.report.study import Study
    from detengine.run_report.folder import RunFolder

logger = logging.getLogger("detengine.report")

MOST_SHARE = 0.02
"""Of a training's time, what pages on the way may take."""
_LEAST_SECONDS = 20.0
_FIRST_GUESS = {"page": 0.5, "studies": 3.0}
"""Seconds that a page takes without and with new analyses, until they were measured."""

Seconds = Callable[[], float]


class Report(Protocol):
    """What a run tells of itself, on every rank. It is one of the run's sinks, too."""

    def begin(
        self,
        kind: Literal["train", "eval"],
        cfg: Config,
        folder: Path,
        device: torch.device,
        stages: Stages,
        *,
        start_iter: int = 0,
        weights: str = "",
        checkpoint_seconds: Seconds = float,
    ) -> None:
        """The folder is the run's, and it starts. weights: what it begins with, "" for none."""

    def timed(self, phase: str) -> AbstractContextManager[None]:
        """A block whose seconds count to a phase."""

    def write(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """The metrics after so many finished iterations."""

    def write_pictures(self, iteration: int, pictures: Mapping[str, Path]) -> None:
        """Pictures of predictions, which a page draws for itself."""

    def close(self) -> None:
        """No metrics come any more."""

    def stop(self) -> None:
        """The run was stopped on request."""


class NoReport:
    """Reports nothing: where REPORT is off, and on all ranks but the first."""

    def begin(self, *_: object, **__: object) -> None:
        pass

    def timed(self, phase: str) -> AbstractContextManager[None]:
        return nullcontext()

    def write(self, iteration: int, metrics: Mapping[str, float]) -> None:
        pass

    def write_pictures(self, iteration: int, pictures: Mapping[str, Path]) -> None:
        pass

    def close(self) -> None:
        pass

    def stop(self) -> None:
        pass


@contextmanager
def reported(cfg: Config) -> Iterator[Report]:
    """A block that ends with the run's page, whatever happens in it; called by all ranks.

    The page is written when the other ranks have gone, if this is around what they leave together.
    Where the run did not `begin`, nothing is written.
    """
    if not cfg.REPORT or not is_main_process():
        yield NoReport()
        return
    report = RunReport()
    try:
        yield report
    except ExpectedResultsError as error:
        report.end("finished", str(error))
        raise
    except BaseException as error:
        report.end("failed", message_of(error) or type(error).__name__)
        raise
    else:
        report.end("stopped" if report.is_stopped else "finished")


class RunReport:
    """Keeps a run's record and page up to date, on the main process.

    After an evaluation the page has analyses of the predictions, at log lines none but known ones;
    both only as far as they take MOST_SHARE of the time.
    """

    def __init__(self) -> None:
        self._began = now()
        self._folder: Path | None = None
        self._recorder: Recorder | None = None
        self._iteration = 0
        self._studies: dict[str, tuple[object, Study]] = {}
        self._costs = dict(_FIRST_GUESS)
        self._last = dict.fromkeys(_FIRST_GUESS, time.perf_counter())
        self.is_stopped = False

    def begin(
        self,
        kind: Literal["train", "eval"],
        cfg: Config,
        folder: Path,
        device: torch.device,
        stages: Stages,
        *,
        start_iter: int = 0,
        weights: str = "",
        checkpoint_seconds: Seconds = float,
    ) -> None:
        with self._harmless("the record of the run was not written"):
            session = replace(
                begin_session(kind, device, self._began),
                start_iteration=start_iter,
                iteration=start_iter,
                weights=without_secrets(weights) or None,
                weights_sha256=sha256_of(weights),
                config=None if kind == "train" else to_yaml(cfg),
            )
            self._recorder = Recorder(
                folder,
                session,
                stages,
                anew=kind == "train" and not start_iter,
                counted={"checkpoint": checkpoint_seconds},
            )
            self._folder, self._iteration = folder, start_iter

    def timed(self, phase: str) -> AbstractContextManager[None]:
        return nullcontext() if self._recorder is None else self._recorder.timed(phase)

    def write(self, iteration: int, metrics: Mapping[str, float]) -> None:
        self._iteration = iteration
        is_scored = any(name.startswith("val/") for name in metrics)
        if is_scored and self._can_afford("studies"):
            self._write_page("studies")
        elif is_scored or self._can_afford("page"):
            self._write_page("page")

    def write_pictures(self, iteration: int, pictures: Mapping[str, Path]) -> None:
        pass

    def close(self) -> None:
        pass

    def stop(self) -> None:
        self.is_stopped = True

    def end(
        self, state: Literal["finished", "stopped", "failed"], error: str | None = None
    ) -> None:
        """The last page. Whoever stops a run, or sees it fail, waits for no new analyses."""
        if self._recorder is None:
            return
        with self._harmless("the end of the run was not recorded"):
            self._recorder.write(state=state, error=error, end=now(), iteration=self._iteration)
        path = self._write_page("studies" if state == "finished" else "page")
        if path is not None:
            logger.info("report: %s", path)

    def _can_afford(self, what: str) -> bool:
        waited = time.perf_counter() - self._last[what]
        return waited >= max(_LEAST_SECONDS, self._costs[what] / MOST_SHARE)

    def _write_page(self, what: Literal["page", "studies"]) -> Path | None:
        """Write record and page; what: with new analyses of new predictions, or without.

        The page's path; None where it could not be written.
        """
        if self._recorder is None or self._folder is None:
            return None
        start, path = time.perf_counter(), None
        with self._harmless("the report was not written"), self._recorder.timed("report"):
            # jinja2 and the analyses: imported by a run that writes a page, and by no other
            from detengine.run_report.folder import read_run_folder
            from detengine.run_report.reporting import test_sets_of, write_report

            if self._recorder.session.state == "running":
                self._recorder.write(iteration=self._iteration)
            run = read_run_folder(self._folder)
            studies = [
                self._study(run, each, analyse=what == "studies") for each in test_sets_of(run)
            ]
            path = write_report(self._folder, studies=studies)
        self._last[what] = time.perf_counter()
        self._costs[what] = self._last[what] - start
        return path

    def _study(self, run: "RunFolder", test_set: str, *, analyse: bool) -> "Study":
        """What is known of a test set's predictions as they are, learnt now or before."""
        from detengine.report.study import Study
        from detengine.run_report.study import MOST_DETECTIONS, study

        state = _state_of(run.path / INFERENCE / test_set)
        before, known = self._studies.get(test_set, (None, None))
        if known is not None and before == state:
            return known
        if not analyse:
            why = (
                "its newest predictions are not analysed yet, which happens at the end of the run, "
                "or by `detengine report`"
            )
            return Study(test_set, reasons={"all": why})
        found = study(run.cfg, run.path, test_set, most_detections=MOST_DETECTIONS)
        self._studies[test_set] = state, found
        return found

    @contextmanager
    def _harmless(self, consequence: str) -> Iterator[None]:
        """A block whose errors are a warning, with the traceback in the log file."""
        try:
            yield
        except Exception as error:
            logger.warning("%s: %s", consequence, message_of(error) or type(error).__name__)
            logger.info("how that came about", exc_info=True, extra=FILE_ONLY)


def _state_of(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Another value where there are other predictions."""
    files = [(path.name, path.stat()) for path in sorted(folder.glob("predictions*.pth"))]
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in files)
