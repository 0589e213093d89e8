"""What a detector found in one picture, for its user: to read, to filter, to draw, to hand on."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from detengine.data.images import read_image
from detengine.data.keypoints import skeleton_of
from detengine.evaluation.coco_results import coco_entries
from detengine.report.draw import draw_prediction
from detengine.structures.masks import RunLengthMasks
from detengine.structures.prediction import Prediction
from detengine.structures.rle import RLE, decode_counts

if TYPE_CHECKING:
    from supervision import Detections

PROPOSAL = "object"
"""What a detection without a class is called."""
_KEYPOINT_THRESHOLD = 2.0
"""Of a keypoint's score, a logit: from where on Detectron draws one (utils/vis.py, kp_thresh)."""


class Detection(NamedTuple):
    """One of a result's detections. box_xyxy: pixels of the picture; keypoints: float[J, 3]."""

    class_name: str
    score: float
    box_xyxy: tuple[float, float, float, float]
    rle: RLE | None
    keypoints: Tensor | None


@dataclass(frozen=True, eq=False, repr=False)
class DetectionResult:
    """N detections of one picture, the best first, in its own pixels.

    - prediction: as the model gave it, rescaled; its columns are this value's, too.
    - classes: the names of the labels 1..K, as far as they are known.
    - source: the picture, uint8[3, H, W], or its file, which is read again to be drawn.
    - inclusive_pixels: boxes_xyxy name their last pixel, as the predecessor's do; what is handed on
      (`to_coco`, `to_supervision`) is continuous all the same.
    """

    prediction: Prediction
    classes: tuple[str, ...]
    source: Tensor | Path
    inclusive_pixels: bool = False

    def __len__(self) -> int:
        return len(self.prediction)

    @property
    def boxes_xyxy(self) -> Tensor:
        """float32[N, 4]"""
        return self.prediction.boxes_xyxy

    @property
    def scores(self) -> Tensor:
        """float32[N]"""
        return self.prediction.scores

    @property
    def labels(self) -> Tensor | None:
        """int64[N], 1..K; None for proposals."""
        return self.prediction.labels

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the picture, upright."""
        return self.prediction.size

    @property
    def mask_probs(self) -> Tensor | None:
        """float32[N, M, M], each inside its box; None where there are no masks, or only RLEs."""
        return self.prediction.mask_probs

    @property
    def keypoints(self) -> Tensor | None:
        """float32[N, J, 3] as x, y, visibility."""
        return self.prediction.keypoints

    @property
    def keypoint_scores(self) -> Tensor | None:
        """float32[N, J]"""
        return self.prediction.keypoint_scores

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Each detection's class; its label, where that has no name."""
        if self.labels is None:
            return (PROPOSAL,) * len(self)
        return tuple(map(self._name_of, self.labels.tolist()))

    @cached_property
    def rles(self) -> list[RLE] | None:
        """N masks of the whole picture, run-length encoded as COCO's; None without masks."""
        return self._continuous.rles

    @cached_property
    def masks(self) -> Tensor | None:
        """bool[N, H, W], made when it is first asked for; None where the model gives no masks."""
        if self.rles is None:
            return None
        counts = [torch.from_numpy(decode_counts(rle["counts"])) for rle in self.rles]
        return RunLengthMasks.from_counts(counts, self.size).dense().bool()

    @property
    def image(self) -> Tensor:
        """uint8[3, H, W], RGB. Raises as `read_image` if its file is no longer there."""
        return read_image(self.source) if isinstance(self.source, Path) else self.source

    @property
    def path(self) -> Path | None:
        """The picture's file; None for one that was given as pixels."""
        return self.source if isinstance(self.source, Path) else None

    def __iter__(self) -> Iterator[Detection]:
        rles: Sequence[RLE | None] = self.rles or [None] * len(self)
        points: Any = [None] * len(self) if self.keypoints is None else self.keypoints
        rows = zip(self.class_names, self.scores.tolist(), self.boxes_xyxy.tolist(), strict=True)
        for (name, score, box), rle, keypoints in zip(rows, rles, points, strict=True):
            yield Detection(name, score, tuple(box), rle, keypoints)

    def filtered(
        self, score_threshold: float = 0.0, *, classes: Collection[str] | None = None
    ) -> "DetectionResult":
        """The detections from a score on, and of some classes. classes: names; None for all.

        Raises ValueError for a name that is none of the model's.
        """
        kept = self.scores >= score_threshold
        if classes is not None:
            self._raise_if_unknown(classes)
            kept &= torch.tensor([name in classes for name in self.class_names], dtype=torch.bool)
        return replace(self, prediction=self.prediction.select(kept.nonzero()[:, 0]))

    def draw(
        self,
        score_threshold: float = 0.5,
        *,
        scale: float | None = None,
        colours: Sequence[int] | None = None,
        keypoint_threshold: float = _KEYPOINT_THRESHOLD,
    ) -> Image.Image:
        """The picture with what was found from a score on: masks, else boxes; keypoints.

        scale, colours: as `draw_prediction`. keypoint_threshold: from which score, a logit, a
        keypoint is drawn. A person's 17 keypoints of COCO are connected.
        """
        shown = self.filtered(score_threshold)
        labels = shown.labels
        if labels is None:
            labels = torch.ones(len(shown), dtype=torch.int64)
        keypoints, skeleton = shown._visible_keypoints(keypoint_threshold)
        return draw_prediction(
            self.image,
            shown.boxes_xyxy,
            labels,
            shown._names(),
            shown.scores,
            masks=shown.rles,
            keypoints=keypoints,
            skeleton=skeleton,
            colours=colours,
            scale=scale,
        )

    def to_coco(
        self, image_id: int, *, category_ids: Mapping[str, int] | None = None
    ) -> list[dict[str, Any]]:
        """Entries of a COCO result file: bbox as x, y, width, height, segmentation, keypoints.

        category_ids: by class name, a data set's; None for the labels. Raises ValueError where a
        class of the detections is not among them.
        """
        categories: list[int | None] = list(range(self._most_labels() + 1))
        if category_ids is not None:
            _raise_if_missing(self.class_names, category_ids)
            categories = [None, *map(category_ids.get, self._names())]
        found = self._continuous
        parts = {"bbox": True, "segm": found.rles, "keypoints": found.keypoints}
        iou_types = [iou_type for iou_type, part in parts.items() if part is not None]
        return list(coco_entries(image_id, found, iou_types, categories))

    def to_supervision(self) -> "Detections":
        """The same as supervision.Detections; class_id is label - 1, the class's place in classes.

        Raises ImportError, with the command, where supervision is not installed.
        """
        try:
            from supervision import Detections
        except ImportError as error:
            raise ImportError(
                "to_supervision() gives a value of the package supervision, which is not "
                "installed; `pip install supervision`"
            ) from error
        found = self._continuous
        labels = np.ones(len(self)) if found.labels is None else found.labels.numpy()
        return Detections(
            xyxy=found.boxes_xyxy.numpy(),
            mask=None if self.masks is None else self.masks.numpy(),
            confidence=found.scores.numpy(),
            class_id=labels.astype(np.int64) - 1,
            data={"class_name": np.array(self.class_names, dtype=np.str_)},
        )

    def __str__(self) -> str:
        """How many of each class, the most frequent first: "3 person, 1 dog"."""
        counted = Counter(self.class_names).most_common()
        return ", ".join(f"{count} {name}" for name, count in counted) or "nothing"

    def __repr__(self) -> str:
        height, width = self.size
        scores = self.scores.tolist()
        span = f", scores {min(scores):.2f} to {max(scores):.2f}" if scores else ""
        has_masks = self.mask_probs is not None or self.prediction.rles is not None
        parts = ", with masks" * has_masks + ", with keypoints" * (self.keypoints is not None)
        return f"<{self} in {width} x {height} pixels{span}{parts}>"

    def _repr_png_(self) -> bytes:
        """For notebooks: `draw()`."""
        file = BytesIO()
        self.draw().save(file, "PNG")
        return file.getvalue()

    @cached_property
    def _continuous(self) -> Prediction:
        """With continuous boxes, and masks as RLEs."""
        return self.prediction.opened() if self.inclusive_pixels else self.prediction.encoded()

    def _name_of(self, label: int) -> str:
        if self.labels is None:
            return PROPOSAL
        return self.classes[label - 1] if label <= len(self.classes) else str(label)

    def _most_labels(self) -> int:
        """K, or the highest label, if that is more."""
        highest = 1 if self.labels is None or not len(self) else int(self.labels.max())
        return max(len(self.classes), highest)

    def _names(self) -> list[str]:
        """Of the labels 1..K."""
        if self.labels is None:
            return [PROPOSAL]
        return [self._name_of(label) for label in range(1, self._most_labels() + 1)]

    def _visible_keypoints(
        self, threshold: float
    ) -> tuple[Tensor | None, Sequence[tuple[int, int]]]:
        if self.keypoints is None:
            return None, ()
        points = self.keypoints.clone()
        if self.keypoint_scores is not None:
            points[..., 2] *= self.keypoint_scores >= threshold
        return points, skeleton_of(points.shape[1])

    def _raise_if_unknown(self, classes: Collection[str]) -> None:
        if isinstance(classes, str):
            raise ValueError(f"classes is {classes!r}; expected a list of names: [{classes!r}]")
        unknown = sorted(set(classes) - set(self.classes) - set(self.class_names))
        if unknown:
            raise ValueError(
                f"{', '.join(map(repr, unknown))}: no class of the model, which has "
                f"{', '.join(self.classes) or 'no names of any'}"
            )


def _raise_if_missing(class_names: Sequence[str], category_ids: Mapping[str, int]) -> None:
    missing = sorted(set(class_names) - set(category_ids))
    if missing:
        raise ValueError(
            f"category_ids gives no id to {', '.join(map(repr, missing))}, which was found; it has "
            f"{', '.join(category_ids) or 'none at all'}. Give each class one, or leave the others "
            "out first, by filtered(classes=[...])."
        )
