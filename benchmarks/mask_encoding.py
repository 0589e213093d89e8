"""How fast 28x28 masks become RLEs: ours, and pasting into the image and encoding that.

    python benchmarks/mask_encoding.py

Both take turns in the same process on the same 100 detections, whose sides are spread like COCO's;
the strings are compared first. The last line is JSON: medians in milliseconds, and their ratio.
"""

import json
import math
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image

from detengine.structures.rle import RLE, encode_mask_probs

SIZES = ((480, 640), (800, 1333))
DETECTIONS = 100
ROUNDS = 9

Encode = Callable[[Tensor, Tensor, tuple[int, int]], list[RLE]]


def paste_and_encode(mask_probs: Tensor, boxes_xyxy: Tensor, size: tuple[int, int]) -> list[RLE]:
    """The usual way: a full image for each mask."""
    pasted = paste_masks_in_image(mask_probs[:, None], boxes_xyxy, size)[:, 0] > 0.5
    return [coco_mask.encode(np.asfortranarray(mask.numpy(), dtype=np.uint8)) for mask in pasted]


def make_detections(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Blobs of noisy outline, in boxes whose median side is an eighth of the image's height."""
    generator = torch.Generator().manual_seed(0)
    image = torch.tensor([size[1], size[0]], dtype=torch.float32)
    spread = torch.randn(DETECTIONS, 2, generator=generator)
    sides = torch.minimum((math.log(size[0] / 8) + 0.9 * spread).exp(), image)
    corners = torch.rand(DETECTIONS, 2, generator=generator) * (image - sides)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 28), torch.linspace(-1, 1, 28), indexing="ij")
    noise = torch.randn(DETECTIONS, 28, 28, generator=generator)
    mask_probs = (8 * (0.9 - x**2 - y**2) + 0.5 * noise).sigmoid()
    return mask_probs, torch.cat([corners, corners + sides], dim=1)


def milliseconds(encode: Encode, mask_probs: Tensor, boxes: Tensor, size: tuple[int, int]) -> float:
    start = time.perf_counter()
    encode(mask_probs, boxes, size)
    return 1e3 * (time.perf_counter() - start)


def main() -> None:
    report = {}
    for size in SIZES:
        mask_probs, boxes = make_detections(size)
        if encode_mask_probs(mask_probs, boxes, size) != paste_and_encode(mask_probs, boxes, size):
            raise SystemExit("the two ways give different masks")
        ours, theirs = [], []
        for _ in range(ROUNDS):
            ours.append(milliseconds(encode_mask_probs, mask_probs, boxes, size))
            theirs.append(milliseconds(paste_and_encode, mask_probs, boxes, size))
        medians = statistics.median(ours), statistics.median(theirs)
        name = f"{size[0]}x{size[1]}"
        print(f"{name}: {DETECTIONS} masks in {medians[0]:.1f} ms, pasted {medians[1]:.1f} ms")
        report[name] = {
            "ours_ms": round(medians[0], 2),
            "paste_and_encode_ms": round(medians[1], 2),
            "ratio": round(medians[1] / medians[0], 1),
        }
    print(json.dumps({"benchmark": "mask_encoding", "threads": torch.get_num_threads(), **report}))


if __name__ == "__main__":
    main()
