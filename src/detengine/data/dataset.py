"""Data sets as the loader sees them: images with their targets, drawn from packed annotations."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from detengine.data.annotations import FEW, image_of_annotation, masks_without_a_pixel
from detengine.data.images import read_image
from detengine.data.keypoints import mirror_of_keypoints
from detengine.data.order import Key
from detengine.data.randomness import seeded
from detengine.data.transforms import transform_sample
from detengine.structures.batch import Sample
from detengine.structures.ground_truth import GroundTruth
from detengine.structures.masks import RunLengthMasks
from detengine.structures.rle_decoding import decode_many
from detengine.structures.target import Target

logger = logging.getLogger(__name__)

_MOST_PIXELS_BEYOND = 1
"""A box may stick out this far without a word: rounding, and formats that count from 0 or 1."""
_ROWS = 1 << 14
"""Annotations that are looked at at a time."""


class DetectionDataset(Dataset[Sample]):
    """One data set's images with the targets that a model trains on, as they are stored.

    Targets hold the annotations that can be trained on: of a class among `class_names`, neither
    crowd nor difficult, with an area (and, with_masks, a mask). Boxes are clipped to their image.
    An image without such annotations has an empty target. Everything is held in a few tensors, so
    that loader workers share it.
    inclusive_pixels: boxes name their first and last pixel, as in the predecessor, x2 and y2 one
    less than in the files; those of one pixel's width or height have no area then.
    """

    def __init__(
        self,
        name: str,
        ground_truth: GroundTruth,
        image_folder: Path,
        class_names: Sequence[str],
        *,
        with_masks: bool = False,
        with_keypoints: bool = False,
        inclusive_pixels: bool = False,
    ) -> None:
        """Raises ValueError if masks or keypoints are asked for and the data set has none."""
        for kind, asked_for, column in (
            ("masks", with_masks, ground_truth.masks),
            ("keypoints", with_keypoints, ground_truth.keypoints),
        ):
            if asked_for and column is None and len(ground_truth.annotation_ids):
                _raise_without(name, kind)
        self.name = name
        self.class_names = tuple(class_names)
        self.image_folder = image_folder
        self.with_masks = with_masks
        self.with_keypoints = with_keypoints
        self.inclusive_pixels = inclusive_pixels
        self._truth = ground_truth
        self._labels = _labels_of(ground_truth, self.class_names)
        self._boxes = torch.empty(len(self._labels), 4)
        for rows, _, clipped in _clipped_boxes(ground_truth):
            if inclusive_pixels:
                clipped -= clipped.new_tensor([0, 0, 1, 1])
            self._boxes[rows] = clipped.float()
        keypoints = ground_truth.keypoints
        self._keypoints = torch.empty(0, 0, 3) if keypoints is None else keypoints.float()
        self._asked_for = (self._labels > 0) & ground_truth.counting
        self._trained_on = self._asked_for & self._has_area() & self._has_mask()

    def __len__(self) -> int:
        return len(self._truth)

    def ground_truth(self) -> GroundTruth:
        return self._truth

    def labels_trained_on(self) -> tuple[Tensor, Tensor]:
        """int64[n] each: the image's index and the label of every annotation in the targets."""
        return image_of_annotation(self._truth)[self._trained_on], self._labels[self._trained_on]

    def __getitem__(self, index: int) -> Sample:
        """Raises ValueError or FileNotFoundError, naming the file, if the image cannot be read."""
        image = self.read_image(index)
        image_id = int(self._truth.image_ids[index])
        return Sample(image, self._target(index, (image.shape[1], image.shape[2])), image_id)

    def read_image(self, index: int) -> Tensor:
        """uint8[3, H, W]. Raises ValueError if it has not the size that its annotations are for."""
        path = self.image_folder / self._truth.file_name(index)
        try:
            image = read_image(path)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{path} does not exist, but data set {self.name!r} lists it (image "
                f"{int(self._truth.image_ids[index])}). Put it there, or take it out of the list."
            ) from error
        height, width = self._truth.image_sizes[index].tolist()
        if tuple(image.shape[1:]) != (height, width):
            raise ValueError(
                f"{path} has {image.shape[2]} x {image.shape[1]} pixels (width x height, upright), "
                f"but data set {self.name!r} gives it {width} x {height}. Was it resized, or "
                "rotated by its EXIF orientation, after it was annotated?"
            )
        return image

    def name_of(self, index: int) -> str:
        """An image, for messages: its id, its file and the data set."""
        path = self.image_folder / self._truth.file_name(index)
        return f"image {int(self._truth.image_ids[index])} ({path}) of data set {self.name!r}"

    def warn_of_what_is_not_trained_on(self) -> None:
        """Log what is amiss with the annotations: one warning for each kind, counted and named."""
        empty = "of at most a pixel's width or height" if self.inclusive_pixels else "without area"
        self._warn(f"have a box {empty} and are not trained on", ~self._has_area())
        if self.with_masks:
            culprits = self._has_area() & ~self._has_mask()
            self._warn("have no mask and are not trained on (MODEL.MASK_ON)", culprits)
            self._warn(
                "have a mask without a pixel, and teach that there is nothing in their boxes",
                masks_without_a_pixel(self._truth),
            )
        beyond = torch.zeros_like(self._asked_for)
        for rows, boxes, clipped in _clipped_boxes(self._truth):
            beyond[rows] = (boxes - clipped).abs().amax(dim=1) > _MOST_PIXELS_BEYOND
        self._warn("reach out of their image by more than a pixel; they are clipped", beyond)

    def _has_area(self) -> Tensor:
        return (self._boxes[:, 2:] > self._boxes[:, :2]).all(dim=1)

    def _has_mask(self) -> Tensor:
        if not self.with_masks or self._truth.masks is None:
            return torch.ones_like(self._asked_for)
        return self._truth.masks.offsets.diff() > 0

    def _warn(self, complaint: str, culprits: Tensor) -> None:
        positions = (self._asked_for & culprits).nonzero()[:, 0]
        if not len(positions):
            return
        image_of = image_of_annotation(self._truth)
        named = [
            f"{int(self._truth.annotation_ids[at])} ({self._truth.file_name(int(image_of[at]))})"
            for at in positions[:FEW].tolist()
        ]
        more = ", ..." if len(positions) > FEW else ""
        logger.warning(
            "%s: %d of %d annotations %s: %s%s",
            self.name,
            len(positions),
            len(self._asked_for),
            complaint,
            ", ".join(named),
            more,
        )

    def _target(self, index: int, size: tuple[int, int]) -> Target:
        here = self._truth.annotations_of(index)
        kept = here.start + self._trained_on[here].nonzero()[:, 0]
        target: Target = {
            "boxes": self._boxes[kept],
            "labels": self._labels[kept],
            "image_size": torch.tensor(size),
            "original_size": torch.tensor(size),
        }
        if self.with_masks:
            target["masks"] = self._masks(kept, size)
        if self.with_keypoints:
            target["keypoints"] = self._keypoints[kept]
        return target

    def _masks(self, positions: Tensor, size: tuple[int, int]) -> RunLengthMasks:
        masks = self._truth.masks
        if masks is None:
            return RunLengthMasks.from_counts([], size)
        runs, offsets = decode_many(*(each.numpy() for each in masks.joined(positions)))
        return RunLengthMasks.from_runs(torch.from_numpy(runs), torch.from_numpy(offsets), size)


