"""A configuration for a folder of data: what is there, which model suits it, and for how long."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detengine.choosing.chosen_data import definitions_of, put_data, task_of
from detengine.choosing.chosen_model import put_model
from detengine.choosing.chosen_schedule import batch_of, put_schedule, times
from detengine.choosing.plans import DEFAULT_WEIGHTS, plan_for
from detengine.choosing.recipe import Recipe
from detengine.choosing.sizes import Sizes
from detengine.choosing.survey import Survey, survey
from detengine.choosing.weights import FROM_SCRATCH, Start, default_start, named_start
from detengine.config.field_types import value_of_text
from detengine.config.load import load_config, parse_config
from detengine.config.schema import Config
from detengine.data.build import load_truth
from detengine.data.recognition import RecognisedData, recognise
from detengine.distributed.launch import resolve_device

FILE_NAME = "recipe.yaml"
"""Under which a run keeps what was chosen for it."""
_FEW = 10
_TINY = 6
"""Pixels below which an object has next to no features of its own."""
_TITLE = (
    "Chosen for a folder of data and a {device} by detengine train --data: to be kept and edited."
)


@dataclass(frozen=True)
class Chosen:
    """A configuration, and the same as the text of a file, with what each value was chosen by.

    summary: lines for a terminal; warning: further ones, where it starts from scratch for want of
    weights.
    """

    cfg: Config
    text: str
    data: RecognisedData
    summary: tuple[str, ...]
    warning: tuple[str, ...]


def configuration_for(
    folder: str | Path,
    *,
    weights: str | None = None,
    overrides: Sequence[str] = (),
    output_dir: str | Path | None = None,
    may_download: bool = True,
) -> Chosen:
    """Recognise what the folder holds, and choose everything that a training of it needs.

    A function of the folder's files, this machine's kind of device, and the weights that are to be
    had. weights: as MODEL.WEIGHT; "" for none; None for the usual ones, if they are here or, with
    may_download, can be fetched now. overrides: KEY VALUE pairs that win over the choice.
    Raises ValueError or OSError, each with the cure.
    """
    found = recognise(folder)
    numbers = _survey(found, overrides)
    given = dict(zip(overrides[::2], overrides[1::2], strict=False))
    device = _device(given.get("MODEL.DEVICE", "auto"))
    task = task_of(numbers, {key: value_of_text(value) for key, value in given.items()})
    weights = given.get("MODEL.WEIGHT") if weights is None else weights
    start, warning = _start(weights, DEFAULT_WEIGHTS[device, task[0]], may_download)
    plan = plan_for(device, has_weights=bool(start.weights), is_detector=start.is_detector)
    recipe = Recipe()
    recipe.put("", {"CONVENTIONS": "modern"})
    if output_dir is not None:
        recipe.put("", {"OUTPUT_DIR": str(output_dir)})
    put_data(recipe, found, numbers)
    sizes = put_model(recipe, plan, start, numbers, task)
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    put_schedule(
        recipe, plan, numbers, task[0],
        images=_count(given.get("SOLVER.IMS_PER_BATCH")) or batch_of(plan, world_size),
        iterations=_count(given.get("SOLVER.MAX_ITER")),
        world_size=world_size,
    )  # fmt: skip
    cfg = load_config(None, [*recipe.overrides(), *overrides])
    for key, value in given.items():
        recipe.put("Given on the command line.", {key: value_of_text(value)})
    summary = _summary(cfg, found, numbers, start=start, task=task[1], sizes=sizes)
    text = recipe.text([_TITLE.format(device=device.upper()), "", *summary, *warning])
    return Chosen(parse_config(text, source=FILE_NAME), text, found, summary, warning)


def _count(given: str | None) -> int | None:
    """What is given; None where nothing is, or what is refused with all other values."""
    value = None if given is None else value_of_text(given)
    return value if isinstance(value, int) and value > 0 else None


def _survey(found: RecognisedData, overrides: Sequence[str]) -> Survey:
    """The numbers of what is going to be trained on and scored."""
    draft = Recipe()
    draft.put("", {"CONVENTIONS": "modern", **definitions_of(found)})
    pairs = zip(overrides[::2], overrides[1::2], strict=False)
    of_data = [word for pair in pairs if pair[0].startswith("DATASETS.") for word in pair]
    cfg = load_config(None, [*draft.overrides(), *of_data])
    trained_on, scored = (
        [load_truth(cfg, name, for_scoring=False)[0] for name in names]
        for names in (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST)
    )
    return survey(trained_on, scored)


def _device(setting: str) -> str:
    """cpu or gpu, for the plans; Apple's GPU counts as the former."""
    return "gpu" if resolve_device(setting).type == "cuda" else "cpu"


def _start(weights: str | None, usual: str, may_download: bool) -> tuple[Start, tuple[str, ...]]:
    """Where training begins, and what to say where it is not where it would do best."""
    if weights:
        return named_start(weights), ()
    if weights is not None:
        return FROM_SCRATCH, ()
    start, reason = default_start(usual, may_download=may_download)
    if start is not None:
        return start, ()
    if not may_download:
        return FROM_SCRATCH, (
            f"Note: a training would begin from {usual}, if it can be had then. Nothing is fetched "
            "here, and what follows is of one from scratch.",
            f"Reason: {reason}",
            "To begin from something else: --weights FILE; from nothing: --weights ''.",
        )
    return FROM_SCRATCH, (
        f"WARNING: training starts from scratch, because {usual} could not be had, and from "
        "pretrained weights it would end better and sooner.",
        f"Reason: {reason}",
        "To do better: --weights FILE, with any weights of a ResNet or a detector.",
    )


def _summary(
    cfg: Config, found: RecognisedData, numbers: Survey, *, start: Start, task: str, sizes: Sizes
) -> tuple[str, ...]:
    """What is said in the terminal and at the top of the file."""
    counts = [f"{name} {count:,}" for name, count in numbers.class_counts.items() if count]
    more = f", ... {len(counts) - _FEW} more" if len(counts) > _FEW else ""
    solver = cfg.SOLVER
    model = "Mask" if cfg.MODEL.MASK_ON else "Keypoint" if cfg.MODEL.KEYPOINT_ON else "Faster"
    epochs = solver.MAX_ITER * solver.IMS_PER_BATCH / numbers.images
    lines = [
        f"Data: {found.format} in {found.folder}; {numbers.images:,} images to train on with "
        f"{numbers.objects:,} objects, {numbers.scored_images:,} to score on.",
        f"Classes: {', '.join(counts[:_FEW])}{more}. {task}",
        *(f"Note: {note}." for note in found.notes),
        *(
            f"Note: {name} is not looked at, so that it can be scored once, at the end: "
            f"detengine eval ... DATASETS.TEST '[{name}]'."
            for name in found.test
        ),
        f"Model: {model} R-CNN, {cfg.MODEL.BACKBONE.CONV_BODY}, images of "
        f"{cfg.INPUT.MIN_SIZE_TEST} pixels; from {start.weights or 'scratch'}.",
        f"Schedule: {solver.MAX_ITER} iterations of {solver.IMS_PER_BATCH} images "
        f"({times(epochs)} over all), scored every {solver.TEST_PERIOD}.",
    ]
    if sizes.small < _TINY:
        lines.append(
            f"Note: small objects have {sizes.small:.0f} pixels in images of {sizes.shorter}, too "
            "few to be found well. Raise INPUT.MIN_SIZE_TRAIN, MIN_SIZE_TEST and their MAX_SIZE, "
            "or cut the pictures into tiles."
        )
    return tuple(lines)
