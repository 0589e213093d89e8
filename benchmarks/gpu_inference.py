"""Inference of Mask R-CNN R-50-FPN at 800/1333 on one GPU: ours against torchvision's.

    python benchmarks/gpu_inference.py
    python benchmarks/gpu_inference.py --compile --batch 16
    python benchmarks/gpu_inference.py --profile --batch 2
    python benchmarks/gpu_inference.py --device cpu --smoke

Peer: maskrcnn_resnet50_fpn of the installed torchvision in evaluation, in float32 and under
autocast to bfloat16 and float16, its masks pasted into the image, which is part of its forward.
Ours: the same weights and pictures in float32, in bfloat16 (channels last, frozen norms folded),
with MODEL.STATIC_SHAPES and with MODEL.COMPILE; masks stay 28 x 28 in their boxes, as the engine
takes them. One more work of torchvision's has its pasting left out, so that the networks are
compared alone. The batch lies on the device; the works take turns. The scores are random weights',
spread so that as many detections as possible are given out: 100 of each image.
Without a CUDA device nothing is
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
from in_turn import machine, print_json
from model_steps import inference_of, make_inputs, ours, theirs

BFLOAT16, FLOAT16 = "bfloat16", "float16"
STATIC, COMPILED = {"MODEL__STATIC_SHAPES": True}, {"MODEL__COMPILE": True}


def speak_up(model: Any) -> Any:
    """Spread the random scores, so that some of every image's are above 0.05."""
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.weight.mul_(30)
    return model


def without_pasting(model: Any) -> Any:
    """torchvision's model that gives its masks as they are, 28 x 28."""
    model.transform.postprocess = lambda detections, *_: detections
    return model


def make_works(
    like: Any, inputs: Any, device: torch.device, *, compiled: bool, marked: bool
) -> dict[str, Work]:
    of_ours, of_theirs = inputs

    def infer(model: Any, images: Any, dtype: str) -> Work:
        if marked:
            mark_phases(model)
        return inference_of(model, images, device, dtype)

    def our(dtype: str = "float32", **options: Any) -> Work:
        return infer(ours(like, device, DTYPE=dtype, **options)[0], of_ours, dtype)

    def their(dtype: str = "float32") -> Work:
        return infer(copy.deepcopy(like), of_theirs, dtype)

    works = {
        "torchvision, float32": their(),
        "torchvision, bfloat16": their(BFLOAT16),
        "torchvision, float16": their(FLOAT16),
        "torchvision, float16, not pasting": infer(
            without_pasting(copy.deepcopy(like)), of_theirs, FLOAT16
        ),
        "ours, float32": our(),
        "ours, bfloat16": our(BFLOAT16),
        "ours, float16": our(FLOAT16),
        "ours, bfloat16, static shapes": our(BFLOAT16, **STATIC),
    }
    if compiled:
        works["ours, bfloat16, compiled"] = our(BFLOAT16, **COMPILED)
    return works


def main() -> None:
    options = parse(__doc__.splitlines()[0])
    device = device_of(options, "gpu_inference")
    if device is None:
        return
    size = SMALL if options.smoke else WHOLE
    batches = [2] if options.smoke else options.batch
    rounds, steps = (1, 1) if options.smoke else (options.rounds, options.steps)
    where, readings = machine("torchvision"), {}
    print(where)
    for batch in batches:
        limit = 5 if options.smoke else 100
        like = theirs(masks=True, side=min(size), longest=max(size), detections=limit)
        like = speak_up(like)
        (of_ours, _), (of_theirs, _) = make_inputs(batch, size, device)
        works = make_works(
            like, (of_ours, of_theirs), device, compiled=options.compile, marked=options.profile
        )
        works = chosen(works, options)
        if options.profile:
            profiled = {name: profile_step(name, work, device) for name, work in works.items()}
            readings[f"batch_{batch}"] = profiled
            continue
        found = {name: sum(len(each["scores"]) for each in work()) for name, work in works.items()}
        measured = measure(works, device, rounds=rounds, steps=steps)
        counts = {name: count(work) for name, work in works.items()}
        print(f"\nDetections of a batch: {found}")
        readings[f"batch_{batch}"] = report(batch, measured, counts)
    print_json("gpu_inference", where, size=list(size), **readings)


if __name__ == "__main__":
    main()
