"""What a thread is doing, read from its stack: the loops themselves say nothing of it.

A function is known by its module and its qualified name, so that none is imported for it.
"""

import math
import sys
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

from detengine.data.workers import ObservedData
from detengine.distributed.standstill import Position

COLLECTIVE = (
    "torch.distributed.",
    "detengine.distributed.comm:",
    "torch.nn.parallel.distributed:DistributedDataParallel._distributed_broadcast_coalesced",
)
"""What begins a function's name that waits for other ranks; the outermost of several was called."""
BACKWARD = "backward"
LOADER = "torch.utils.data.dataloader:_BaseDataLoaderIter.__next__"

PHASES = {
    LOADER: "data",
    "torch.utils.data.dataloader:_MultiProcessingDataLoaderIter._shutdown_workers": (
        "ending the data loader's processes"
    ),
    "torch.autograd.graph:_engine_run_backward": BACKWARD,
    "torch.nn.modules.module:Module._call_impl": "forward",
    "detengine.distributed.watchdog:_Noted.__iter__": "data",
    "detengine.engine.trainer:windows": "data",
    "detengine.engine.trainer:train_step": "a training step",
    "detengine.engine.trainer:save_checkpoint": "saving",
    "detengine.engine.trainer:do_train": "training",
    "detengine.engine.inference:interruptible": "data",
    "detengine.engine.inference:inference": "evaluation",
    "detengine.engine.validation_loss:validation_loss": "the validation loss",
    "detengine.checkpoint.checkpointer:Checkpointer.save": "saving",
    "detengine.checkpoint.checkpointer:Checkpointer.save_best": "saving",
    "detengine.checkpoint.checkpointer:Checkpointer.wait": "saving",
    "detengine.solver.precision:Precision.step": "the optimizer step",
    "detengine.scoring:score": "scoring",
    "detengine.start:start_or_resume": "loading",
}
"""By module and qualified name."""

_SCORING = ("evaluation", "the validation loss", "scoring")
_NOT_TOLD = {"torch", "torchvision", *sys.stdlib_module_names} - {"__main__"}
_LOCALS = {
    LOADER: ("self",),
    "detengine.engine.trainer:do_train": ("iteration",),
    "detengine.engine.trainer:train_step": ("batches",),
    "detengine.engine.inference:compute_on_dataset": ("image_ids",),
    "detengine.engine.validation_loss:validation_loss": ("image_ids",),
    "detengine.data.dataset:DetectionDataset.read_image": ("index", "path"),
}
"""Where a batch, an iteration, an image or a loader stands, by the names of the locals."""
_IMAGES = {
    "detengine.engine.trainer:train_step": "batches",
    "detengine.engine.inference:compute_on_dataset": "images",
    "detengine.engine.validation_loss:validation_loss": "images",
}
"""Where a batch's images stand."""
_LISTED = 5


def position_of(frame: FrameType) -> Position:
    """What the thread of that innermost frame does, the innermost phase first."""
    return _position_of(list(_outwards(frame)))


def position_of_error(error: BaseException) -> Position:
    """What was being done when an error was raised: the frames that it has passed."""
    frames = []
    traceback = error.__traceback__
    while traceback is not None:
        frames.append(traceback.tb_frame)
        traceback = traceback.tb_next
    return _position_of(frames[::-1], is_error=True)


