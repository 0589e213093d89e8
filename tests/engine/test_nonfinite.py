"""Steps that are not finite: no trace of them but their record, on any rank."""

import copy
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from detengine.checkpoint.checkpointer import Checkpointer
from detengine.engine.nonfinite import MOST_RECORDS, NonFiniteError, NonFinitePolicy, total_loss
from detengine.engine.nonfinite_record import (
    NonFiniteRecord,
    RankShare,
    read_record,
    replay_command,
    write_record,
)
from detengine.engine.running_statistics import RunningStatistics
from detengine.engine.trainer import do_train
from detengine.solver.precision import Precision
from engine.faulty_detector import FAULTS, FaultyDetector, FaultyLoader

CPU = torch.device("cpu")
PROGRAM = Path(__file__).parent / "nonfinite_program.py"


@pytest.fixture(scope="module", params=[2, 3])
def of_ranks(
    request: pytest.FixtureRequest,
    run_ranks: Callable[..., list[str]],
    tmp_path_factory: pytest.TempPathFactory,
    tiny_config: Path,
) -> list[dict[str, Any]]:
    """What nonfinite_program.py saw on each rank, of two and of three."""
    folder = tmp_path_factory.mktemp("nonfinite")
    run_ranks(request.param, PROGRAM, folder, tiny_config, seconds=60)
    files = [folder / f"rank{rank}.json" for rank in range(request.param)]
    return [json.loads(file.read_text()) | {"folder": folder} for file in files]


def test_a_bad_step_of_one_rank_leaves_no_trace_on_any(of_ranks: list[dict[str, Any]]) -> None:
    assert [seen["traces"] for seen in of_ranks] == [[]] * len(of_ranks)


def test_all_ranks_end_with_the_same_error(of_ranks: list[dict[str, Any]]) -> None:
    errors = {seen["recorded"]["error"] for seen in of_ranks}
    assert len(errors) == 1
    error = errors.pop()
    assert "iteration 2, rank 1, image ids [21, 121], lr 0.1: loss inf, loss_first inf, " in error
    assert "rank 0" not in error  # its own loss was finite
    assert "It is recorded in" in error


def test_the_record_tells_every_ranks_part(of_ranks: list[dict[str, Any]]) -> None:
    assert all(seen["recorded"]["weights_are_those_before"] for seen in of_ranks)
    record = read_record(of_ranks[0]["folder"] / "record" / "nonfinite_0000002.json")
    about = (record.iteration, record.lr, record.seed, record.accumulate, record.dtype)
    assert about == (2, 0.1, 0, 2, "float32")
    assert record.world_size == len(of_ranks)
    expected = [[[20 + rank], [120 + rank]] for rank in range(len(of_ranks))]
    assert [share.image_ids for share in record.ranks] == expected
    assert [share.loss_is_finite for share in record.ranks] == [
        rank != 1 for rank in range(len(of_ranks))
    ]
    assert list(record.ranks[0].losses) == ["loss", "loss_first", "loss_second"]


def test_a_record_that_cannot_be_written_hides_nothing(of_ranks: list[dict[str, Any]]) -> None:
    errors = {seen["unwritable"] for seen in of_ranks}
    assert len(errors) == 1
    error = errors.pop()
    assert "iteration 1, rank 1, image ids [11]" in error
    assert "Its record could not be written: " in error
    assert "cannot write nonfinite_0000001.json" in error


def test_ranks_that_skip_go_on_alike(of_ranks: list[dict[str, Any]]) -> None:
    for seen in of_ranks:
        assert all(seen["skipped"].values()), seen["skipped"]


def test_so_many_skipped_steps_in_a_row_end_the_run(of_ranks: list[dict[str, Any]]) -> None:
    for seen in of_ranks:
        assert "stopped at 3 steps in a row" in seen["limited"]["error"]
        assert "(SOLVER.SKIP_LIMIT)" in seen["limited"]["error"]
        assert "iteration 6, rank 1, " in seen["limited"]["error"]
        assert seen["limited"]["as_before"]
    names = [f"nonfinite_000000{at}.json" for at in (2, 4, 5, 6)]
    weights = "nonfinite_0000006.pth"
    assert of_ranks[0]["limited"]["records"] == [*names, weights, f"{weights}.sha256"]


