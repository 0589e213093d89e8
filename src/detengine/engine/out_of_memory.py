"""What was being done when the memory was not enough. Nothing here imports torch."""

from collections.abc import Iterator
from contextlib import contextmanager

from detengine.distributed.out_of_memory import NO_THREAD, is_out_of_memory
from detengine.distributed.report import PeerFailedError
from detengine.engine.phase import position_of_error


@contextmanager
def telling_what_memory_was_for() -> Iterator[None]:
    """A block whose errors of too little memory get a note of where they were raised.

    That is the part of the step, the iteration, the images and their sizes, as far as they are
    known. The error itself stays what it is; but the panic of a part that is written in Rust, which
    is no Exception and ends a program with its traceback, becomes a MemoryError.
    """
    try:
        yield
    except Exception as error:
        is_own = not isinstance(error, PeerFailedError)
        if is_own and not getattr(error, "__notes__", None) and is_out_of_memory(error):
            error.add_note(f"in {position_of_error(error)}")
        raise
    except BaseException as panic:
        if type(panic).__name__ != "PanicException" or NO_THREAD not in str(panic):
            raise
        told = MemoryError("no threads could start")
        told.add_note(f"in {position_of_error(panic)}")
        raise told from panic
