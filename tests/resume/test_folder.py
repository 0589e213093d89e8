"""What a run's folder goes through between a stop and a resume."""

import re
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest

from detengine.checkpoint.files import load_file, save_file

AT_15 = ("saved .*model_0000015", SIGKILL)


@pytest.fixture
def killed(new_run: Any) -> Any:
    """A run that was killed when its checkpoint of iteration 15 had been written."""
    run = new_run()
    assert run.train(signal_at=AT_15) == -SIGKILL
    assert run.last_checkpoint() == "model_0000015.pth"
    return run


def test_another_configuration_is_refused_with_a_table(killed: Any) -> None:
    before = {path: path.read_bytes() for path in killed.folder.iterdir() if path.is_file()}
    changes = {"SOLVER.BASE_LR": 0.5, "INPUT.MIN_SIZE_TRAIN": (48,), "SOLVER.LOG_PERIOD": 5}
    assert killed.train(resume=True, settings=changes) == 1
    output = " ".join(killed.output().split())
    assert "was started with another configuration" in output
    assert re.search(r"SOLVER\.BASE_LR: was 0\.003, is 0\.5", output)
    assert re.search(r"INPUT\.MIN_SIZE_TRAIN: was .*40.*48.*56.*, is .*48", output)
    assert "SOLVER.LOG_PERIOD: was" not in output
    after = {path: path.read_bytes() for path in before if path.suffix not in (".txt", ".lock")}
    assert after.items() <= before.items()


def test_more_iterations_go_on_with_a_finished_run(
    new_run: Any, unbroken: Any, differences: Any
) -> None:
    settings = {
        "SOLVER.SCHEDULE": "multistep", "SOLVER.STEPS": (10,), "SOLVER.WARMUP_ITERS": 4,
    }  # fmt: skip
    run = new_run(settings)
    assert run.train(settings={"SOLVER.MAX_ITER": 25}) == 0, run.output()
    assert run.train(resume=True) == 0, run.output()
    assert "SOLVER.MAX_ITER was 25, and is 40 from here on" in run.log()
    assert differences(run, unbroken(settings)) == []


def test_a_moved_folder_is_resumed(killed: Any, unbroken: Any, differences: Any) -> None:
    killed.folder = killed.folder.rename(killed.folder.with_name("moved"))
    assert killed.train(resume=True) == 0, killed.output()
    assert differences(killed, unbroken()) == []


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.faults
@pytest.mark.parametrize("damage", [_truncate, _empty, _flip_a_bit, Path.unlink])
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_used(
    damage: Any, killed: Any, unbroken: Any, differences: Any, record_fault: Any
) -> None:
    damage(killed.folder / "model_0000015.pth")
    assert killed.train(resume=True) == 0, killed.output()
    warnings = [line for line in killed.log().splitlines() if " WARNING: " in line]
    assert any("model_0000015.pth" in line for line in warnings), warnings
    assert "10 of 40 iterations are done" in killed.log()
    assert differences(killed, unbroken()) == []
    record_fault(
        "Damage",
        f"the newest checkpoint of a killed run, {damage.__name__.strip('_').replace('_', ' ')}",
        made="its file is changed between the kill and --resume",
        promised="named; the run goes on from the one before and ends bit-identical",
        tried="one run of 40 iterations",
        happened="bit-identical to an unbroken run",
    )


@pytest.mark.faults
@pytest.mark.parametrize("damage", [_truncate, Path.unlink])
def test_a_finished_run_whose_last_checkpoint_is_damaged_gets_it_again(
    damage: Any, new_run: Any, unbroken: Any, differences: Any, record_fault: Any
) -> None:
    run = new_run()
    assert run.train() == 0, run.output()
    damage(run.folder / "model_final.pth")
    assert run.train(resume=True) == 0, run.output()
    assert differences(run, unbroken()) == []
    assert run.last_checkpoint() == "model_final.pth"
    record_fault(
        "Damage",
        f"model_final.pth of a finished run, {damage.__name__.strip('_')}",
        made="its file is changed before --resume",
        promised="it is written again, bit-identical",
        tried="one run",
        happened="written again",
    )


def test_the_newest_checkpoints_are_kept_also_over_a_kill(
    new_run: Any, unbroken: Any, differences: Any
) -> None:
    run = new_run({"SOLVER.KEEP_CHECKPOINTS": 2})
    assert run.train(signal_at=AT_15) == -SIGKILL
    assert run.checkpoints() == {"model_0000010.pth", "model_0000015.pth"}
    assert run.train(resume=True) == 0, run.output()
    kept = {"model_0000035.pth", "model_0000040.pth", "model_final.pth"}
    assert run.checkpoints() == kept
    checksums = {path.name for path in run.folder.glob("*.sha256")}
    assert checksums == {f"{name}.sha256" for name in (*kept, "config.yaml")}
    assert differences(run, unbroken()) == []


@pytest.mark.parametrize("at", [None, "Start evaluation", "iter: 12 ", "saved .*model_best"])
def test_the_best_is_that_of_the_highest_score_also_over_a_kill(
    at: str | None, new_run: Any
) -> None:
    name = "SOLVER.BEST_METRIC"
    metric = "val/shapes_val/bbox/AR100"
    run = new_run({name: "bbox/AR100", "SOLVER.TEST_PERIOD": 4, "SOLVER.KEEP_CHECKPOINTS": 1})
    if at is not None:
        assert run.train(scored=True, signal_at=(at, SIGKILL)) == -SIGKILL, run.output()
    assert run.train(resume=True, scored=True) == 0, run.output()
    lines = run.metrics("val/")
    assert [line["iteration"] for line in lines] == list(range(4, 41, 4))
    best = max(lines, key=lambda line: line[metric])  # the first of equals
    assert best[metric] > 0
    assert load_file(run.folder / "model_best.pth")["iteration"] == best["iteration"]
    assert run.checkpoints() == {"model_0000040.pth", "model_best.pth", "model_final.pth"}
    assert run.last_checkpoint() == "model_final.pth"


def test_far_in_a_resumed_run_opens_the_images_of_its_own_batches_only(
    new_run: Any, tmp_path: Path
) -> None:
    run = new_run({"SOLVER.SCHEDULE": "multistep", "SOLVER.STEPS": (90_000,)})
    assert run.train(settings={"SOLVER.MAX_ITER": 1}) == 0, run.output()
    checkpoint = load_file(run.folder / "model_final.pth")
    checkpoint["iteration"] = checkpoint["scheduler"]["last_epoch"] = 80_000
    save_file(run.folder / "model_final.pth", checkpoint)
    opened = tmp_path / "opened.txt"
    code = run.train(resume=True, read_images=opened, settings={"SOLVER.MAX_ITER": 80_002})
    assert code == 0, run.output()
    assert [line["iteration"] for line in run.metrics()] == [1, 80_001, 80_002]
    assert len(opened.read_text().splitlines()) == 2 * 2