def test_losses_that_differ_by_rank_and_iteration_are_trained_on_and_logged(
    of_ranks: list[dict[str, Any]],
) -> None:
    names = ["train/loss", "train/loss_extra", "train/loss_first", "train/loss_second"]
    for seen in of_ranks:
        assert seen["other_losses"] == {"same": True, "names": [names, names], "error": ""}


def test_ranks_without_targets_train_on_alike(of_ranks: list[dict[str, Any]]) -> None:
    if len(of_ranks) == 2:
        for seen in of_ranks:
            assert seen["without_targets"] == {"mask_rcnn": True, "retinanet": True}


def test_an_error_of_one_ranks_losses_names_its_images(of_ranks: list[dict[str, Any]]) -> None:
    for rank, seen in enumerate(of_ranks):
        assert f"no loss at all, for image ids [41, 42] on rank {rank};" in seen["refused"]


def run(
    model: nn.Module,
    folder: Path | str = "",
    targets: Mapping[int, Any] | None = None,
    length: int = 4,
    **how: Any,
) -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)
    scheduler = LambdaLR(optimizer, lambda _: 1.0)
    do_train(
        model, FaultyLoader(length, 0, targets or {}), optimizer, scheduler,
        Checkpointer(model, optimizer, scheduler, folder), CPU, 1000, {"iteration": 0}, **how,
    )  # fmt: skip
    return optimizer


def test_a_run_of_finite_steps_is_the_plain_loop_to_the_bit() -> None:
    model, plain = FaultyDetector(), FaultyDetector()
    run(model)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9, fused=True)
    for batch in FaultyLoader(4, 0, {}):
        optimizer.zero_grad()
        sum(plain.train()(*batch[:2]).values()).backward()
        optimizer.step()
    for name, value in plain.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_an_ordinary_iteration_of_a_model_with_batch_norm_reads_nothing(
    host_reads: Any, clip_norm: float | None
) -> None:
    counts = []
    for length in (5, 15):  # with what the log line, the checkpoint and the end read, once each
        host_reads.counts.clear()
        with host_reads:
            run(FaultyDetector(), length=length, clip_norm=clip_norm, seed=0)
        counts.append(dict(host_reads.counts))
    assert counts[0] == counts[1] != {}


def test_skipped_steps_read_nothing_either(host_reads: Any) -> None:
    counts = []
    for length in (5, 15):
        host_reads.counts.clear()
        with host_reads, pytest.raises(NonFiniteError):
            run(FaultyDetector(), targets={2: {"fault": FAULTS[0]}}, length=length)
        counts.append(dict(host_reads.counts))
    assert counts[0] == counts[1]


def test_an_infinite_gradient_under_loss_scaling_ends_nothing_but_an_infinite_loss_does() -> None:
    model = FaultyDetector()
    run(model, targets={1: {"fault": "gradient"}}, precision=Precision("float16"))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(NonFiniteError, match=r"iteration 1, rank 0, image ids \[10\]"):
        run(model, targets={1: {"fault": FAULTS[0]}}, precision=Precision("float16"))
    for name, value in model.state_dict().items():
        assert torch.equal(before[name], value), name


def test_a_run_without_a_folder_leaves_no_record(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NonFiniteError, match="No record was written, because the run has no"):
        run(FaultyDetector(), targets={1: {"fault": FAULTS[0]}})
    assert not list(tmp_path.iterdir())


def test_of_many_skipped_steps_ten_leave_a_record_and_the_last_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    targets = {at: {"fault": FAULTS[0]} for at in range(1, 15)}
    policy = NonFinitePolicy("skip", 14)
    with pytest.raises(NonFiniteError):
        run(FaultyDetector(), tmp_path, targets, 16, on_nonfinite=policy, log_period=1)
    iterations = [*range(1, MOST_RECORDS + 1), 14]
    assert sorted(path.name for path in tmp_path.glob("*.json")) == [
        f"nonfinite_{iteration:07d}.json" for iteration in iterations
    ]
    assert "holds 10 records; of further steps none is kept" in caplog.text


