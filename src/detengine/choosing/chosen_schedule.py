"""The part of a recipe that says how long it is trained, and how often looked at."""

import math
import os
from typing import Any

from detengine.choosing.plans import Plan
from detengine.choosing.recipe import Recipe
from detengine.choosing.survey import Survey

_EVALUATIONS = 5
_SCORING_SHARE = 0.5
"""Images scored on the way, relative to those trained on, at the most: each costs about a third."""
_ROUND = 10
_METRIC = {"bbox": "bbox/AP", "segm": "segm/AP", "keypoints": "keypoints/AP"}


def put_schedule(
    recipe: Recipe,
    plan: Plan,
    numbers: Survey,
    kind: str,
    *,
    images: int,
    iterations: int | None,
    world_size: int,
) -> None:
    """Everything under SOLVER, and how it is loaded and scored.

    kind: as `task_of` says. images: of a batch, over all processes. iterations: None to choose.
    """
    if iterations is None:
        why, iterations = _iterations(plan, numbers, kind, images)
        recipe.put(why, {"SOLVER.MAX_ITER": iterations})
    recipe.put(
        "Another IMS_PER_BATCH scales learning rate and iterations by itself.",
        {"SOLVER.IMS_PER_BATCH": images, "SOLVER.REFERENCE_IMS_PER_BATCH": images},
    )
    lr = float(f"{plan.lr * images / plan.images:.4g}")
    scaled = "" if images == plan.images else f", scaled from {plan.lr:g} for {plan.images} images"
    recipe.put(
        f"{'AdamW over one cycle' if plan.is_small else 'SGD, lowered twice'}{scaled}.",
        {"SOLVER.BASE_LR": lr, **plan.solver},
    )
    if "SOLVER.SCHEDULE" not in plan.solver:
        keys: dict[str, Any] = {
            "SOLVER.WARMUP_ITERS": min(1000, iterations // 10),
            "SOLVER.STEPS": [round(iterations * 0.7), round(iterations * 0.9)],
        }
        recipe.put("", keys)
    period = _period(iterations, images, numbers)
    recipe.put(
        f"Scored every {period} iterations on {numbers.scored_images} images; model_best.pth are "
        "the weights that did best.",
        {
            "SOLVER.TEST_PERIOD": period,
            "SOLVER.CHECKPOINT_PERIOD": period,
            "SOLVER.KEEP_CHECKPOINTS": 2,
            "SOLVER.BEST_METRIC": _METRIC[kind],
        },
    )
    recipe.put("", {"DATALOADER.NUM_WORKERS": 1 if plan.is_small else _workers(world_size)})
    if plan.is_small:
        recipe.put("", {"TEST.IMS_PER_BATCH": world_size})


def _iterations(plan: Plan, numbers: Survey, kind: str, images: int) -> tuple[str, int]:
    """As many as give the plan's epochs, within its bounds, which are of its own batch; and why."""
    scale = plan.images / images
    least, most = (
        _rounded(each * scale)
        for each in (plan.least, plan.most if kind == "bbox" else plan.most_masks)
    )
    wanted = numbers.images * plan.epochs / images
    iterations = _rounded(min(max(wanted, least), most))
    return (
        f"{numbers.images} images, {plan.epochs} times each, would be {wanted:.0f} iterations; at "
        f"least {least} and at most {most} make it {iterations}, "
        f"{times(iterations * images / numbers.images)} each."
    ), iterations


def times(number: float) -> str:
    """A number of times in words: once, 27 times, 0.18 times."""
    said = f"{number:.0f}" if number >= 1 else f"{number:.2g}"
    return "once" if said == "1" else f"{said} times"


def batch_of(plan: Plan, world_size: int) -> int:
    """Images of a batch over all processes: the plan's for each of them; on a CPU, in all."""
    if plan.is_small:
        return math.ceil(plan.images / world_size) * world_size
    return plan.images * world_size


def _period(iterations: int, images: int, numbers: Survey) -> int:
    affordable = int(_SCORING_SHARE * iterations * images / max(1, numbers.scored_images))
    return math.ceil(iterations / min(max(affordable, 1), _EVALUATIONS))


def _rounded(iterations: float) -> int:
    return max(_ROUND, round(iterations / _ROUND) * _ROUND)


def _workers(world_size: int) -> int:
    """Loading processes of each rank: the machine's cores among them, and no more than are used."""
    return max(1, min(8, (os.cpu_count() or 1) // world_size - 1))
