"""What selftest calls equal, and what it says otherwise. Continuous integration runs it whole."""

from pathlib import Path

import pytest
import typer

from detengine.cli.selftest import (
    TOLERANCE,
    Side,
    ap_lines,
    device_for,
    loss_differences,
    loss_table,
    new_folder,
    raise_if_unable,
    score_differences,
)

RESULTS = {"val": {"bbox": {"AP": 0.25, "AP50": 0.5}, "segm": {"AP": 0.125, "AP50": 0.5}}}


def logged(iteration: int, **losses: float) -> dict[str, float]:
    return {"iteration": iteration} | {f"train/{name}": value for name, value in losses.items()}


def test_each_iteration_shows_the_loss_that_differs_most() -> None:
    alone = [logged(1, loss=3.0, loss_mask=1.0), logged(2, loss=2.0, loss_mask=0.5)]
    shared = [logged(1, loss=3.0, loss_mask=1.0), logged(2, loss=2.002, loss_mask=0.4)]
    rows = loss_differences(alone, shared)
    assert [row.relative for row in rows] == [0.0, pytest.approx(0.2)]
    assert rows[1].relative > TOLERANCE
    table = loss_table(rows, 3).splitlines()
    assert table[0].split()[:4] == ["iteration", "1", "rank", "3"]
    assert table[2].split() == ["2", "2.000000", "2.002000", "2e-01"]


@pytest.mark.parametrize("other", [{"loss": 1.0}, {"loss": 1.0, "loss_mask": float("nan")}])
def test_a_loss_that_is_missing_or_not_finite_is_a_difference(other: dict[str, float]) -> None:
    (row,) = loss_differences([logged(1, loss=1.0, loss_mask=0.5)], [logged(1, **other)])
    assert row.relative > TOLERANCE


def test_runs_of_other_iterations_are_not_compared() -> None:
    with pytest.raises(ValueError, match=r"1 rank logged the iterations \[1\], several \[1, 2\]"):
        loss_differences([logged(1, loss=1.0)], [logged(1, loss=1.0), logged(2, loss=1.0)])


def test_scores_that_differ_in_the_last_bit_are_named() -> None:
    bbox = {"AP": 0.25, "AP50": 0.5000000000000001}
    assert score_differences(RESULTS, RESULTS) == []
    assert score_differences(RESULTS, RESULTS | {"val": RESULTS["val"] | {"bbox": bbox}}) == [
        "val/bbox/AP50: 0.5 on 1 rank, 0.5000000000000001 on several"
    ]
    (line, *_) = score_differences(RESULTS, {"val": {"bbox": RESULTS["val"]["bbox"]}})
    assert line == "val/segm/AP: 0.125 on 1 rank, None on several"


def test_an_ap_of_zero_shows_nothing_and_is_an_error() -> None:
    assert ap_lines(RESULTS) == ["val/bbox/AP 0.25 on both", "val/segm/AP 0.125 on both"]
    with pytest.raises(ValueError, match=r"val/bbox/AP is 0.0; expected more than 0"):
        ap_lines({"val": {"bbox": {"AP": 0.0}}})


def test_a_run_that_fails_ends_the_test_with_its_last_words(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended:
        Side(2, "cpu", tmp_path).run("train-2", ["train"], ["SOLVER.IMS_PER_BATCH", "3"])
    assert ended.value.exit_code == 1
    said = capfd.readouterr().err
    assert said.startswith("error: train-2 ended with exit code 1")
    assert "SOLVER.IMS_PER_BATCH is 3" in said


def test_fewer_than_two_ranks_and_a_torchrun_around_it_are_errors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ValueError, match="--nproc is 1; expected 2 or more"):
        raise_if_unable(1)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="starts its ranks itself"):
        raise_if_unable(2)


def test_an_old_folder_is_not_written_into(tmp_path: Path) -> None:
    assert new_folder(tmp_path / "runs" / "new").is_dir()
    with pytest.raises(FileExistsError, match="selftest writes into a new folder"):
        new_folder(tmp_path)


def test_ranks_without_a_gpu_each_take_the_cpu_and_say_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert device_for(1000) == "cpu"
    assert capsys.readouterr().out.startswith("1000 ranks on the CPU, one thread each (")
