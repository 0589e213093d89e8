"""How a run stands: it runs, has ended, was stopped, has failed, or was killed."""

import os
import platform
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from detengine.output_folder import is_held
from detengine.report.numbers import duration
from detengine.report.page import Status
from detengine.run_report.folder import RunFolder
from detengine.run_report.record import Session


def status_of(run: RunFolder) -> Status:
    """How the run stands; a session without an end is looked after among the processes."""
    if not run.sessions:
        return _status_without_record(run)
    session = run.sessions[-1]
    if session.kind == "eval":
        return _with_state(session, f"A scoring of {session.weights}")
    max_iter = run.cfg.SOLVER.MAX_ITER
    if session.state == "running":  # the metrics may be newer than the record
        session = replace(session, iteration=max(session.iteration, run.history.iteration))
    place = f"iteration {session.iteration:,} of {max_iter:,}"
    if session.state == "finished" and session.iteration < max_iter:
        place = f"ended early, at {place}"
    return _with_state(session, place[0].upper() + place[1:], folder=run.path)


def _with_state(session: Session, place: str, folder: Path | None = None) -> Status:
    since, until = moment(session.start), moment(session.seen)
    took = duration(session.total_seconds)
    if session.state == "running":
        if _is_alive(session, folder):
            return Status("running", f"{place}; started {since}, as of {until}.")
        return Status(
            "interrupted",
            f"{place}, when it was last heard of, {until}. Started {since}; it ended without a "
            "word, as a killed process does.",
        )
    if session.state == "failed":
        return Status("failed", f"{place}, {until}, after {took}.", session.error)
    if session.state == "stopped":
        return Status("stopped", f"{place}, {until}, after {took}. It can be resumed.")
    return Status("finished", f"{place}, {until}, after {took}.", session.error)


def _status_without_record(run: RunFolder) -> Status:
    iteration, max_iter = run.history.iteration, run.cfg.SOLVER.MAX_ITER
    is_done = any(each.name == "model_final.pth" for each in run.checkpoints)
    place = f"Iteration {iteration:,} of {max_iter:,}"
    if is_done:
        return Status("finished", f"{place}.")
    return Status("unknown", f"{place}; nothing in the folder says how it ended.")


def _is_alive(session: Session, folder: Path | None) -> bool:
    """Whether the session's process still runs, as far as this machine can tell."""
    if session.process == os.getpid() and session.host == platform.node():
        return True
    if folder is not None and (held := is_held(folder)) is not None:
        return held
    if session.host != platform.node():
        return True
    try:
        os.kill(session.process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def moment(text: str) -> str:
    """A session's time as a page shows it."""
    return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M:%S")
