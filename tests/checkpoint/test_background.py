import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from detengine.checkpoint.background import BackgroundWork
from detengine.checkpoint.checkpointer import Checkpointer
from detengine.checkpoint.files import load_file


def make_run(folder: Path, **options: object) -> Checkpointer:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    model[2].weight = nn.Parameter(model[0].weight.detach().t().contiguous())
    model.register_buffer("tied", model[0].weight.detach())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    return Checkpointer(model, optimizer, save_dir=folder, **options)


class Gate:
    """Holds all writing to disk until it is opened."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        self._fsync = os.fsync

    def fsync(self, descriptor: int) -> None:
        self.reached.set()
        assert self.opened.wait(60)
        self._fsync(descriptor)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate()
    monkeypatch.setattr(os, "fsync", gate.fsync)
    yield gate
    gate.opened.set()


@pytest.fixture
def vanished(tmp_path: Path) -> Checkpointer:
    """A run whose folder was removed; it writes in the background."""
    run = make_run(tmp_path / "gone", background=True)
    (tmp_path / "gone").rmdir()
    return run


def test_the_files_are_the_same_with_and_without_background(tmp_path: Path) -> None:
    for name, background in (("here", False), ("beside", True)):
        run = make_run(tmp_path / name, background=background)
        run.save("model_0000001", iteration=1, meters={"loss": [0.5]})
        run.save_best(iteration=1)
        run.wait()
    here, beside = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()}
                    for n in ("here", "beside"))  # fmt: skip
    assert sorted(here) == [
        "last_checkpoint", "model_0000001.pth", "model_0000001.pth.sha256", "model_best.pth",
        "model_best.pth.sha256",
    ]  # fmt: skip
    assert here == beside


def test_saving_in_the_background_does_not_wait_for_the_disk(tmp_path: Path, gate: Gate) -> None:
    run = make_run(tmp_path, background=True)
    run.save("model_0000001", iteration=1)
    assert gate.reached.wait(60)
    assert run.problem() is None
    assert not (tmp_path / "model_0000001.pth").exists()
    gate.opened.set()
    run.wait()
    assert load_file(tmp_path / "model_0000001.pth")["iteration"] == 1


def test_training_on_while_it_is_written_changes_nothing_in_the_file(
    tmp_path: Path, gate: Gate
) -> None:
    run = make_run(tmp_path, background=True)
    expected = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    meters = {"loss": [0.5]}
    run.save("x", meters=meters)
    meters["loss"].append(0.25)
    for tensor in run.model.state_dict().values():
        tensor.fill_(7)
    gate.opened.set()
    run.wait()
    data = load_file(tmp_path / "x.pth")
    assert data["meters"] == {"loss": [0.5]}
    assert all(torch.equal(data["model"][name], tensor) for name, tensor in expected.items())


def test_a_second_save_waits_for_the_first(tmp_path: Path, gate: Gate) -> None:
    run = make_run(tmp_path, background=True)
    run.save("model_0000001", iteration=1)
    second = threading.Thread(target=run.save, args=("model_0000002",), kwargs={"iteration": 2})
    second.start()
    second.join(0.1)
    assert second.is_alive()
    gate.opened.set()
    second.join()
    run.wait()
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000002.pth\n"


@pytest.mark.parametrize("method", ["resume", "load", "has_checkpoint", "get_checkpoint_file"])
def test_what_reads_the_folder_waits_for_the_writing(
    tmp_path: Path, gate: Gate, method: str
) -> None:
    run = make_run(tmp_path, background=True)
    run.save("model_0000001", iteration=1)
    threading.Timer(0.05, gate.opened.set).start()
    path = [tmp_path / "model_0000001.pth"] if method == "load" else []
    assert getattr(run, method)(*path)


@pytest.mark.parametrize("method", ["wait", "save", "save_best"])
def test_a_failure_is_kept_and_raised_once_by_what_comes_next(
    vanished: Checkpointer, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    vanished.save("x", iteration=1)
    vanished.has_checkpoint()
    assert isinstance(vanished.problem(), FileNotFoundError)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    with pytest.raises(FileNotFoundError, match=r"cannot write x\.pth: .*there is no folder"):
        getattr(vanished, method)(*["y"] if method == "save" else [])
    assert vanished.problem() is None
    vanished.save_dir.mkdir()
    vanished.save("z", iteration=3)
    vanished.wait()
    assert vanished.get_checkpoint_file().name == "z.pth"


def test_an_argument_that_is_not_plain_is_refused_before_the_thread_starts(tmp_path: Path) -> None:
    run = make_run(tmp_path, background=True)
    with pytest.raises(TypeError, match=r"\['meters'\] is a builtins\.object"):
        run.save("x", meters=object())
    assert not list(tmp_path.iterdir())


def test_no_thread_is_left_when_the_writing_is_done(tmp_path: Path) -> None:
    before = threading.active_count()
    run = make_run(tmp_path, background=True)
    run.save("x")
    run.wait()
    assert threading.active_count() == before


def test_a_writing_is_finished_when_the_interpreter_ends(tmp_path: Path) -> None:
    program = (
        "import os, sys, time; from pathlib import Path; from torch import nn;"
        "from detengine.checkpoint.checkpointer import Checkpointer; fsync = os.fsync;"
        "os.fsync = lambda descriptor: (time.sleep(0.2), fsync(descriptor));"
        "run = Checkpointer(nn.Linear(2, 2), save_dir=sys.argv[1], background=True);"
        "run.save('model_0000001', iteration=1); sys.exit(75)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    command = [sys.executable, "-c", program, str(tmp_path)]
    assert subprocess.run(command, env=environment, timeout=120).returncode == 75
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth\n"
    assert load_file(tmp_path / "model_0000001.pth")["iteration"] == 1


def test_the_last_n_are_kept_and_the_best(tmp_path: Path) -> None:
    run = make_run(tmp_path, background=True, keep_last=2)
    for iteration in (1, 2, 3, 4):
        run.save(f"model_000000{iteration}", iteration=iteration)
        if iteration == 2:
            run.save_best(iteration=iteration)
    run.save("model_final", iteration=4)
    run.wait()
    kept = ["model_0000003", "model_0000004", "model_best", "model_final"]
    assert sorted(path.stem for path in tmp_path.glob("*.pth")) == kept
    assert sorted(path.name for path in tmp_path.glob("*.sha256")) == [
        f"{name}.pth.sha256" for name in kept
    ]
    assert run.get_checkpoint_file().name == "model_final.pth"


def test_keeping_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep_last is 0; expected 1 or more, or None"):
        make_run(tmp_path, keep_last=0)


def test_a_failure_is_told_once() -> None:
    def fail() -> None:
        raise OSError("disk")

    work = BackgroundWork()
    work.start(fail)
    work.join()
    assert str(work.take_problem()) == "disk"
    assert work.take_problem() is None
