"""The part of a recipe that says what is built, and how large images go into it."""

import math
from typing import Any

from detengine.choosing.plans import Plan
from detengine.choosing.recipe import Recipe
from detengine.choosing.sizes import Sizes, choose_anchors, choose_ratios, choose_sizes
from detengine.choosing.survey import Survey
from detengine.choosing.weights import Start

_SMALL_REGIONS = {
    "MODEL.RPN.PRE_NMS_TOP_N_TRAIN": 300,
    "MODEL.RPN.PRE_NMS_TOP_N_TEST": 600,
    "MODEL.RPN.FPN_POST_NMS_TOP_N_TRAIN": 200,
    "MODEL.RPN.FPN_POST_NMS_TOP_N_TEST": 300,
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 128,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 64,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": 0.5,
}
_CHANNELS_OF_STRIDE = {4: 48, 8: 64}
"""Of a small model's pyramid and heads, by its finest stride: the finest maps cost the most."""
_MANY_OBJECTS = 50
_MOST_DETECTIONS = 1000
_USUAL_SMALL = 24
"""Pixels from which an object suits an anchor of 32."""
_SIGMA = 0.07
"""The mean of COCO's 17 tolerances."""
_PERSON = 17


def put_model(
    recipe: Recipe, plan: Plan, start: Start, numbers: Survey, task: tuple[str, str]
) -> Sizes:
    """Everything under MODEL and INPUT. task: as `task_of` gives it."""
    kind, why = task
    recipe.put(why, {"MODEL.MASK_ON": kind == "segm", "MODEL.KEYPOINT_ON": kind == "keypoints"})
    if start.weights:
        recipe.put(f"Weights {start.why}.", {"MODEL.WEIGHT": start.weights})
    keys = dict(plan.model)
    if start.depth is not None:
        keys["MODEL.BACKBONE.CONV_BODY"] = f"R-{start.depth}-FPN"
        if start.depth < 50:
            keys["MODEL.RESNETS.RES2_OUT_CHANNELS"] = 256
    if keys:
        recipe.put(f"{plan.words[0].upper()}{plan.words[1:]}.", keys)
    sizes = choose_sizes(
        numbers,
        least=plan.smallest,
        most=plan.largest,
        wanted=plan.wanted,
        may_crop=plan.is_small,
    )
    has_own_anchors = start.depth is None and bool(start.weights)
    if not has_own_anchors:
        _put_anchors(recipe, plan, start, numbers, sizes)
    if kind == "keypoints":
        _put_keypoints(recipe, numbers, has_small_head=plan.is_small and not start.is_detector)
    if plan.is_small:
        recipe.put("Few regions, for a CPU.", _SMALL_REGIONS)
    if numbers.most_objects > _MANY_OBJECTS:
        limit = min(_MOST_DETECTIONS, 50 * math.ceil(2 * numbers.most_objects / 50))
        recipe.put(
            f"Up to {numbers.most_objects} objects in an image.",
            {"MODEL.ROI_HEADS.DETECTIONS_PER_IMG": max(100, limit)},
        )
    unused = () if numbers.masks else "MODEL.ROI_MASK_HEAD."
    recipe.put("", {key: each for key, each in start.keys.items() if not key.startswith(unused)})
    _put_input(recipe, numbers, sizes)
    return sizes


def _put_anchors(recipe: Recipe, plan: Plan, start: Start, numbers: Survey, sizes: Sizes) -> None:
    why = (
        f"In images of {sizes.shorter} pixels, small objects are {sizes.small:.0f} pixels wide and "
        f"high, large ones {sizes.large:.0f}."
    )
    ratios = choose_ratios(numbers)
    if ratios is not None and not start.is_detector:
        flat, upright = numbers.ratios
        recipe.put(
            f"Height / width is {flat:.2f} to {upright:.2f} for 90 of 100 objects.",
            {"MODEL.RPN.ASPECT_RATIOS": ratios},
        )
    if start.is_detector or not plan.is_small:
        if sizes.small < _USUAL_SMALL:
            recipe.put(why, {"MODEL.RPN.ANCHOR_SIZES": [16, 32, 64, 128, 256]})
        return
    strides, anchors = choose_anchors(sizes)
    pooled = [1 / stride for stride in strides if stride < strides[-1]][:2]
    keys: dict[str, Any] = {
        "MODEL.RPN.ANCHOR_STRIDE": strides,
        "MODEL.RPN.ANCHOR_SIZES": anchors,
        "MODEL.ROI_BOX_HEAD.POOLER_SCALES": pooled,
    }
    channels = _CHANNELS_OF_STRIDE[strides[0]]
    if not start.weights:
        keys["MODEL.RESNETS.BACKBONE_OUT_CHANNELS"] = channels
        keys["MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM"] = 4 * channels
    if numbers.masks:  # whether they are learnt or not, so that MASK_ON can be switched
        keys["MODEL.ROI_MASK_HEAD.POOLER_SCALES"] = pooled
        keys["MODEL.ROI_MASK_HEAD.CONV_LAYERS"] = [channels, channels]
    if recipe.values["MODEL.KEYPOINT_ON"]:
        keys["MODEL.ROI_KEYPOINT_HEAD.POOLER_SCALES"] = pooled
    recipe.put(why, keys)


def _put_keypoints(recipe: Recipe, numbers: Survey, *, has_small_head: bool) -> None:
    recipe.put("", {"MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES": numbers.keypoints})
    if has_small_head:
        recipe.put("", {"MODEL.ROI_KEYPOINT_HEAD.CONV_LAYERS": [64, 64, 64, 64]})
    if not numbers.has_sides:
        recipe.put(
            "The keypoints' names do not say which is whose mirror image.",
            {"INPUT.HORIZONTAL_FLIP_PROB_TRAIN": 0.0},
        )
    if numbers.keypoints != _PERSON:
        recipe.put(
            "How exactly each keypoint can be placed, relative to the object's size: here, for "
            "want of better, the mean of COCO's.",
            {"TEST.KEYPOINT_SIGMAS": [_SIGMA] * numbers.keypoints},
        )


def _put_input(recipe: Recipe, numbers: Survey, sizes: Sizes) -> None:
    why = (
        f"The files are {numbers.short_side} x {numbers.long_side}, the median object is "
        f"{numbers.median:.0f} pixels wide and high there, and {sizes.median:.0f} in an image of "
        f"{sizes.shorter}."
    )
    steps = [round(sizes.shorter * each / 8) * 8 for each in (0.9, 1.0, 1.1)]
    recipe.put(
        why,
        {
            "INPUT.MIN_SIZE_TRAIN": steps,
            "INPUT.MAX_SIZE_TRAIN": round(sizes.longer * 1.1),
            "INPUT.MIN_SIZE_TEST": sizes.shorter,
            "INPUT.MAX_SIZE_TEST": sizes.longer,
        },
    )
    if sizes.crop is not None:
        recipe.put(
            "A part of each image: the same seconds then buy more iterations.",
            {"INPUT.CROP_SIZE_TRAIN": [sizes.crop, sizes.crop]},
        )
    recipe.put(
        "Where there is no up and down, as under a microscope or from above, VERTICAL_FLIP_PROB_"
        "TRAIN 0.5 gains.",
        {"INPUT.BRIGHTNESS": 0.2, "INPUT.CONTRAST": 0.2},
    )
