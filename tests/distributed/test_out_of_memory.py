"""Which errors say that the memory was not enough, and what is told of them."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from detengine.checkpoint import history
from detengine.checkpoint.files import save_file
from detengine.distributed.out_of_memory import describe, is_out_of_memory
from detengine.distributed.report import PeerFailedError, message_of
from detengine.engine.out_of_memory import telling_what_memory_was_for

OF_A_WORKER = (
    "Caught RuntimeError in DataLoader worker process 1.\nOriginal Traceback (most recent call "
    "last):\n  File x\nRuntimeError: unable to allocate shared memory(shm) for file </torch_1_2>: "
    "No space left on device (28)\n"
)


class PanicException(BaseException):
    """As pyo3's, which is no Exception either."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("could not create a primitive"),
        RuntimeError("can't start new thread"),
        RuntimeError("Resource temporarily unavailable"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("unable to mmap 96 bytes from file </torch_1_2>: Cannot allocate memory (12)"),
        RuntimeError(OF_A_WORKER),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        OSError("out of memory error when reading image file"),
        ImportError("libx.so: failed to map segment: Cannot allocate memory"),
    ],
)
def test_each_library_has_its_own_words_for_it(error: Exception) -> None:
    assert is_out_of_memory(error)
    wrapped = ValueError("the file is damaged")
    wrapped.__cause__ = error
    assert is_out_of_memory(wrapped)
    assert describe(error).startswith("the memory is not enough: ")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: device-side assert triggered"),
        ValueError("/data/out of memory/train.json is cut off"),
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("Connect failed: Resource temporarily unavailable"),
        ImportError("No module named 'timm'"),
        RuntimeError("unable to open shared memory object </torch_1_2>: Too many open files (24)"),
    ],
)
def test_other_errors_are_none(error: Exception) -> None:
    assert not is_out_of_memory(error)


def test_an_error_without_a_word_is_told_by_its_name() -> None:
    assert message_of(MemoryError()).startswith(
        "the memory is not enough: MemoryError. In training"
    )


def test_a_worker_is_told_in_its_own_last_words_with_the_cure_for_shared_memory() -> None:
    told = message_of(RuntimeError(OF_A_WORKER))
    assert "worker process 1: RuntimeError: unable to allocate shared memory" in told
    assert "\n" not in told
    assert "make /dev/shm larger" in told


def test_another_ranks_lack_of_memory_is_that_ranks() -> None:
    message = "rank 1 failed: the memory is not enough: CUDA out of memory"
    assert message_of(PeerFailedError(message)) == message


def test_what_it_was_for_is_noted_once_and_the_error_stays_what_it_is() -> None:
    with (
        pytest.raises(torch.OutOfMemoryError, match="CUDA") as caught,
        telling_what_memory_was_for(),
        telling_what_memory_was_for(),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory")
    [note] = caught.value.__notes__
    assert note.startswith("in ")
    assert f", {note}: CUDA" in message_of(caught.value)


def test_a_panic_for_want_of_threads_is_an_error_and_any_other_stays_one() -> None:
    with pytest.raises(MemoryError, match="no threads could start"), telling_what_memory_was_for():
        raise PanicException("ThreadPoolBuildError: Resource temporarily unavailable")
    with pytest.raises(PanicException), telling_what_memory_was_for():
        raise PanicException("index out of bounds")


def test_a_checkpoint_that_there_is_no_memory_to_read_is_not_passed_over(tmp_path: Path) -> None:
    for name in ("model_0000001.pth", "model_0000002.pth"):
        save_file(tmp_path / name, {"model": {"weight": torch.zeros(1)}, "iteration": 1})

    def read(path: Path) -> None:
        error = ValueError(f"{path} is no checkpoint")
        error.__cause__ = MemoryError()
        raise error

    with pytest.raises(ValueError, match="no checkpoint"):
        history.read_newest(tmp_path, read)


LIMITED = """
import resource, sys, threading
from pathlib import Path
from detengine.checkpoint.background import BackgroundWork
from detengine.checkpoint.files import load_file, save_file

path = Path(sys.argv[1])
large = {"model": {}, "text": bytes(1 << 26)}
other = path.with_name("model_0000001.pth")
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + (1 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for work in (
    lambda: BackgroundWork().start(print),
    lambda: load_file(path),
    lambda: save_file(other, large),
):
    try:
        work()
    except Exception as error:
        print(type(error).__name__, str(error).splitlines()[:1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_without_memory_a_thread_is_refused_no_file_is_damaged_and_no_disk_is_full(
    tmp_path: Path,
) -> None:
    path = tmp_path / "model_final.pth"
    save_file(path, {"model": {"weight": torch.zeros(1 << 22)}})
    command = [sys.executable, "-c", LIMITED, str(path)]
    printed = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    thread, file, saved = printed.splitlines()
    assert thread == 'MemoryError ["can\'t start new thread"]'
    assert file.startswith(("MemoryError", "RuntimeError")), file
    assert saved.startswith("MemoryError"), saved
    assert [each.name for each in tmp_path.iterdir() if "0000001" in each.name] == []
