"""What torchvision's reference scripts for detection do with their data, for `loader.py`.

Those scripts (references/detection of pytorch/vision: coco_utils, presets, transforms, engine) are
no package. This is retyped from their published behaviour, for their defaults: Pillow decodes, an
image is mirrored in half of the cases, then it is a tensor, then floats in [0, 1]; polygons become
dense masks by pycocotools; a batch is tuples. Two forms of it:

- `ReferenceData`: their default. It makes masks for box detectors, too; `with_masks=False` spares
  it them, which the scripts cannot.
- `reference_data_v2`: their --use-v2 with --backend tensor, on torchvision's own wrapper.

The model's transform is torchvision's own class, as `fasterrcnn_resnet50_fpn` makes it.
"""

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms import functional, v2

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FLIP = 0.5

Pair = tuple[Tensor, dict[str, Tensor]]


class ReferenceData(CocoDetection):  # type: ignore[misc]  # torchvision has no types
    """An image as float32[3, H, W] in [0, 1], and its target with dense masks."""

    def __init__(self, images: Path, annotations: Path, *, with_masks: bool = True) -> None:
        super().__init__(str(images), str(annotations))
        self.with_masks = with_masks

    def __getitem__(self, index: int) -> Pair:
        image, objects = super().__getitem__(index)
        target = self._target(image, objects, self.ids[index])
        if torch.rand(1) < FLIP:
            image, target = functional.hflip(image), _mirrored(target, image.width)
        pixels = functional.pil_to_tensor(image)
        return functional.convert_image_dtype(pixels, torch.float), target

    def _target(
        self, image: Image.Image, objects: list[dict[str, Any]], image_id: int
    ) -> dict[str, Tensor]:
        objects = [each for each in objects if each["iscrowd"] == 0]
        boxes = torch.as_tensor([each["bbox"] for each in objects], dtype=torch.float32)
        boxes = boxes.reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes[:, 0::2].clamp_(min=0, max=image.width)
        boxes[:, 1::2].clamp_(min=0, max=image.height)
        keep = (boxes[:, 3] > boxes[:, 1]) & (boxes[:, 2] > boxes[:, 0])
        labels = torch.tensor([each["category_id"] for each in objects], dtype=torch.int64)
        target = {"boxes": boxes[keep], "labels": labels[keep]}
        if self.with_masks:
            polygons = [each["segmentation"] for each in objects]
            target["masks"] = _dense(polygons, image.height, image.width)[keep]
        target["image_id"] = torch.tensor(image_id)
        target["area"] = torch.tensor([each["area"] for each in objects])
        target["iscrowd"] = torch.tensor([each["iscrowd"] for each in objects])
        return target


def _dense(polygons: list[Any], height: int, width: int) -> Tensor:
    """uint8[N, H, W]: of each object the pixels that are in any of its polygons."""
    masks = []
    for each in polygons:
        decoded = coco_mask.decode(coco_mask.frPyObjects(each, height, width))
        if decoded.ndim < 3:
            decoded = decoded[..., None]
        masks.append(torch.as_tensor(decoded, dtype=torch.uint8).any(dim=2))
    return torch.stack(masks) if masks else torch.zeros((0, height, width), dtype=torch.uint8)


def _mirrored(target: dict[str, Tensor], width: int) -> dict[str, Tensor]:
    target["boxes"][:, [0, 2]] = width - target["boxes"][:, [2, 0]]
    if "masks" in target:
        target["masks"] = target["masks"].flip(-1)
    return target


def reference_data_v2(images: Path, annotations: Path, *, with_masks: bool) -> Dataset[Pair]:
    """The same from `transforms.v2` on tensors."""
    stages = v2.Compose(
        [
            v2.PILToTensor(),
            v2.RandomHorizontalFlip(FLIP),
            v2.ToDtype(torch.float, scale=True),
            v2.ConvertBoundingBoxFormat("XYXY"),
            v2.SanitizeBoundingBoxes(),
            v2.ToPureTensor(),
        ]
    )
    keys = ["boxes", "labels", "image_id", *(["masks"] if with_masks else [])]
    data = CocoDetection(str(images), str(annotations), transforms=stages)
    wrapped: Dataset[Pair] = wrap_dataset_for_transforms_v2(data, target_keys=keys)
    return wrapped


def collate(batch: list[Pair]) -> tuple[Any, ...]:
    return tuple(zip(*batch, strict=True))


def reference_loader(data: Dataset[Pair], batch_size: int, workers: int) -> DataLoader[Any]:
    """Its workers are kept between the rounds, which spares it starting them anew."""
    return DataLoader(
        data,
        batch_size=batch_size,
        sampler=RandomSampler(data),  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=collate,
        persistent_workers=workers > 0,
    )


def reference_transform(min_size: int, max_size: int) -> GeneralizedRCNNTransform:
    return GeneralizedRCNNTransform(min_size, max_size, list(MEAN), list(STD)).train()