class TrainingData(Dataset[Sample]):
    """Several data sets in one, transformed; a sample is a function of (seed, epoch, index)."""

    def __init__(
        self, datasets: Sequence[DetectionDataset], stages: Sequence[v2.Transform], seed: int
    ) -> None:
        self.name = "+".join(dataset.name for dataset in datasets)
        self.class_names = datasets[0].class_names
        self.datasets = tuple(datasets)
        self._stages = tuple(stages)
        self._seed = seed
        self._stops = torch.tensor([len(dataset) for dataset in datasets]).cumsum(0)
        self._keypoint_flips = [
            mirror_of_keypoints(dataset.ground_truth()) if dataset.with_keypoints else None
            for dataset in datasets
        ]
        for dataset in datasets:
            dataset.warn_of_what_is_not_trained_on()

    def __len__(self) -> int:
        return int(self._stops[-1])

    def image_sizes(self) -> Tensor:
        """int64[I, 2], (height, width) of all images in the order of the indices."""
        return torch.cat([dataset.ground_truth().image_sizes for dataset in self.datasets])

    def labels_trained_on(self) -> tuple[Tensor, Tensor]:
        """As DetectionDataset's, of all data sets in the order of the indices."""
        starts = [0, *self._stops.tolist()]
        parts = [dataset.labels_trained_on() for dataset in self.datasets]
        images = [part[0] + start for part, start in zip(parts, starts, strict=False)]
        return torch.cat(images), torch.cat([labels for _, labels in parts])

    def __getitem__(self, key: Key) -> Sample:
        """key: (epoch, index), where an index beyond the images is that of a copy."""
        epoch, index = key
        which, own_index = self._find(index)
        dataset = self.datasets[which]
        sample = dataset[own_index]
        with seeded(self._seed, epoch, index):
            return transform_sample(
                sample,
                self._stages,
                self._keypoint_flips[which],
                inclusive_pixels=dataset.inclusive_pixels,
            )

    def name_of(self, key: Key) -> str:
        """As DetectionDataset's."""
        which, own_index = self._find(key[1])
        return self.datasets[which].name_of(own_index)

    def _find(self, index: int) -> tuple[int, int]:
        """Which data set an image is of, and its index there; of a copy, its image's."""
        index %= len(self)
        which = int(torch.searchsorted(self._stops, index, right=True))
        return which, index - int(self._stops[which]) + len(self.datasets[which])


