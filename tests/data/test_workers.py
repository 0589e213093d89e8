"""Loader processes that die are named, with the image that they were reading."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext

import pytest
import torch
from torch.utils.data import DataLoader

from detengine.data.workers import ObservedData, naming_dead_workers


class Numbers:
    """Ten samples; a process that reads the fatal one is killed."""

    name = "numbers"

    def __init__(self, fatal: int = -1, number: int = signal.SIGKILL) -> None:
        self.fatal, self.number = fatal, number

    def __len__(self) -> int:
        return 10

    def __getitem__(self, key):
        index = key[1] if isinstance(key, tuple) else key
        if index == self.fatal:
            os.kill(os.getpid(), self.number)
        return torch.tensor(index)

    def name_of(self, key) -> str:
        return f"image {100 + key[1]} ({key[1]}.jpg) of data set 'numbers'"


def _loader(data: Numbers, keys) -> DataLoader:
    observed = ObservedData(data, 2)
    return DataLoader(
        observed,
        batch_sampler=[[key] for key in keys],
        num_workers=2,
        worker_init_fn=observed.start_worker,
    )


@pytest.mark.parametrize("keys", [range(10), [(3, index) for index in range(10)]])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_killed_worker_is_named_with_its_last_image(keys):
    loader = _loader(Numbers(fatal=5), keys)
    with (
        pytest.raises(
            ChildProcessError,
            match=r"^data-loader worker 1 \(process \d+\), which last began to read image 105 "
            r"\(5.jpg\) of data set 'numbers', was killed by the signal Killed\. If the memory",
        ),
        naming_dead_workers(loader),
    ):
        list(loader)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_worker_that_leaves_is_named_too():
    loader = _loader(Numbers(fatal=0, number=signal.SIGSEGV), range(10))
    with (
        pytest.raises(ChildProcessError, match=r"worker 0 .*image 100 .*(Segmentation|unexpected)"),
        naming_dead_workers(loader),
    ):
        list(loader)


def test_without_a_death_the_samples_and_other_errors_pass():
    loader = _loader(Numbers(), range(10))
    with naming_dead_workers(loader):
        assert torch.cat(list(loader)).tolist() == list(range(10))
    with pytest.raises(RuntimeError, match="another"), naming_dead_workers(loader):
        raise RuntimeError("another")
    other = "DataLoader worker (pid 1) is killed by signal: Killed. "
    with pytest.raises(RuntimeError, match="pid 1"), naming_dead_workers(loader):
        raise RuntimeError(other)


def test_an_error_says_which_sample_it_was_at_and_a_stop_iteration_is_one() -> None:
    class Empty(Numbers):
        def __getitem__(self, key):
            raise StopIteration if key == 3 else LookupError("no such key")

    with pytest.raises(LookupError) as raised:
        ObservedData(Empty(), 0)[4]
    assert raised.value.__notes__ == ["while image 104 (4.jpg) of data set 'numbers' was read"]
    for workers in (0, 1):
        observed = ObservedData(Empty(), workers)
        loader = DataLoader(
            observed, num_workers=workers, sampler=[3], worker_init_fn=observed.start_worker
        )
        with pytest.raises(RuntimeError, match="a StopIteration ended the reading of image 103"):
            list(loader)


def test_workers_that_are_reading_are_told_with_their_samples_the_longest_first() -> None:
    observed = ObservedData(Numbers(), 5)
    assert observed.still_reading() == ""
    for worker, seconds in enumerate((20.4, 1000.2, 5.1, 300.3)):
        observed._process_ids[worker] = 70 + worker
        observed._keys[worker] = torch.tensor((0, worker))
        observed._since[worker] = time.monotonic() - seconds
    image = "image {0} ({1}.jpg) of data set 'numbers'"
    assert observed.still_reading() == (
        f"data-loader worker 1 (process 71) has been reading {image.format(101, 1)} for 1000 s, "
        f"data-loader worker 3 (process 73) has been reading {image.format(103, 3)} for 300 s, "
        f"data-loader worker 0 (process 70) has been reading {image.format(100, 0)} for 20 s, "
        "and 1 more are reading, too"
    )


def test_a_folder_for_temporary_files_without_room_for_a_sockets_name_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    for longest, refused in ((89, False), (90, True)):
        monkeypatch.setitem(config, "tempdir", f"/{'x' * (longest - 15)}/pymp-12345678")
        with pytest.raises(ValueError, match=r"Set TMPDIR to .* 75") if refused else nullcontext():
            ObservedData(Numbers(), 1)
    ObservedData(Numbers(), 0)


def test_an_observed_data_set_has_the_attributes_of_its_own():
    observed = ObservedData(Numbers(), 2)
    assert (observed.name, len(observed), int(observed[3])) == ("numbers", 10, 3)
    with pytest.raises(AttributeError, match="colour"):
        _ = observed.colour


def test_a_connection_that_breaks_because_a_worker_died_is_named_so():
    loader = _loader(Numbers(), [0])
    next(iter(loader))  # its workers have started, and have ended with it
    with (
        pytest.raises(ChildProcessError, match=r"image 100 .* ended unexpectedly"),
        naming_dead_workers(loader),
    ):
        raise ConnectionResetError


def test_a_process_ends_though_something_still_holds_its_workers():
    program = (
        "import sys; sys.path.insert(0, 'tests/data')\n"
        "from test_workers import Numbers, _loader\n"
        "kept = iter(_loader(Numbers(), range(10)))\n"
        "next(kept); sys.modules['kept'] = kept\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_workers_end_when_their_main_process_is_killed_though_nobody_takes_their_batches(tmp_path):
    """Each batch is more than a pipe holds, and each worker has two of them to hand over."""
    program = """
import os, signal, sys, time
import torch
from torch.utils.data import DataLoader
from detengine.data.shared_batches import SharedBatches
from detengine.data.workers import ObservedData

class Data:
    def __len__(self):
        return 100
    def __getitem__(self, index):
        return index
    def name_of(self, key):
        return str(key)

def collate(samples):
    return [torch.zeros(16000, dtype=torch.uint8) for _ in range(20)]

observed = ObservedData(Data(), 2)
loader = DataLoader(observed, num_workers=2, collate_fn=SharedBatches(collate),
                    worker_init_fn=observed.start_worker)
batches = iter(loader)
next(batches)
while len(observed.process_ids()) < 2:
    time.sleep(0.01)
print(*observed.process_ids(), flush=True)
time.sleep(1)
os.kill(os.getpid(), signal.SIGKILL)
"""
    script = tmp_path / "killed.py"
    script.write_text(program)
    ended = subprocess.run([sys.executable, script], stdout=subprocess.PIPE, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    workers = [int(each) for each in ended.stdout.split()]
    assert len(workers) == 2
    deadline = time.monotonic() + 20
    while any(map(_is_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(_is_alive, workers))


def _is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True