def test_a_policy_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'go on', 10 .* \"stop\" or \"skip\".* at least 1"):
        run(FaultyDetector(), on_nonfinite=NonFinitePolicy("go on"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"'skip', 0 "):
        NonFinitePolicy("skip", 0)


WEIGHT = torch.ones(1, requires_grad=True)


@pytest.mark.parametrize(
    ("losses", "what"),
    [
        ({}, "no loss at all"),
        ([WEIGHT.sum()], "a list"),
        ({"loss_a": 1.0}, "'loss_a' as a float"),
        ({"loss_a": WEIGHT.expand(2)}, r"'loss_a' as a tensor of shape \(2,\)"),
        ({"loss_a": torch.ones(())}, "'loss_a' without a graph, which depend on no trained"),
    ],
)
def test_what_is_no_dict_of_losses_is_refused_with_its_images(losses: Any, what: str) -> None:
    with pytest.raises(ValueError, match=rf"{what}.* image ids \[7, 9\] on rank 0; expected a dic"):
        total_loss(losses, [7, 9])


def test_one_loss_without_a_graph_beside_another_is_trained_on() -> None:
    total = total_loss({"loss_a": torch.zeros(()), "loss_b": WEIGHT.sum()}, [1])
    assert total.requires_grad


def test_a_model_without_running_statistics_has_nothing_kept(host_reads: Any) -> None:
    statistics = RunningStatistics(nn.Sequential(nn.Conv2d(3, 3, 1), nn.GroupNorm(1, 3)))
    statistics.keep()
    assert statistics._kept == []


def test_statistics_are_put_back_where_a_step_was_skipped_only() -> None:
    norms = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False))
    statistics = RunningStatistics(norms)
    states: list[dict[str, Tensor]] = [copy.deepcopy(norms.state_dict())]
    for value, skipped in ((math.nan, 1.0), (2.0, 0.0)):
        statistics.keep()
        norms(torch.full((4, 3), value))
        statistics.put_back(torch.tensor([skipped]))
        states.append(copy.deepcopy(norms.state_dict()))
    for name, value in states[0].items():
        assert torch.equal(states[1][name], value)
    assert states[2]["0.num_batches_tracked"] == 1
    torch.testing.assert_close(states[2]["0.running_mean"], torch.full((3,), 0.2))


RECORD = NonFiniteRecord(
    iteration=123,
    lr=0.02,
    seed=None,
    accumulate=2,
    dtype="bfloat16",
    ranks=[
        RankShare([[1, 2], [3, 4]], {"loss": math.inf, "loss_a": -math.inf}),
        RankShare([[5, 6], [7, 8]], {"loss": 0.1, "loss_a": 0.1}),
    ],
)


def test_a_record_read_is_the_record_written_and_valid_json(tmp_path: Path) -> None:
    path = RECORD.path_in(tmp_path)
    assert path.name == "nonfinite_0000123.json"
    write_record(path, RECORD)
    assert read_record(path) == RECORD
    data = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert data["ranks"][0]["losses"] == {"loss": "inf", "loss_a": "-inf"}
    assert [each["loss_is_finite"] for each in data["ranks"]] == [False, True]
    assert data["world_size"] == 2
    assert RECORD.images == 8


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"ranks": []}', '{"iteration": 3}'])
def test_another_file_is_no_record(tmp_path: Path, text: str) -> None:
    path = tmp_path / "metrics.json"
    with pytest.raises(FileNotFoundError, match="there is no record"):
        read_record(path)
    path.write_text(text)
    with pytest.raises(ValueError, match=r"metrics\.json is no record .* Give a nonfinite_"):
        read_record(path)


def test_the_command_is_offered_where_there_is_a_configuration(tmp_path: Path) -> None:
    folder = tmp_path / "my runs"
    folder.mkdir()
    record = folder / "nonfinite_0000001.json"
    assert replay_command(record) is None
    (folder / "config.yaml").touch()
    assert replay_command(record) == (
        f"detengine train -c '{folder / 'config.yaml'}' --replay '{record}'"
    )


def test_of_many_ranks_ten_are_named() -> None:
    shares = [RankShare([[rank]], {"loss": 0.5}) for rank in range(13)]
    record = NonFiniteRecord(1, 0.1, 0, 1, "float32", shares)
    lines = record.describe()
    assert len(lines) == 11
    assert lines[0].endswith("loss 0.5 (finite; a gradient was not)")
    assert lines[-1] == "... and 3 ranks more"
