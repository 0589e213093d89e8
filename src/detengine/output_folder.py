"""The folder a run writes everything to."""

import os
from pathlib import Path

from detengine.checkpoint.history import has_checkpoint
from detengine.distributed.comm import synchronize


def prepare_output_folder(path: str | Path, *, resume: bool) -> Path:
    """The run's folder, made if need be.

    Raises FileExistsError if it holds a run that is not to be resumed.
    """
    folder = make_output_folder(path)
    synchronize()
    if not resume and has_checkpoint(folder):
        raise FileExistsError(
            f"{folder} holds a run already (its checkpoints). Add --resume to go on with it, or "
            "name another folder by --output-dir (OUTPUT_DIR)."
        )
    return folder


def make_output_folder(path: str | Path) -> Path:
    """The folder, made if need be. Raises OSError, with the cure, where it cannot be written to."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK | os.X_OK)
    except OSError as error:
        raise type(error)(
            f"the output folder {folder} cannot be made: {error.strerror}. "
            "Name another by --output-dir (OUTPUT_DIR)."
        ) from error
    if not writable:
        raise PermissionError(
            f"the output folder {folder} cannot be written to. "
            "Name another by --output-dir (OUTPUT_DIR)."
        )
    return folder
