"""Whether an error says that the memory was not enough, and what is told of it.

Nothing here imports torch: the command line asks, and a data loader's worker.
"""

import errno
import mmap
import threading
from collections.abc import Iterator

_SIGNS = (
    "out of memory",  # CUDA's, and those of other accelerators
    "allocate memory",  # torch's on a CPU, and the system's word for ENOMEM
    "_ALLOC_FAILED",  # cuBLAS's and cuDNN's
    "bad_alloc",  # C++'s
    "MemoryError in DataLoader worker",
    "could not create a primitive",  # oneDNN's only word for it
    "can't start new thread",  # whose stack has no room
)
NO_THREAD = "Resource temporarily unavailable"
"""Where a thread cannot start, for want of memory or beyond `ulimit -u`: C++'s whole message."""
_SHARED, _FULL = "</torch_", ("No space left", "allocate")
"""A file of torch's in shared memory, and that there was no room for it, not no descriptor."""
_ROOM_OF_THREAD = 16 << 20
_CURE = (
    "In training, lower SOLVER.IMS_PER_BATCH or raise SOLVER.ACCUMULATE, which a run may be "
    "resumed with; in scoring, lower TEST.IMS_PER_BATCH, in predicting --batch-size; start fewer "
    "processes (DATALOADER.NUM_WORKERS, ranks); or make the images (INPUT.MAX_SIZE_TRAIN, "
    "MAX_SIZE_TEST) or the model smaller."
)
_CURE_OF_SHARED = (
    "It is shared memory that ran out, in which the loader's processes hand over their batches: "
    "make /dev/shm larger (docker run --shm-size), or lower DATALOADER.NUM_WORKERS, "
    "SOLVER.IMS_PER_BATCH or TEST.IMS_PER_BATCH."
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch's allocators, the system or Python had nothing left.

    Also where it made another error of it, such as that a file cannot be read.
    """
    return next(_causes_of_memory(error), None) is not None


def describe(error: BaseException) -> str:
    """One paragraph: what the memory was not enough for, who said so, and what to do.

    error: of which `is_out_of_memory` is true. Its notes say what it was for.
    """
    cause = next(_causes_of_memory(error), error)
    text = str(cause)
    lines = [line for line in text.splitlines() if line.strip()]
    reason = (lines or [type(cause).__name__])[0].strip()
    if "Original Traceback" in text:  # of a loader's worker, whose own words come last
        reason = f"{reason.rstrip('.')}: {lines[-1].strip()}"
    place = "".join(f", {note}" for note in getattr(error, "__notes__", ()))
    cure = _CURE_OF_SHARED if _is_of_shared(text) else _CURE
    return f"the memory is not enough{place}: {reason.rstrip('.')}. {cure}"


def start_thread(thread: threading.Thread) -> None:
    """Start a thread, or raise MemoryError where it would find no memory to begin with.

    Of one that cannot begin, Thread.start hears nothing, and waits for ever (seen in Python 3.11).
    So it is seen first whether there is room: for its stack, and some more.
    """
    try:
        mmap.mmap(-1, _ROOM_OF_THREAD).close()  # addresses alone: no page is touched
    except OSError as error:
        raise MemoryError("can't start new thread") from error
    thread.start()


def _causes_of_memory(error: BaseException) -> Iterator[BaseException]:
    """Those of the error and its causes that say so."""
    link: BaseException | None = error
    while link is not None:
        if _says_so(link):
            yield link
        link = link.__cause__


def _says_so(error: BaseException) -> bool:
    text = str(error)
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM or text.startswith("out of memory")  # Pillow's
    if isinstance(error, RuntimeError | ImportError):
        is_said = text == NO_THREAD or any(sign in text for sign in _SIGNS)
        return is_said or _is_of_shared(text)
    return isinstance(error, MemoryError)


def _is_of_shared(text: str) -> bool:
    return _SHARED in text and any(sign in text for sign in _FULL)
