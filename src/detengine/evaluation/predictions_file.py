"""Predictions on disk, written as they come: plain columns in files of a few megabytes.

Each rank writes its own: `predictions.pth`, then `predictions_0001.pth` and so on; rank 2's are
`predictions_rank2.pth`, `predictions_rank2_0001.pth`. Every file is whole; an image is in one.
"""

import errno
import logging
import re
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from pickle import UnpicklingError
from types import TracebackType
from typing import Any, NamedTuple

import torch

from detengine.disk.writing import naming, remove, whole_file
from detengine.distributed.out_of_memory import is_out_of_memory
from detengine.evaluation.predictions_columns import (
    make_columns,
    parts_of,
    read_columns,
    unfit_columns,
)
from detengine.structures.prediction import Prediction
from detengine.untrusted.disguise import raise_if_disguised
from detengine.untrusted.excerpt import excerpt
from detengine.untrusted.tensors import load_tensors

_FORMAT = 2
_NAME = re.compile(r"predictions(?:_rank(\d+))?(?:_(\d{4,}))?\.pth")

_BYTES_OF_A_FILE = 4 << 20
_SECONDS_OF_A_FILE = 60.0

_logger = logging.getLogger("detengine.scoring")


class PredictionWriter:
    """Writes one rank's predictions, a file whenever 4 MiB or a minute's worth have come together.

    So no more than that is in memory, or lost if the process is killed. A file ends with a batch,
    so that what is gone on with are whole ones (`end_batch`). class_names: the names of
    the labels 1..K, kept beside the predictions. origin: what they are predictions of, for
    `stored_image_ids`. Files that are there already are left alone.
    As a context manager it writes the rest at the end of the block, also if the block raised.
    """

    def __init__(
        self,
        folder: str | Path,
        class_names: Sequence[str],
        rank: int = 0,
        *,
        origin: str = "",
        bytes_of_a_file: int = _BYTES_OF_A_FILE,
    ) -> None:
        self._folder = Path(folder)
        with naming(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        self._rank = rank
        self._header = {"format": _FORMAT, "origin": origin, "categories": list(class_names)}
        self._bytes_of_a_file = bytes_of_a_file
        self._number = 1 + max(
            (each.number for each in _files(folder) if each.rank == rank), default=-1
        )
        self._parts: tuple[int, list[str]] | None = None
        self._start_file()

    def __enter__(self) -> "PredictionWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def add(self, image_id: int, prediction: Prediction) -> None:
        """Take in one image's prediction; its masks are kept as RLEs.

        Raises ValueError if it has other parts (labels, masks, keypoints) than those before it.
        """
        prediction = prediction.encoded()
        self._raise_if_parts_differ(image_id, prediction)
        self._image_ids.append(image_id)
        self._predictions.append(prediction)
        self._bytes += _bytes_of(prediction)

    def end_batch(self) -> None:
        """Write a file, if enough has come together; to be called after each batch of images."""
        if (
            self._bytes >= self._bytes_of_a_file
            or time.monotonic() - self._began >= _SECONDS_OF_A_FILE
        ):
            self._write()

    def close(self) -> None:
        """Write what has not been written; no image at all is a file that only has the classes."""
        if self._image_ids or not self._number:
            self._write()

    def _raise_if_parts_differ(self, image_id: int, prediction: Prediction) -> None:
        parts = parts_of(prediction)
        first_id, first = self._parts = self._parts or (image_id, parts)
        if parts != first:
            raise ValueError(
                f"the prediction of image {image_id} has {', '.join(parts) or 'boxes only'}, "
                f"that of image {first_id} has {', '.join(first) or 'boxes only'}: "
                "all predictions in a file must have the same parts, also where N is 0"
            )

    def _write(self) -> None:
        """Under another name first, so that no half-written file is ever found."""
        path = self._folder / _file_name(self._rank, self._number)
        content = {**self._header, **make_columns(self._image_ids, self._predictions)}
        with whole_file(path) as aside, aside.open("wb") as file:
            torch.save(content, file)
        self._number += 1
        self._start_file()

    def _start_file(self) -> None:
        self._image_ids: list[int] = []
        self._predictions: list[Prediction] = []
        self._bytes = 0
        self._began = time.monotonic()


def load_predictions(
    path: str | Path, *, share: tuple[int, int] = (0, 1)
) -> Iterator[tuple[int, Prediction]]:
    """Each stored (image_id, Prediction), rank by rank in the order in which they were made.

    path: the folder, or one of its files. share: (rank, ranks), of the files those of this rank.
    Which files there are is looked up at once; each is read when its turn comes. Raises
    FileNotFoundError if there are none, ValueError, naming the file, if one is damaged.
    """
    rank, ranks = share
    files = _files_at(Path(path))[rank::ranks]
    return (pair for file in files for pair in read_columns(_load(file)))


def load_class_names(path: str | Path) -> tuple[str, ...]:
    """The names of the labels 1..K of the stored predictions, at a folder or a file."""
    return tuple(_load(_files_at(Path(path))[0])["categories"])


def stored_image_ids(folder: str | Path, origin: str) -> list[int] | None:
    """Which images have stored predictions; None if there are none, or of another origin.

    None, too, with a warning, where a file is damaged or another version's.
    """
    image_ids: list[int] = []
    for file in _files(folder):
        try:
            columns = _load(file.path)
        except ValueError as error:
            _logger.warning("no prediction in %s is gone on with: %s", folder, error)
            return None
        if columns["origin"] != origin:
            return None
        image_ids += columns["image_ids"].tolist()
    return image_ids or None


def remove_predictions(folder: str | Path) -> int:
    """Remove all stored predictions, and give the number of their files; other files stay."""
    files = _files(folder)
    for file in files:
        remove(file.path)
    return len(files)


def remove_leftovers(folder: str | Path) -> None:
    """Remove what a process that was killed has half written; while nobody writes there."""
    for pattern in ("predictions*.tmp", "*.json.tmp"):
        for path in Path(folder).glob(pattern):
            path.unlink(missing_ok=True)


class _File(NamedTuple):
    rank: int
    number: int
    path: Path


def _files(folder: str | Path) -> list[_File]:
    """The files of predictions in a folder, rank by rank in their order."""
    found = []
    for path in Path(folder).glob("predictions*.pth"):
        match = _NAME.fullmatch(path.name)
        if match is not None:
            found.append(_File(int(match[1] or 0), int(match[2] or 0), path))
    return sorted(found)


def _files_at(path: Path) -> list[Path]:
    files = [path] if path.is_file() else [file.path for file in _files(path)]
    if not files:
        raise FileNotFoundError(
            f"there are no predictions at {path}: expected {_file_name(0, 0)} in it, or its path. "
            "An evaluation stores them in OUTPUT_DIR/inference/TEST_SET."
        )
    return files


def _file_name(rank: int, number: int) -> str:
    of_rank = f"_rank{rank}" if rank else ""
    return f"predictions{of_rank}{f'_{number:04}' if number else ''}.pth"


def _bytes_of(prediction: Prediction) -> int:
    tensors = (prediction.boxes_xyxy, prediction.scores, prediction.labels, prediction.keypoints)
    masks = sum(len(rle["counts"]) for rle in prediction.rles or ())
    return masks + sum(tensor.nbytes for tensor in tensors if tensor is not None)


def _load(path: Path) -> dict[str, Any]:
    """The columns of a file; ValueError, naming it, if it is damaged or none of predictions."""
    columns = _read(path)
    raise_if_disguised(path, columns)
    given = columns.get("format") if type(columns) is dict else type(columns).__name__
    if type(given) is not int or given != _FORMAT:
        raise ValueError(
            f"{path} has the format {excerpt(given)}, but this version reads {_FORMAT}"
        )
    if unfit := unfit_columns(columns):
        raise ValueError(
            f"{path} is no file of predictions: {', '.join(unfit)} must be there, of the types and "
            "lengths that PredictionWriter gives them"
        )
    return dict(columns)


def _read(path: Path) -> Any:
    """What torch.save wrote. torch reads past a flipped bit: the archive's checksums find it."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        content: Any = None if damaged else load_tensors(path)
    except UnpicklingError as error:  # torch's text advises to run what is in the file
        raise ValueError(
            f"{path} is no file of predictions: it holds other things than numbers and text"
        ) from error
    except Exception as error:  # whatever strange bytes make the two readers raise
        if is_out_of_memory(error) or (isinstance(error, OSError) and error.errno != errno.EINVAL):
            raise  # EINVAL is for an archive's place before the file's first byte
        why = [*str(error).splitlines(), "it is empty"][0]
        raise ValueError(
            f"{path} is no file of predictions, or it is damaged: {why}. Expected a .pth file that "
            "an evaluation wrote, or COCO's results in a .json file."
        ) from error
    if damaged:
        raise ValueError(
            f"{path} is damaged: its part {damaged} is not what was written (its checksum "
            "differs). Copy the file again, or predict again."
        )
    return content