class EvaluationData(Dataset[Sample]):
    """One data set to be scored: transformed images, whose targets hold the two sizes only.

    with_targets: they hold what is trained on, too, as losses need it.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        stages: Sequence[v2.Transform],
        *,
        with_targets: bool = False,
    ) -> None:
        self.name = dataset.name
        self.class_names = dataset.class_names
        self._dataset = dataset
        self._stages = tuple(stages)
        self._with_targets = with_targets

    def __len__(self) -> int:
        return len(self._dataset)

    def ground_truth(self) -> GroundTruth:
        return self._dataset.ground_truth()

    def __getitem__(self, index: int) -> Sample:
        if self._with_targets:
            sample = self._dataset[index]
            inclusive = self._dataset.inclusive_pixels
            return transform_sample(sample, self._stages, inclusive_pixels=inclusive)
        image = self._dataset.read_image(index)
        size = torch.tensor(image.shape[1:])
        image_id = int(self.ground_truth().image_ids[index])
        sample = Sample(image, {"image_size": size, "original_size": size}, image_id)
        return transform_sample(sample, self._stages)

    def name_of(self, key: Key) -> str:
        """As DetectionDataset's; the index stands in the second place, as in training."""
        return self._dataset.name_of(key[1])


def _labels_of(truth: GroundTruth, class_names: Sequence[str]) -> Tensor:
    """int64[N], 0 for an annotation of another class."""
    label_of_id = dict(sorted(truth.categories.labels_of_ids(class_names).items()))
    if not label_of_id:
        return torch.zeros_like(truth.category_ids)
    ids, labels = torch.tensor(list(label_of_id)), torch.tensor(list(label_of_id.values()))
    places = torch.searchsorted(ids, truth.category_ids).clamp(max=len(ids) - 1)
    return torch.where(ids[places] == truth.category_ids, labels[places], 0)


def _clipped_boxes(truth: GroundTruth) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """float64[n, 4], continuous xyxy; and the same without what lies outside of the image.

    Some rows at a time: of all rows, what is computed on the way would stay in each rank's memory.
    """
    image_of = image_of_annotation(truth)
    for start in range(0, len(image_of), _ROWS):
        rows = slice(start, start + _ROWS)
        corner, extent = truth.boxes_xywh[rows, :2], truth.boxes_xywh[rows, 2:]
        boxes = torch.cat([corner, corner + extent], dim=1)
        sizes_wh = truth.image_sizes[image_of[rows]].flip(1)
        yield rows, boxes, torch.minimum(boxes.clamp(min=0), sizes_wh.repeat(1, 2))


def _raise_without(name: str, kind: str) -> NoReturn:
    key = {"masks": "MODEL.MASK_ON", "keypoints": "MODEL.KEYPOINT_ON"}[kind]
    raise ValueError(
        f"{key} is True, but data set {name!r} has no {kind}: none of its annotations has any. "
        f"Set {key} to False, or give a data set with {kind}."
    )
