"""The annotations of a whole data set in packed columns.

Packed, because a list of Python objects is copied page by page into every loader worker as its
reference counts are touched; as tensors, because those are shared with workers that are not forked.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from detengine.structures.categories import Categories

VOID = -(2**63)
"""The category id of ignored regions that belong to no class."""


@dataclass(frozen=True, eq=False)
class PackedBytes:
    """A list of byte strings in two tensors. data: uint8[sum]; offsets: int64[N + 1]."""

    data: Tensor
    offsets: Tensor

    @classmethod
    def from_list(cls, strings: Sequence[bytes]) -> "PackedBytes":
        lengths = torch.tensor([0, *map(len, strings)], dtype=torch.int64)
        joined = bytearray().join(strings)
        data = torch.frombuffer(joined, dtype=torch.uint8) if joined else torch.empty(0).byte()
        return cls(data, lengths.cumsum(0))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> bytes:
        return self.between(index, index + 1)[0]

    def between(self, first: int, stop: int) -> list[bytes]:
        """The strings at first to stop - 1."""
        bounds = self.offsets[first : stop + 1].tolist()
        data = self.data[bounds[0] : bounds[-1]].numpy().tobytes()
        return [data[a - bounds[0] : b - bounds[0]] for a, b in pairwise(bounds)]

    def joined(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The strings at these positions, one after the other, and their bounds in that."""
        starts = self.offsets[positions]
        lengths = self.offsets[positions + 1] - starts
        bounds = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
        shift = (starts - bounds[:-1]).repeat_interleave(lengths)
        return self.data[torch.arange(len(shift)) + shift], bounds


@dataclass(frozen=True, eq=False)
class PackedIntegers:
    """A list of lists of integers in two tensors. data: int64[sum]; offsets: int64[N + 1]."""

    data: Tensor
    offsets: Tensor

    @classmethod
    def from_lists(cls, lists: Sequence[Sequence[int]]) -> "PackedIntegers":
        lengths = torch.tensor([0, *(len(each) for each in lists)], dtype=torch.int64)
        joined = torch.tensor([value for each in lists for value in each], dtype=torch.int64)
        return cls(joined, lengths.cumsum(0))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> list[int]:
        start, stop = self.offsets[index : index + 2].tolist()
        return self.data[start:stop].tolist()


@dataclass(frozen=True, eq=False)
class FederatedLabels:
    """What is known of the images of a federated data set, in which nobody looked for every class.

    Of a class that is neither annotated in an image nor among its negative ones, nothing is known
    there (Gupta et al., LVIS, arXiv 1908.03195, section 2).

    - negative: for each image, the category ids that are certainly not in it.
    - not_exhaustive: for each image, the category ids of which it may have further objects.
    - frequencies: "r", "c" or "f" (rare, common, frequent) of each class, in the order of
      `GroundTruth.categories`.
    """

    negative: PackedIntegers
    not_exhaustive: PackedIntegers
    frequencies: tuple[str, ...]

    def negative_ids(self, index: int) -> list[int]:
        """The category ids that the index-th image certainly lacks, in the file's order."""
        return self.negative[index]

    def not_exhaustive_ids(self, index: int) -> list[int]:
        """The category ids of which the index-th image may show more than is annotated."""
        return self.not_exhaustive[index]


