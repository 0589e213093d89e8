"""Predictions on disk: plain columns, one file for each rank, read back image by image."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from detengine.distributed.comm import get_world_size
from detengine.structures.ground_truth import PackedBytes
from detengine.structures.prediction import Prediction
from detengine.structures.rle import RLE

_FORMAT = 1
_OPTIONAL = ("labels", "keypoints", "keypoint_scores")


class PredictionWriter:
    """Collects one rank's predictions and writes them when it is closed: all of them, or no file.

    class_names: the names of the labels 1..K, kept beside the predictions. world_size: how many
    ranks write; None asks the process group. As a context manager it writes at the end of the
    block, unless the block raised.
    """

    def __init__(
        self,
        folder: str | Path,
        class_names: Sequence[str],
        rank: int = 0,
        *,
        world_size: int | None = None,
    ) -> None:
        self._path = _path(Path(folder), rank)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._header = {
            "format": _FORMAT,
            "world_size": get_world_size() if world_size is None else world_size,
            "categories": list(class_names),
        }
        self._image_ids: list[int] = []
        self._predictions: list[Prediction] = []

    def __enter__(self) -> "PredictionWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()

    def add(self, image_id: int, prediction: Prediction) -> None:
        """Take in one image's prediction; its masks are kept as RLEs.

        Raises ValueError if it has other parts (labels, masks, keypoints) than those before it.
        """
        prediction = prediction.encoded()
        if self._predictions:
            parts, first = _parts(prediction), _parts(self._predictions[0])
            if parts != first:
                raise ValueError(
                    f"the prediction of image {image_id} has {', '.join(parts) or 'boxes only'}, "
                    f"that of image {self._image_ids[0]} has {', '.join(first) or 'boxes only'}: "
                    "all predictions in a file must have the same parts, also where N is 0"
                )
        self._image_ids.append(image_id)
        self._predictions.append(prediction)

    def close(self) -> None:
        """Write the file: under another name first, so that no half-written file is ever found."""
        temporary = self._path.with_suffix(".tmp")
        torch.save({**self._header, **_columns(self._image_ids, self._predictions)}, temporary)
        temporary.replace(self._path)


def load_predictions(folder: str | Path) -> Iterator[tuple[int, Prediction]]:
    """Each stored (image_id, Prediction) of all ranks, in the order in which they were made.

    Raises FileNotFoundError if there are none, or one of the ranks' files is missing.
    """
    columns = _load(Path(folder), rank=0)
    for rank in range(columns["world_size"]):
        yield from _predictions_of(columns if rank == 0 else _load(Path(folder), rank))


def load_class_names(folder: str | Path) -> tuple[str, ...]:
    """The names of the labels 1..K of the stored predictions."""
    return tuple(_load(Path(folder), rank=0)["categories"])


def _path(folder: Path, rank: int) -> Path:
    return folder / ("predictions.pth" if rank == 0 else f"predictions_rank{rank}.pth")


def _parts(prediction: Prediction) -> list[str]:
    return [name for name in (*_OPTIONAL, "rles") if getattr(prediction, name) is not None]


def _columns(image_ids: list[int], predictions: list[Prediction]) -> dict[str, Any]:
    """All predictions in one tensor a field; those of image i are `offsets[i]:offsets[i + 1]`."""
    columns: dict[str, Any] = {
        "image_ids": torch.tensor(image_ids, dtype=torch.int64),
        "sizes": torch.tensor([each.size for each in predictions], dtype=torch.int64).view(-1, 2),
        "offsets": torch.tensor([0, *map(len, predictions)]).cumsum(0),
    }
    parts = _parts(predictions[0]) if predictions else []
    for name in ("boxes_xyxy", "scores", *_OPTIONAL):
        given = predictions and (name not in _OPTIONAL or name in parts)
        columns[name] = torch.cat([getattr(p, name) for p in predictions]) if given else None
    columns["rle_bytes"] = columns["rle_offsets"] = None
    if "rles" in parts:
        packed = PackedBytes.from_list([rle["counts"] for p in predictions for rle in p.rles or []])
        columns["rle_bytes"], columns["rle_offsets"] = packed.data, packed.offsets
    return columns


def _load(folder: Path, rank: int) -> dict[str, Any]:
    path = _path(folder, rank)
    if not path.exists():
        raise FileNotFoundError(
            f"there is no {path}: predictions are stored where an evaluation has an output folder, "
            "one file for each rank"
        )
    columns: dict[str, Any] = torch.load(path, weights_only=True)
    if columns.get("format") != _FORMAT:
        raise ValueError(
            f"{path} has the format {columns.get('format')!r}, but this version reads {_FORMAT}"
        )
    return columns


def _predictions_of(columns: dict[str, Any]) -> Iterator[tuple[int, Prediction]]:
    bounds: list[int] = columns["offsets"].tolist()
    masks = None
    if columns["rle_bytes"] is not None:
        masks = PackedBytes(columns["rle_bytes"], columns["rle_offsets"])
    for index, image_id in enumerate(columns["image_ids"].tolist()):
        start, stop = bounds[index : index + 2]
        height, width = columns["sizes"][index].tolist()
        rles: list[RLE] | None = None
        if masks is not None:
            rles = [{"size": [height, width], "counts": masks[n]} for n in range(start, stop)]
        yield (
            image_id,
            Prediction(
                boxes_xyxy=columns["boxes_xyxy"][start:stop],
                scores=columns["scores"][start:stop],
                size=(height, width),
                rles=rles,
                **{
                    name: None if columns[name] is None else columns[name][start:stop]
                    for name in _OPTIONAL
                },
            ),
        )
