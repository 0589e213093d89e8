"""A trained model, used on pictures."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, overload

import torch
from torch import Tensor, nn

from detengine.data.build import build_transforms
from detengine.data.keypoints import COCO_PERSON_MIRROR
from detengine.data.transforms import transform_sample
from detengine.engine.build import build_test_time_augmentation
from detengine.engine.detection_result import DetectionResult
from detengine.engine.model_mode import model_mode
from detengine.engine.pictures import Picture, to_image
from detengine.engine.tiling import Tiling, Window, in_picture, make_tiling, merge_tiles
from detengine.structures.batch import Sample
from detengine.structures.prediction import Prediction

if TYPE_CHECKING:
    from detengine.config.schema import Config

T = TypeVar("T")


class Predictor:
    """Gives each picture's detections in its own pixels.

    Pictures are resized as in evaluation (INPUT.RESIZE, MIN_SIZE_TEST, MAX_SIZE_TEST), or seen in
    the views of TEST.BBOX_AUG. class_names: of the labels 1..K, for those who want to read them.
    keypoint_flip: of each keypoint the one that takes its place in a mirror, a person's as COCO has
    them unless given, None if that is not known; used where a BUILDER's model sees mirrored views.
    batch_size: of how many pictures, or tiles, the model sees at a time; None: all that a call is
    given, and tiles one by one. The model is used where it is.
    continuous_boxes: as an evaluation gives them. Else they are the model's, rescaled: under
    MODEL.ARITHMETIC.INCLUSIVE_PIXELS x2 and y2 name the last pixel, as in the predecessor.
    """

    def __init__(
        self,
        cfg: "Config",
        model: nn.Module,
        *,
        class_names: Sequence[str] = (),
        keypoint_flip: Sequence[int] | None = COCO_PERSON_MIRROR,
        batch_size: int | None = None,
        continuous_boxes: bool = False,
    ) -> None:
        """Raises ValueError for a batch_size below 1."""
        _raise_if_no_batch(batch_size)
        self.model = model
        self.class_names = tuple(class_names)
        self.batch_size = batch_size
        self._detector = build_test_time_augmentation(cfg, model, keypoint_flip=keypoint_flip)
        self._stages = build_transforms(cfg, is_train=False)
        inclusive_pixels = cfg.MODEL.ARITHMETIC.INCLUSIVE_PIXELS
        self._opens_boxes = inclusive_pixels and continuous_boxes
        self._inclusive_results = inclusive_pixels and not continuous_boxes

    @overload
    def __call__(
        self,
        images: Picture,
        *,
        batch_size: int | None = None,
        tile: int | tuple[int, int] | None = None,
        tile_overlap: float = 0.2,
    ) -> DetectionResult: ...
    @overload
    def __call__(
        self,
        images: list[Any] | tuple[Any, ...],
        *,
        batch_size: int | None = None,
        tile: int | tuple[int, int] | None = None,
        tile_overlap: float = 0.2,
    ) -> list[DetectionResult]: ...
    def __call__(
        self,
        images: Picture | list[Any] | tuple[Any, ...],
        *,
        batch_size: int | None = None,
        tile: int | tuple[int, int] | None = None,
        tile_overlap: float = 0.2,
    ) -> DetectionResult | list[DetectionResult]:
        """Detect in one picture, which gives one result, or in a list of them, which gives a list.

        images: a path, a picture of Pillow's, uint8[height, width, 3] of NumPy or uint8[3, height,
        width] of torch, RGB (see `to_image`), or a list or tuple of any of these, of any sizes.
        batch_size: in the place of the predictor's own. tile: the side, or (height, width), of the
        tiles in which a larger picture is seen, overlapping by the fraction tile_overlap; an object
        that fits into the overlap is found whole. What is in each tile is resized as a picture is.
        Raises ValueError or FileNotFoundError, naming the picture, for what is none.
        """
        is_several = isinstance(images, list | tuple)
        pictures: Any = images if is_several else [images]
        results = list(
            self.stream(pictures, batch_size=batch_size, tile=tile, tile_overlap=tile_overlap)
        )
        return results if is_several else results[0]

    def stream(
        self,
        pictures: Iterable[Picture],
        *,
        batch_size: int | None = None,
        tile: int | tuple[int, int] | None = None,
        tile_overlap: float = 0.2,
    ) -> Iterator[DetectionResult]:
        """Each picture's result, in their order, as soon as its batch is done.

        Of any number of pictures, such as a video's, only a batch is in memory. The arguments are
        those of a call.
        """
        _raise_if_no_batch(batch_size)
        tiling = make_tiling(tile, tile_overlap)
        size = batch_size or self.batch_size or (1 if tiling else None)
        return self._stream(pictures, tiling, size)

    def _stream(
        self, pictures: Iterable[Picture], tiling: Tiling | None, batch_size: int | None
    ) -> Iterator[DetectionResult]:
        found: list[Prediction] = []  # in the tiles of a picture that is not done
        for batch in _batches(self._pieces(pictures, tiling), batch_size):
            for piece, prediction in zip(batch, self._detect(batch), strict=True):
                found.append(prediction)
                if piece.is_last:
                    whole = found[0] if len(found) == 1 else merge_tiles(found, piece.windows)
                    yield DetectionResult(
                        whole, self.class_names, piece.source, self._inclusive_results
                    )
                    found = []

    def _pieces(self, pictures: Iterable[Picture], tiling: Tiling | None) -> Iterator["_Piece"]:
        """What the model sees of each picture: the whole, or its tiles."""
        for index, picture in enumerate(pictures):
            image = to_image(picture, index)
            source = Path(picture) if isinstance(picture, str | Path) else image
            size = _size_of(image)
            windows = tiling.windows(size) if tiling else [Window(0, 0, *size)]
            for number, window in enumerate(windows):
                part = image[:, window.top : window.bottom, window.left : window.right]
                sample = transform_sample(Sample(part, {}, index), self._stages)
                yield _Piece(sample.image, source, size, windows, number)

    def _detect(self, pieces: Sequence["_Piece"]) -> Iterator[Prediction]:
        """What is in each of the pieces, in the pixels of its picture."""
        device = next(self.model.parameters()).device
        with model_mode(self._detector, training=False), torch.inference_mode():
            outputs = self._detector([piece.image.to(device) for piece in pieces])
        for piece, output in zip(pieces, outputs, strict=True):
            window = piece.windows[piece.number]
            size = (window.bottom - window.top, window.right - window.left)
            prediction = Prediction.from_output(output, _size_of(piece.image), size)
            if len(piece.windows) > 1:
                prediction = in_picture(prediction, window, piece.size)
                prediction = prediction if self._opens_boxes else prediction.encoded()
            yield prediction.opened() if self._opens_boxes else prediction


class _Piece(NamedTuple):
    """A picture, or one of its tiles, as the model sees it.

    source: the picture's pixels, or its file. size: (height, width) of the picture. number: of the
    piece's window.
    """

    image: Tensor
    source: Tensor | Path
    size: tuple[int, int]
    windows: list[Window]
    number: int

    @property
    def is_last(self) -> bool:
        return self.number == len(self.windows) - 1


def _batches(items: Iterable[T], size: int | None) -> Iterator[list[T]]:
    """So many at a time; None: all at once."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _raise_if_no_batch(batch_size: int | None) -> None:
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected 1 or more, or None for all at once")


def _size_of(image: Tensor) -> tuple[int, int]:
    return image.shape[-2], image.shape[-1]
