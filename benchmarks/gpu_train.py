"""Training Mask R-CNN R-50-FPN at 800/1333 on one GPU: our step against torchvision's.

    python benchmarks/gpu_train.py
    python benchmarks/gpu_train.py --compile --batch 16
    python benchmarks/gpu_train.py --profile --batch 2
    python benchmarks/gpu_train.py --device cpu --smoke

Peer: maskrcnn_resnet50_fpn of the installed torchvision with the step of its references, in float32
and under autocast to bfloat16 and float16. Ours: the engine's `train_step` on the same weights and
pictures: float32, bfloat16 (channels last, frozen norms folded), with MODEL.STATIC_SHAPES, with
MODEL.COMPILE. Frozen are the stem and the first stage. The batch lies on the device; the works take
turns, `--steps` steps a turn, and the device is waited for at a turn's end only, so that launches
may overlap.
Targets: 1.5 times torchvision's images per second, 62 images/s on one H200, no more memory, the
same losses: those of the first step stand beside torchvision's, which draws its samples otherwise
than MODEL.STATIC_SHAPES does. operators: dispatched in one step, forward and backward, about as
many launches; host reads: of these, those that the host waits for. Without a CUDA device nothing is
measured, and that is said. The last line is JSON.
"""

import copy
from typing import Any

import torch
from gpu_comparison import (
    SMALL,
    WHOLE,
    Work,
    chosen,
    count,
    device_of,
    mark_phases,
    measure,
    parse,
    profile_step,
    report,
)
from in_turn import machine, print_json, print_table
from model_steps import make_inputs, our_step, ours, their_step, theirs

BFLOAT16, FLOAT16 = "bfloat16", "float16"
STATIC, COMPILED = {"MODEL__STATIC_SHAPES": True}, {"MODEL__COMPILE": True}
Inputs = tuple[Any, Any]


def make_works(
    like: Any, inputs: Inputs, device: torch.device, *, compiled: bool, marked: bool
) -> dict[str, Work]:
    of_ours, of_theirs = inputs

    def our(dtype: str = "float32", **options: Any) -> Work:
        model, cfg = ours(like, device, DTYPE=dtype, **options)
        if marked:
            mark_phases(model)
        return our_step(model, cfg, of_ours, device, dtype)

    def their(dtype: str = "float32") -> Work:
        model = copy.deepcopy(like)
        if marked:
            mark_phases(model)
        return their_step(model, of_theirs, device, dtype)

    works = {
        "torchvision, float32": their(),
        "torchvision, bfloat16": their(BFLOAT16),
        "torchvision, float16": their(FLOAT16),
        "ours, float32": our(),
        "ours, bfloat16": our(BFLOAT16),
        "ours, bfloat16, static shapes": our(BFLOAT16, **STATIC),
    }
    if device.type == "cpu":
        works.pop("torchvision, float16")  # its GradScaler is CUDA's
    if compiled:
        works["ours, bfloat16, compiled"] = our(BFLOAT16, **COMPILED)
        works["ours, bfloat16, static shapes, compiled"] = our(BFLOAT16, **STATIC, **COMPILED)
    return works


def first_losses(works: dict[str, Work], device: torch.device) -> dict[str, dict[str, float]]:
    """Of the first step, all from the same weights and the same seed."""
    losses = {}
    for name, work in works.items():
        torch.manual_seed(0)
        losses[name] = {key: float(value) for key, value in sorted(work().items())}
    print("\nLosses of the first step\n")
    keys = list(next(iter(losses.values())))
    print_table(
        ["", *keys],
        [[name, *(f"{each[key]:.4f}" for key in keys)] for name, each in losses.items()],
    )
    return losses


def main() -> None:
    options = parse(__doc__.splitlines()[0])
    device = device_of(options, "gpu_train")
    if device is None:
        return
    size = SMALL if options.smoke else WHOLE
    batches = [2] if options.smoke else options.batch
    rounds, steps = (1, 1) if options.smoke else (options.rounds, options.steps)
    where, readings = machine("torchvision"), {}
    print(where)
    for batch in batches:
        like = theirs(masks=True, side=min(size), longest=max(size))
        inputs = make_inputs(batch, size, device)
        works = make_works(like, inputs, device, compiled=options.compile, marked=options.profile)
        works = chosen(works, options)
        if options.profile:
            profiled = {name: profile_step(name, work, device) for name, work in works.items()}
            readings[f"batch_{batch}"] = profiled
            continue
        losses = first_losses(works, device)
        measured = measure(works, device, rounds=rounds, steps=steps)
        counts = {name: count(work) for name, work in works.items()}
        table = report(batch, measured, counts)
        readings[f"batch_{batch}"] = {
            name: table[name] | {"losses": losses[name]} for name in works
        }
    print_json("gpu_train", where, size=list(size), **readings)


if __name__ == "__main__":
    main()
