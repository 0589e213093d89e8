"""What all ranks do alike about checkpoints: fail, and go on from the same file."""

import os
from pathlib import Path
from typing import Any

from detengine.checkpoint import history
from detengine.checkpoint.entries import with_all_entries
from detengine.checkpoint.files import load_file
from detengine.distributed import comm
from detengine.distributed.report import PeerFailedError


def raise_on_all_ranks(problem: Exception | None, what: str) -> None:
    """Raise a rank's problem there, and on the others a PeerFailedError; a collective.

    what: what the rank could not do, for that message.
    """
    problems = comm.all_gather(None if problem is None else str(problem) or repr(problem))
    if problem is not None:
        raise problem
    for rank, message in enumerate(problems):
        if message is not None:
            raise PeerFailedError(f"rank {rank} {what}: {message}")


def read_newest_on_all_ranks(folder: Path | None) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint of a run's folder that is whole, and its entries.

    Rank 0 finds and verifies it, and removes what a killed run left half written. The others read
    that file; one of each further machine verifies it. Raises as `history.read_newest`, alike on
    all ranks, or where one of them cannot read the file.
    """
    path: Path | None = None
    data: dict[str, Any] = {}
    problem: Exception | None = None
    if comm.is_main_process():
        try:
            path, data = _find(folder)
        except Exception as error:  # raised below, when all ranks know
            problem = error
    path, problem = comm.broadcast((path, problem))
    if path is None:
        raise problem or history.no_run(folder)
    if not comm.is_main_process():
        try:
            data = load_file(path, verify=os.environ.get("LOCAL_RANK") == "0")
        except Exception as error:  # raised below, when all ranks know
            problem = error
    raise_on_all_ranks(problem, f"could not read {path}")
    return path, with_all_entries(path, data)


def _find(folder: Path | None) -> tuple[Path, dict[str, Any]]:
    if folder is None:
        raise history.no_run(folder)
    history.remove_leftovers(folder)
    return history.read_newest(folder, load_file)
