"""What gpu_train.py and gpu_inference.py share: turns, peaks of memory, counts, profiles."""

import argparse
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any, NamedTuple

import torch
from in_turn import Timing, machine, print_json, print_table
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode

Work = Callable[[], Any]

SMALL, WHOLE = (96, 128), (800, 1333)
"""(height, width) of the images: to show that it runs, and as in the published training."""
LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx")
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
READS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "nms", "equal")
"""Operators that give the host a number, or a tensor as long as the data says."""


class Measured(NamedTuple):
    """seconds: of one step. peak_gib: of the device's memory; None on a CPU."""

    seconds: Timing
    peak_gib: float | None


def parse(description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--batch", type=int, nargs="+", default=[2, 16], help="images of a step")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="of each work in a round")
    parser.add_argument("--works", nargs="+", help="names, or parts of them; default: all")
    parser.add_argument("--compile", action="store_true", help="works with MODEL.COMPILE, too")
    parser.add_argument("--profile", action="store_true", help="where a step's time goes, instead")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--smoke", action="store_true", help="tiny images: shows that it runs")
    return parser.parse_args()


def device_of(options: argparse.Namespace, benchmark: str) -> torch.device | None:
    """None where the benchmark cannot run, which is said, with the line of JSON."""
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device here: nothing is measured (--device cpu --smoke shows that it runs)")
        print_json(benchmark, machine("torchvision"), skipped="no CUDA device here")
        return None
    return torch.device(options.device)


def chosen(works: Mapping[str, Work], options: argparse.Namespace) -> dict[str, Work]:
    """Those that the options name; torchvision's in float32, the measure of all, always first."""
    if options.works is None:
        return dict(works)
    first, *others = works
    named = [name for name in others if any(part in name for part in options.works)]
    return {name: works[name] for name in [first, *named]}


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(
    works: Mapping[str, Work], device: torch.device, *, rounds: int, steps: int
) -> dict[str, Measured]:
    """`steps` of each work in each round, one work after the other; the device waited for at the
    end of each turn only. The first round, which warms up, is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    peaks: dict[str, float | None] = dict.fromkeys(works)
    for number in range(-1, rounds):
        for name, work in works.items():
            if device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats(device)
            work()
            synchronize(device)
            start = time.perf_counter()
            for _ in range(steps):
                work()
            synchronize(device)
            if number >= 0:
                seconds[name].append((time.perf_counter() - start) / steps)
            if device.type == "cuda":
                peaks[name] = torch.cuda.max_memory_allocated(device) / 2**30
    return {name: Measured(Timing.of(seconds[name]), peaks[name]) for name in works}


def report(
    batch: int, measured: Mapping[str, Measured], counts: Mapping[str, "Counts"]
) -> dict[str, Any]:
    """The table, against the first work and the best of torchvision's; and what the JSON says."""
    theirs = [each for name, each in measured.items() if name.startswith("torchvision")]
    first, best = theirs[0], min(theirs, key=lambda each: each.seconds.median)
    rows = []
    for name, (seconds, peak) in measured.items():
        per_second = batch / seconds.median
        rows.append(
            [
                name,
                seconds.in_units(),
                f"{per_second:.1f}",
                f"{first.seconds.median / seconds.median:.2f}",
                f"{best.seconds.median / seconds.median:.2f}",
                "-" if peak is None else f"{peak:.2f}",
                str(counts[name].operators),
                str(counts[name].reads),
            ]
        )
    print(f"\nBatches of {batch}\n")
    columns = ["", "ms a step", "images/s", "x float32", "x torchvision's best", "peak GiB"]
    print_table([*columns, "operators", "host reads"], rows)
    return {
        name: {
            "images_per_second": batch / each.seconds.median,
            **each.seconds._asdict(),
            "peak_gib": each.peak_gib,
            **counts[name]._asdict(),
        }
        for name, each in measured.items()
    }


class Counts(NamedTuple):
    """Of one step: what torch dispatches, backward included, and how often the host waits."""

    operators: int
    reads: int


class _Dispatched(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        indexes_by_mask = name == "index" and any(
            each is not None and each.dtype == torch.bool for each in args[1]
        )
        self.names["nonzero" if indexes_by_mask else name] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def _counting_lists(names: Counter[str]) -> Iterator[None]:
    """Tensor.tolist, which torch does not dispatch."""
    original = torch.Tensor.tolist

    def counted(self: torch.Tensor) -> Any:
        names["_local_scalar_dense"] += 1
        return original(self)

    torch.Tensor.tolist = counted  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.Tensor.tolist = original  # type: ignore[method-assign]


def count(work: Work) -> Counts:
    """Compiled parts are counted by their operators."""
    mode = _Dispatched()
    with _counting_lists(mode.names), mode:
        work()
    return Counts(mode.names.total(), sum(mode.names[name] for name in READS))


PHASES = {
    "preprocess": "preprocess",
    "transform": "preprocess",
    "backbone": "backbone",
    "rpn.head": "RPN head",
    "rpn.anchor_generator": "anchors",
    "rpn._propose": "proposals, NMS",
    "rpn.filter_proposals": "proposals, NMS",
    "rpn._choose_anchors": "RPN targets",
    "rpn.assign_targets_to_anchors": "RPN targets",
    "roi_heads.select_training_samples": "RoI targets",
    "roi_heads.sample": "RoI targets",
    "roi_heads.box_pooler": "RoIAlign, boxes",
    "roi_heads.box_roi_pool": "RoIAlign, boxes",
    "roi_heads.box_head": "box head",
    "roi_heads.mask_pooler": "RoIAlign, masks",
    "roi_heads.mask_roi_pool": "RoIAlign, masks",
    "roi_heads.mask_head": "mask head",
    "roi_heads._select": "detections, NMS",
    "roi_heads.postprocess_detections": "detections, NMS",
}
"""Modules and methods, ours and torchvision's, and what they do."""


def mark_phases(model: Any) -> None:
    """Record each of PHASES by its name when the model is profiled."""
    for path, phase in PHASES.items():
        *above, name = path.split(".")
        owner = model
        for part in above:
            owner = getattr(owner, part, None)
        if getattr(owner, name, None) is None:
            continue
        is_module = isinstance(getattr(owner, name), torch.nn.Module)
        holder, attribute = (getattr(owner, name), "forward") if is_module else (owner, name)
        setattr(holder, attribute, _recorded(getattr(holder, attribute), phase))


def _recorded(function: Callable[..., Any], phase: str) -> Callable[..., Any]:
    @wraps(function)
    def recorded(*args: Any, **kwargs: Any) -> Any:
        with record_function(f"phase: {phase}"):
            return function(*args, **kwargs)

    return recorded


def profile_step(name: str, work: Work, device: torch.device) -> dict[str, Any]:
    """Print where one step's time goes: by phase of the forward, and by the dearest operators."""
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    work()
    synchronize(device)
    start = time.perf_counter()
    with profile(activities=activities, acc_events=True) as profiled:
        work()
        synchronize(device)
    wall = time.perf_counter() - start
    events = profiled.events() or []
    phases: dict[str, list[Any]] = defaultdict(list)
    for event in events:
        if event.name.startswith("phase: ") and event.device_type.name == "CPU":
            phases[event.name.removeprefix("phase: ")].append(event)
    rows, found = [], {}
    for phase, spans in phases.items():
        inside = Counter(each.name for each in events if _begins_in(each, spans))
        found[phase] = {
            "host_ms": sum(each.cpu_time_total for each in spans) / 1e3,
            "device_ms": sum(each.device_time_total for each in spans) / 1e3,
            "launches": sum(inside[each] for each in LAUNCHES),
            "waits": sum(inside[each] for each in WAITS),
        }
        rows.append([phase, *(f"{value:.4g}" for value in found[phase].values())])
    whole = Counter(each.name for each in events)
    launches, waits = (sum(whole[each] for each in names) for names in (LAUNCHES, WAITS))
    rows.append(["the whole step", f"{wall * 1e3:.4g}", "", str(launches), str(waits)])
    print(f"\n{name}\n")
    print_table(["phase of the forward", "host ms", "device ms", "launches", "waits"], rows)
    sort_by = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    print(profiled.key_averages().table(sort_by=sort_by, row_limit=15, max_name_column_width=60))
    return {"phases": found, "wall_ms": wall * 1e3, "launches": launches, "waits": waits}


def _begins_in(event: Any, spans: list[Any]) -> bool:
    begin = event.time_range.start
    return any(
        span.time_range.start <= begin <= span.time_range.end and event.thread == span.thread
        for span in spans
    )
