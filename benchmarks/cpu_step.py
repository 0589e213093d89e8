"""A Faster R-CNN R-50-FPN step on a CPU: what helps, beside torchvision's own model and step.

    python benchmarks/cpu_step.py
    python benchmarks/cpu_step.py --part inference --compile
    python benchmarks/cpu_step.py --smoke

Two images of 320 x 320 pixels, random but equal weights in all models; every work takes one step a
round, in turn. torchvision's: fasterrcnn_resnet50_fpn of the installed version and the step of its
references, in float32 and under bfloat16 autocast. Ours: the engine's `train_step`, in the same
precisions, with MODEL.CHANNELS_LAST, with MODEL.FOLD_FROZEN_BN and with both (as DTYPE bfloat16
has them), on one thread, with everything trained, and (--compile) with MODEL.COMPILE, whose
compilation is not counted. Profiled besides: which operators a step spends its time in.
The last line is JSON.
"""

import argparse
import copy
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from in_turn import Timing, in_turn, machine, print_json, print_table
from model_steps import inference_of, make_inputs, our_step, ours, their_step, theirs

CPU = torch.device("cpu")
Work = Callable[[], Any]

KINDS = {
    "convolution, backward": ("convolution_backward", "mkldnn_convolution_backward"),
    "convolution, forward": ("mkldnn_convolution", "convolution_overrideable", "slow_conv2d"),
    "RoIAlign, backward": ("_RoIAlignBackward", "_roi_align_backward"),
    "RoIAlign, forward": ("_RoIAlign", "roi_align"),
    "fully connected": ("mm", "addmm"),
    "NMS": ("nms",),
}


def training(like: Any, inputs: tuple[Any, Any], *, compiled: bool) -> dict[str, Work]:
    of_ours, of_theirs = inputs

    def work(dtype: str = "float32", threads: int | None = None, **options: Any) -> Work:
        step = our_step(*ours(like, CPU, **options), of_ours, CPU, dtype)
        return step if threads is None else on_threads(threads, step)

    last, fold, half = {"MODEL__CHANNELS_LAST": True}, {"MODEL__FOLD_FROZEN_BN": True}, "bfloat16"
    all_trained = {"MODEL__BACKBONE__FREEZE_CONV_BODY_AT": 0}
    works = {
        "torchvision, float32": their_step(copy.deepcopy(like), of_theirs, CPU),
        "torchvision, bfloat16": their_step(copy.deepcopy(like), of_theirs, CPU, half),
        "ours, float32": work(),
        "ours, float32, channels last": work(**last),
        "ours, bfloat16": work(half),
        "ours, bfloat16, channels last": work(half, **last),
        "ours, float32, norms folded": work(**fold),
        "ours, bfloat16, both": work(half, **last, **fold),
        "the same on 1 thread": work(half, 1, **last, **fold),
        "the same, nothing frozen": work(half, **last, **fold, **all_trained),
    }
    if compiled:
        works["the same, compiled"] = work(half, **last, **fold, MODEL__COMPILE=True)
    return works


def inference(like: Any, inputs: tuple[Any, Any], *, compiled: bool) -> dict[str, Work]:
    (of_ours, _), (of_theirs, _) = inputs

    def work(dtype: str = "float32", mode: Any = torch.inference_mode, **options: Any) -> Work:
        return inference_of(ours(like, CPU, **options)[0], of_ours, CPU, dtype, mode=mode)

    last, fold, half = {"MODEL__CHANNELS_LAST": True}, {"MODEL__FOLD_FROZEN_BN": True}, "bfloat16"
    works = {
        "torchvision, float32, no_grad": inference_of(
            copy.deepcopy(like), of_theirs, CPU, mode=torch.no_grad
        ),
        "torchvision, bfloat16, no_grad": inference_of(
            copy.deepcopy(like), of_theirs, CPU, half, mode=torch.no_grad
        ),
        "ours, float32, no_grad": work(mode=torch.no_grad),
        "ours, float32, inference_mode": work(),
        "ours, float32, channels last": work(**last),
        "ours, bfloat16": work(half),
        "ours, bfloat16, channels last": work(half, **last),
        "ours, float32, norms folded": work(**fold),
        "ours, bfloat16, both": work(half, **last, **fold),
    }
    if compiled:
        works["the same, compiled"] = work(half, **last, **fold, MODEL__COMPILE=True)
    return works


def on_threads(count: int, work: Work) -> Work:
    def limited() -> Any:
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            return work()
        finally:
            torch.set_num_threads(before)

    return limited


def shares(work: Work) -> dict[str, float]:
    """Of one step, the part of the processor's time that each of KINDS takes, and all the rest."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profile:
        work()
    microseconds: dict[str, float] = defaultdict(float)
    for event in profile.key_averages():
        name = event.key.split("::")[-1]
        kind = next((kind for kind, names in KINDS.items() if name in names), "all the rest")
        microseconds[kind] += event.self_cpu_time_total
    whole = sum(microseconds.values())
    return {kind: microseconds[kind] / whole for kind in (*KINDS, "all the rest")}


def compare(title: str, works: dict[str, Work], rounds: int) -> dict[str, Any]:
    timings = in_turn(works, rounds)
    first: Timing = next(iter(timings.values()))
    print(f"\n{title}\n")
    print_table(
        ["", "seconds", "torchvision's float32 over it"],
        [
            [name, timing.in_units(1, 3), f"{first.median / timing.median:.2f}"]
            for name, timing in timings.items()
        ],
    )
    return {name: timing._asdict() for name, timing in timings.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=("training", "inference"), help="default: both")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", type=int, default=320, help="of the images, in pixels")
    parser.add_argument("--compile", action="store_true", help="one work more, compiled")
    parser.add_argument("--smoke", action="store_true", help="tiny: shows that it runs")
    options = parser.parse_args()
    side, rounds = (64, 1) if options.smoke else (options.side, options.rounds)
    like = theirs(masks=False, side=side, longest=side)
    inputs = make_inputs(2, (side, side), CPU)
    readings: dict[str, Any] = {"side": side, "threads": torch.get_num_threads()}
    if options.part != "inference":
        works = training(like, inputs, compiled=options.compile)
        readings["training"] = compare("Training, one step of 2 images", works, rounds)
        profiled = {name: shares(works[name]) for name in ("ours, float32", "ours, bfloat16")}
        print("\nWhere the step goes\n")
        print_table(
            ["", *profiled],
            [
                [kind, *(f"{each[kind]:.0%}" for each in profiled.values())]
                for kind in (*KINDS, "all the rest")
            ],
        )
        readings["shares"] = profiled
    if options.part != "training":
        works = inference(like, inputs, compiled=options.compile)
        readings["inference"] = compare("Inference, 2 images", works, rounds)
    print_json("cpu_step", machine("torchvision"), **readings)


if __name__ == "__main__":
    main()
