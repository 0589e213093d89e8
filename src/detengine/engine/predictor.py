"""A trained model, used on pictures."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from detengine.data.build import build_transforms
from detengine.data.keypoints import COCO_PERSON_MIRROR
from detengine.data.transforms import transform_sample
from detengine.engine.build import build_test_time_augmentation
from detengine.engine.model_mode import model_mode
from detengine.structures.batch import Sample
from detengine.structures.prediction import Prediction

if TYPE_CHECKING:
    from detengine.config.schema import Config


class Predictor:
    """Gives each picture's detections in its own pixels.

    Pictures are resized as in evaluation (INPUT.RESIZE, MIN_SIZE_TEST, MAX_SIZE_TEST), or seen in
    the views of TEST.BBOX_AUG. class_names: of the labels 1..K, for those who want to read them.
    keypoint_flip: of each keypoint the one that takes its place in a mirror, a person's as COCO has
    them unless given, None if that is not known; used where a BUILDER's model sees mirrored views.
    The model is used where it is. Boxes are the model's, rescaled: under
    MODEL.ARITHMETIC.INCLUSIVE_PIXELS x2 and y2 name the last pixel, as in the predecessor.
    """

    def __init__(
        self,
        cfg: "Config",
        model: nn.Module,
        *,
        class_names: Sequence[str] = (),
        keypoint_flip: Sequence[int] | None = COCO_PERSON_MIRROR,
    ) -> None:
        self.model = model
        self.class_names = tuple(class_names)
        self._detector = build_test_time_augmentation(cfg, model, keypoint_flip=keypoint_flip)
        self._stages = build_transforms(cfg, is_train=False)

    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        """Detect in all pictures at once.

        images: uint8[height, width, 3] each, RGB, of any sizes. Returns one Prediction a picture.
        Raises ValueError for anything else.
        """
        samples = [self._sample(image, index) for index, image in enumerate(images)]
        if not samples:
            return []
        device = next(self.model.parameters()).device
        with model_mode(self._detector, training=False), torch.inference_mode():
            outputs = self._detector([sample.image.to(device) for sample in samples])
        return [
            Prediction.from_output(output, _size_of(sample.image), np.shape(image)[:2])
            for output, sample, image in zip(outputs, samples, images, strict=True)
        ]

    def _sample(self, image: NDArray[np.uint8], index: int) -> Sample:
        array = np.asarray(image)
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
            raise ValueError(
                f"picture {index} is {array.dtype}{list(array.shape)}, but uint8[height, width, 3] "
                "in RGB is expected: numpy.asarray(PIL.Image.open(path).convert('RGB')), say"
            )
        tensor = torch.from_numpy(array.transpose(2, 0, 1).copy())
        return transform_sample(Sample(tensor, {}, index), self._stages)


def _size_of(image: Tensor) -> tuple[int, int]:
    return image.shape[-2], image.shape[-1]