def _position_of(frames: list[FrameType], *, is_error: bool = False) -> Position:
    """frames: the innermost first. is_error: they raised one, of which the images may be the cause,
    and their sizes are told, too."""
    names = [_name(each) for each in frames]
    phases, details = [], []
    waits = False
    if collective := _collective(frames):
        phases.append("a collective")
        details.append(collective)
        waits = True
    for name in names:
        phase = PHASES.get(name)
        if phase is not None and phase not in phases:
            phases.append(phase)
    if phases[:2] == ["forward", "data"]:  # of a transform, which is a module, too
        del phases[0]
    if names and PHASES.get(names[0]) == BACKWARD:  # among it, the ranks' gradients are averaged
        waits = True
    function = _innermost_function(names)
    if not phases:
        phases.append(function or "nothing that is known")
    elif function and not waits:
        details.append(f"in {function}")
    known = [text for each in frames for text in _known(each, between=phases[0] == "data")]
    known += [text for each in frames for text in _sizes(each)] if is_error else []
    # ranks that wait, wait alike, and are told together: their images are no cause
    no_cause = waits and not is_error
    details += [text for text in known if not (no_cause and text.startswith("image ids"))]
    return Position(_most_telling(phases), ", ".join(dict.fromkeys(details)), waits)


def _most_telling(phases: list[str]) -> str:
    """The innermost phase, in the outermost that is not training, which all the rest is in."""
    inner, outer = phases[0], [phase for phase in phases[1:] if phase in _SCORING]
    inner = "training" if inner == "a training step" else inner
    return f"{inner}, in {outer[0]}" if outer else inner


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _name(frame: FrameType) -> str:
    return f"{frame.f_globals.get('__name__', '')}:{frame.f_code.co_qualname}"


def _collective(frames: list[FrameType]) -> str:
    """What of the group was called, and by whom; "" if the innermost frames are no call of it."""
    called = ""
    for name in map(_name, frames):
        module, _, function = name.partition(":")
        if name.startswith(COLLECTIVE):
            if module != "torch.distributed.c10d_logger":  # it wraps every one of them
                called = function.rpartition(".")[2]
        elif called:
            return f"{called}, in {function}"
        elif not module.startswith("torch."):
            return ""
    return called


def _innermost_function(names: list[str]) -> str:
    """The innermost function, unless a phase is named after it, that is not torch's or Python's."""
    for name in names:
        module, _, function = name.partition(":")
        if name in PHASES:
            return ""
        if module.partition(".")[0] not in _NOT_TOLD:
            return function
    return ""


def _known(frame: FrameType, *, between: bool) -> Iterator[str]:
    """The image ids, the iteration, the file and the loader's processes that a frame's locals tell.

    between: no iteration is on; the last was finished, and so was the last batch of a scoring.
    """
    values: Mapping[str, Any] = frame.f_locals if _name(frame) in _LOCALS else {}
    for local in _LOCALS.get(_name(frame), ()):
        if local not in values:
            continue
        value = values[local]
        if local == "self":
            yield from _reading(value)
        if local == "image_ids" and between:
            continue
        if local == "batches":
            value = [int(image_id) for batch in value for image_id in batch[2]]
        if local in ("batches", "image_ids"):
            yield f"image ids {list(value)}"
        elif local == "path":
            yield f"file {value}"
        elif local == "iteration":
            yield f"{'after ' if between else ''}iteration {value}"


def _reading(batches: Any) -> Iterator[str]:
    """What the processes behind a loader's iterator are reading, where they note it."""
    data = getattr(batches, "_dataset", None)
    if isinstance(data, ObservedData) and (reading := data.still_reading()):
        yield reading


def _sizes(frame: FrameType) -> Iterator[str]:
    """The sizes of a batch's images that a frame's locals tell, the largest first."""
    local, values = _IMAGES.get(_name(frame)), frame.f_locals
    if local is None or local not in values:
        return
    batches = [batch[0] for batch in values[local]] if local == "batches" else [values[local]]
    images = [image for batch in batches for image in batch if hasattr(image, "shape")]
    sizes = {tuple(image.shape[-2:]) for image in images if len(image.shape) >= 2}
    listed = sorted(sizes, key=math.prod, reverse=True)
    words = [" x ".join(map(str, size)) for size in listed[:_LISTED]]
    if words:
        more = f" and {len(listed) - _LISTED} more sizes" if len(listed) > _LISTED else ""
        yield f"images of {', '.join(words)}{more} pixels (height x width)"