@dataclass(frozen=True, eq=False)
class IgnoredRegions:
    """The parts of I images in which a detection is no mistake, although no single object is there.

    R regions sorted by image: those of image i are `offsets[i]:offsets[i + 1]`.

    - offsets: int64[I + 1].
    - category_ids: int64[R]; the class of a group whose members are not told apart ("cargroup"), or
      VOID, where it is not known what is there: any class's detection may lie there.
    - masks: R compressed COCO RLEs of the image's size.
    """

    offsets: Tensor
    category_ids: Tensor
    masks: PackedBytes

    @classmethod
    def from_lists(cls, regions: Sequence[Sequence[tuple[int, bytes]]]) -> "IgnoredRegions":
        """regions: of each image, the regions as `of_image` gives them."""
        counts = torch.tensor([0, *map(len, regions)], dtype=torch.int64)
        pairs = [pair for of_image in regions for pair in of_image]
        category_ids = torch.tensor([category_id for category_id, _ in pairs], dtype=torch.int64)
        return cls(counts.cumsum(0), category_ids, PackedBytes.from_list([rle for _, rle in pairs]))

    def of_image(self, index: int) -> list[tuple[int, bytes]]:
        """The category id and the RLE of each region of the index-th image."""
        start, stop = self.offsets[index : index + 2].tolist()
        category_ids = self.category_ids[start:stop].tolist()
        return [
            (category_id, self.masks[row])
            for row, category_id in enumerate(category_ids, start=start)
        ]


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Everything a data set says about its images, exactly as its files say it.

    I images, N annotations sorted by image: those of image i are `offsets[i]:offsets[i + 1]`.
    Numbers keep the file's full precision, so that scores are the reference evaluator's to the bit;
    nothing is dropped or clipped here.

    - image_ids: int64[I], the data set's own, unique.
    - image_sizes: int64[I, 2], (height, width); 0 where the file does not say.
    - file_names: I paths, relative to the image folder.
    - offsets: int64[I + 1].
    - annotation_ids, category_ids: int64[N].
    - boxes_xywh: float64[N, 4]; areas: float64[N] (the mask's area where there is one).
    - is_crowd: bool[N]; counts as neither hit nor miss, is not trained on.
    - is_difficult: bool[N]; PASCAL VOC's flag, treated like a crowd.
    - masks: N compressed COCO RLEs of the image's size, empty bytes for none; None if all are.
    - keypoints: float64[N, J, 3] | None, num_keypoints: int64[N] | None.
    - keypoint_names: J names, empty where the file gives none.
    - federated: what LVIS says beyond that; None where all images were searched for all classes.
    - ignored_regions: None where the data set does not say which they are.
    """

    categories: Categories
    image_ids: Tensor
    image_sizes: Tensor
    file_names: PackedBytes
    offsets: Tensor
    annotation_ids: Tensor
    category_ids: Tensor
    boxes_xywh: Tensor
    areas: Tensor
    is_crowd: Tensor
    is_difficult: Tensor
    masks: PackedBytes | None = None
    keypoints: Tensor | None = None
    num_keypoints: Tensor | None = None
    keypoint_names: tuple[str, ...] = ()
    federated: FederatedLabels | None = None
    ignored_regions: IgnoredRegions | None = None

    def __len__(self) -> int:
        """The number of images."""
        return len(self.image_ids)

    def digest(self) -> str:
        """The sha256 of all that is here: another one where the data set has changed."""
        digest = hashlib.sha256()
        for field in fields(self):
            column = getattr(self, field.name)
            if column is None and field.name in _LATER_FIELDS:
                continue
            digest.update(field.name.encode())
            for part in _parts_of(column):
                digest.update(part)
        return digest.hexdigest()

    def file_name(self, index: int) -> str:
        return self.file_names[index].decode()

    @property
    def counting(self) -> Tensor:
        """bool[N]: hits when they are found, and misses otherwise; no crowds, no difficult ones."""
        return ~self.is_crowd & ~self.is_difficult

    def annotations_of(self, index: int) -> slice:
        """Where the annotations of the index-th image stand in the columns."""
        start, stop = self.offsets[index : index + 2].tolist()
        return slice(start, stop)


_LATER_FIELDS = frozenset({"federated", "ignored_regions"})
"""Without these a data set keeps the digest that it had before they were known."""


def _parts_of(column: Any) -> Iterator[bytes | memoryview]:
    """A column's shape and bytes; what is no tensor as its text."""
    if isinstance(column, IgnoredRegions | FederatedLabels):
        for field in fields(column):
            yield from _parts_of(getattr(column, field.name))
    elif isinstance(column, PackedBytes | PackedIntegers):
        yield from _parts_of(column.offsets)
        yield from _parts_of(column.data)
    elif isinstance(column, Tensor):
        yield f"{column.dtype}{list(column.shape)}".encode()
        yield column.contiguous().numpy().reshape(-1).data
    else:
        yield repr(column).encode()
