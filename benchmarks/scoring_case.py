"""Objects and detections of synthetic images, for scoring.py: boxes with sides like COCO's.

Sides `coco` are drawn from COCO's distribution: the square root of an object's share of the image
is 0.024 at the first decile, 0.106 at the median and 0.472 at the last (Singh and Davis, "An
Analysis of Scale Invariance in Object Detection", CVPR 2018). A lognormal of median 0.106 and sigma
1.16 meets all three within 1 %; with masks of 6/10 of their box it has 38 % small and 26 % large
objects in images of 480x640, where COCO says of itself 41 % and 24 %. The ratio of the sides is
lognormal around 1 with sigma 0.6, which is an assumption; so is what masks look like, blobs of
noisy outline. Seven objects an image, as COCO val2017 has. Any other `sides` is that part of the
image's height and width.
"""

from typing import Any

import torch
from scaling import make_masks
from torch import Tensor

from detengine.structures.categories import Categories
from detengine.structures.ground_truth import GroundTruth, PackedBytes
from detengine.structures.mask_encoding import encode_mask_probs

OBJECTS, CLASSES = 7, 80
MEDIAN_SHARE, SIGMA, SIGMA_OF_RATIO = 0.106, 1.16, 0.6
Size = tuple[int, int]
Objects = dict[str, Any]


def make_boxes(count: int, size: Size, sides: str, generator: torch.Generator) -> Tensor:
    """float32[count, 4], within the image. sides: "coco", or the part of the image's sides."""
    image = torch.tensor([size[1], size[0]], dtype=torch.float32)
    if sides == "coco":
        share, ratio = torch.randn(2, count, generator=generator)
        side = MEDIAN_SHARE * (SIGMA * share).exp() * image.prod().sqrt()
        skew = (SIGMA_OF_RATIO / 2 * ratio).exp()
        extent = torch.stack([side * skew, side / skew], dim=1).clamp(min=1).minimum(image)
    else:
        part, whole = map(int, sides.split("/"))
        extent = (image * part / whole).expand(count, 2)
    corners = torch.rand(count, 2, generator=generator) * (image - extent)
    return torch.cat([corners, corners + extent], dim=1)


def make_image(image: int, size: Size, sides: str, *, detections: int) -> tuple[Objects, Objects]:
    """Objects, and a model's output of which the first detections are the objects, a bit off."""
    generator = torch.Generator().manual_seed(image)
    boxes = make_boxes(OBJECTS, size, sides, generator)
    labels = torch.randint(1, CLASSES + 1, (OBJECTS,), generator=generator)
    found = make_boxes(detections, size, sides, generator)
    off = 0.08 * (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    found[:OBJECTS] = boxes + off * torch.randn(OBJECTS, 4, generator=generator)
    found[:OBJECTS, 2:] = found[:OBJECTS, 2:].maximum(found[:OBJECTS, :2] + 1)
    found_labels = torch.randint(1, CLASSES + 1, (detections,), generator=generator)
    found_labels[:OBJECTS] = labels
    scores = torch.rand(detections, generator=generator)
    output = {"boxes": found, "scores": scores, "labels": found_labels}
    return {"boxes": boxes, "labels": labels}, output


def add_masks(objects: Objects, output: Objects, image: int, size: Size) -> None:
    """The objects' as RLE, the output's as a network gives them."""
    generator = torch.Generator().manual_seed(1_000_000 + image)
    masks = make_masks(OBJECTS, generator)
    objects["rles"] = encode_mask_probs(masks, objects["boxes"], size)
    output["mask_probs"] = make_masks(len(output["scores"]), generator)


def truth_of(objects: list[Objects], size: Size) -> GroundTruth:
    """As `data.coco` would read it."""
    count = len(objects) * OBJECTS
    boxes = torch.cat([each["boxes"] for each in objects]).double()
    boxes[:, 2:] -= boxes[:, :2]
    strings = [rle["counts"] for each in objects for rle in each.get("rles", ())]
    names = tuple(f"class {k}" for k in range(1, CLASSES + 1))
    return GroundTruth(
        categories=Categories(names, tuple(range(1, CLASSES + 1))),
        image_ids=torch.arange(len(objects)),
        image_sizes=torch.tensor([size] * len(objects)),
        file_names=PackedBytes.from_list([b"none.jpg"] * len(objects)),
        offsets=torch.arange(0, count + 1, OBJECTS),
        annotation_ids=torch.arange(count) + 1,
        category_ids=torch.cat([each["labels"] for each in objects]),
        boxes_xywh=boxes,
        areas=boxes[:, 2] * boxes[:, 3],
        is_crowd=torch.zeros(count, dtype=torch.bool),
        is_difficult=torch.zeros(count, dtype=torch.bool),
        masks=PackedBytes.from_list(strings) if strings else None,
    )


def coco_of(truth: GroundTruth) -> dict[str, Any]:
    """The same as a COCO file's content."""
    images = torch.arange(len(truth)).repeat_interleave(OBJECTS).tolist()
    columns = {
        "id": truth.annotation_ids.tolist(),
        "image_id": images,
        "category_id": truth.category_ids.tolist(),
        "bbox": truth.boxes_xywh.tolist(),
        "area": truth.areas.tolist(),
        "iscrowd": [0] * len(images),
    }
    if truth.masks is not None:
        sizes = truth.image_sizes[images].tolist()
        columns["segmentation"] = [
            {"size": size, "counts": truth.masks[row]} for row, size in enumerate(sizes)
        ]
    rows = zip(*columns.values(), strict=True)
    return {
        "images": [
            {"id": n, "height": height, "width": width}
            for n, (height, width) in enumerate(truth.image_sizes.tolist())
        ],
        "categories": [{"id": k, "name": f"class {k}"} for k in range(1, CLASSES + 1)],
        "annotations": [dict(zip(columns, row, strict=True)) for row in rows],
    }
