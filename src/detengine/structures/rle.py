"""COCO's run-length encoding: strings, run lengths, and square mask probabilities straight to RLE."""

from typing import TypedDict

from torch import Tensor


class RLE(TypedDict):
    """A mask of a whole image as pycocotools writes it. size: [height, width]; counts: compressed."""

    size: list[int]
    counts: bytes


def encode_mask_probs(
    mask_probs: Tensor, boxes_xyxy: Tensor, size: tuple[int, int], threshold: float = 0.5
) -> list[RLE]:
    """Encode each box's square mask as the RLE of the full image."""
    raise NotImplementedError
