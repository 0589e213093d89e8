"""torch.compile for the parts of a detector whose shapes follow from the images' alone."""

from torch import nn

PARTS = (
    "backbone",
    "head",
    "rpn.head",
    "roi_heads.box_head",
    "roi_heads.box_predictor",
    "roi_heads.mask_head",
    "roi_heads.mask_predictor",
    "roi_heads.keypoint_head",
    "roi_heads.keypoint_predictor",
)
"""Networks of layers. Between them, boxes are chosen in numbers that depend on the data."""


def compile_parts(model: nn.Module, *, backend: str = "inductor") -> list[str]:
    """Compile those of PARTS that the model has, or a model without any as a whole; their names.

    In place: the modules, their parameters and the names of these stay what they were, so that
    optimizers, averages and checkpoints made before or after do not notice. Compilation itself
    happens in the first calls, once for training and once for evaluation, and again, for any size,
    when a second size comes. backend: torch.compile's.
    """
    modules = dict(model.named_modules())
    found = [name for name in PARTS if name in modules]
    for name in found or [""]:
        modules[name].compile(backend=backend)
    return found
