# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator"
# ruff: noqa: N803 - a kernel's constants are written as constants
"""Non-maximum suppression on CUDA, from beginning to end on the device.

First, all at once, which boxes each would suppress, as bits; then, group by group, one program goes
through the boxes from the best on and gathers the bits of those that stay.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_WORD = 64


def survivors_on_device(boxes_xyxy: Tensor, threshold: float) -> Tensor:
    """As `suppression.survivors`, without a read."""
    groups, count = boxes_xyxy.shape[:2]
    stays = torch.empty(groups, count, dtype=torch.bool, device=boxes_xyxy.device)
    if stays.numel() == 0:
        return stays
    words = triton.cdiv(count, _WORD)
    suppressed = torch.empty(groups, count, words, dtype=torch.int64, device=boxes_xyxy.device)
    boxes = boxes_xyxy.contiguous()
    # fused as ever: triton 3.9 warns that it will decide otherwise where nobody says so
    _compare[(groups, words, words)](
        boxes, suppressed, count, words, threshold, _WORD, enable_fp_fusion=True
    )
    padded_words = triton.next_power_of_2(words)
    _gather[(groups,)](
        suppressed, stays, count, words, padded_words, _WORD, num_warps=1, enable_fp_fusion=True
    )
    return stays


@triton.jit
def _compare(boxes, suppressed, count, words, threshold, WORD: tl.constexpr):
    """boxes: [G, K, 4]; suppressed: int64[G, K, words], bit b of word w: box 64 w + b."""
    group = tl.program_id(0).to(tl.int64)
    ours = tl.program_id(1) * WORD + tl.arange(0, WORD)
    others = tl.program_id(2) * WORD + tl.arange(0, WORD)
    of_group = boxes + group * count * 4
    x1 = tl.load(of_group + ours * 4, mask=ours < count, other=0.0)
    y1 = tl.load(of_group + ours * 4 + 1, mask=ours < count, other=0.0)
    x2 = tl.load(of_group + ours * 4 + 2, mask=ours < count, other=0.0)
    y2 = tl.load(of_group + ours * 4 + 3, mask=ours < count, other=0.0)
    other_x1 = tl.load(of_group + others * 4, mask=others < count, other=0.0)
    other_y1 = tl.load(of_group + others * 4 + 1, mask=others < count, other=0.0)
    other_x2 = tl.load(of_group + others * 4 + 2, mask=others < count, other=0.0)
    other_y2 = tl.load(of_group + others * 4 + 3, mask=others < count, other=0.0)
    width = tl.minimum(x2[:, None], other_x2[None, :]) - tl.maximum(x1[:, None], other_x1[None, :])
    height = tl.minimum(y2[:, None], other_y2[None, :]) - tl.maximum(y1[:, None], other_y1[None, :])
    both = tl.maximum(width, 0.0) * tl.maximum(height, 0.0)
    area, other_area = (x2 - x1) * (y2 - y1), (other_x2 - other_x1) * (other_y2 - other_y1)
    iou = both / (area[:, None] + other_area[None, :] - both)
    is_suppressed = (iou > threshold) & (ours[:, None] < others[None, :])
    bit = tl.full((WORD,), 1, tl.int64) << tl.arange(0, WORD).to(tl.int64)
    word = tl.reduce(tl.where(is_suppressed, bit[None, :], 0), 1, _either)
    target = suppressed + (group * count + ours) * words + tl.program_id(2)
    tl.store(target, word, mask=ours < count)


@triton.jit
def _either(one, other):
    return one | other


@triton.jit
def _gather(suppressed, stays, count, words, WORDS: tl.constexpr, WORD: tl.constexpr):
    group = tl.program_id(0).to(tl.int64)
    word = tl.arange(0, WORDS)
    gone = tl.full((WORDS,), 0, tl.int64)
    for box in range(count):
        row = tl.load(suppressed + (group * count + box) * words + word, word < words, other=0)
        own = tl.reduce(tl.where(word == box // WORD, gone, 0), 0, _either)
        is_gone = (own >> (box % WORD)) & 1
        tl.store(stays + group * count + box, is_gone == 0)
        gone |= tl.where(is_gone == 0, row, 0)
