"""A damaged newest checkpoint is named, and the one before it is used; none is silently loaded."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from damage import bits_of, flipped, flips, truncations
from detengine.checkpoint.checkpointer import Checkpointer
from detengine.checkpoint.files import load_file

pytestmark = pytest.mark.faults

NEWEST = "model_0000002.pth"


def make_run(folder: Path) -> Checkpointer:
    return Checkpointer(nn.Linear(8, 16), save_dir=folder)


def write_run(folder: Path) -> None:
    """Two checkpoints, whose weights are the iteration."""
    run = make_run(folder)
    for iteration in (1, 2):
        nn.init.constant_(run.model.weight, iteration)
        run.save(f"model_000000{iteration}", iteration=iteration)


@pytest.fixture
def run(tmp_path: Path) -> Checkpointer:
    write_run(tmp_path)
    return make_run(tmp_path)


def resumed_at(run: Checkpointer) -> int:
    """The iteration, the model's weights being of the same."""
    iteration = run.resume()["iteration"]
    assert run.model.weight.unique().tolist() == [iteration]
    return iteration


@pytest.mark.parametrize("has_checksum", [True, False])
def test_a_truncated_newest_file_is_named_and_the_one_before_is_used(
    run: Checkpointer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    has_checksum: bool,
    record_fault: Any,
) -> None:
    newest = tmp_path / NEWEST
    whole = newest.read_bytes()
    if not has_checksum:
        (tmp_path / f"{NEWEST}.sha256").unlink()
    lengths = list(truncations(whole))
    for damage in lengths:
        caplog.clear()
        newest.write_bytes(damage)
        assert resumed_at(run) == 1
        assert f"{NEWEST} is passed over for the one before it" in caplog.text
        assert re.search("is empty|is damaged|is truncated|is not a checkpoint", caplog.text)
    record_fault(
        "Damage",
        f"the newest checkpoint is cut off, {'with' if has_checksum else 'without'} its checksum",
        made="at each 1/20 of its length",
        promised="named, and the one before is used",
        tried=f"{len(lengths)} lengths",
        happened="all named",
    )


@pytest.mark.parametrize("has_checksum", [True, False])
def test_flipped_bits_are_noticed_and_the_one_before_is_used(
    run: Checkpointer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    has_checksum: bool,
    times: Any,
    record_fault: Any,
) -> None:
    newest = tmp_path / NEWEST
    whole, expected = newest.read_bytes(), load_file(newest)
    if not has_checksum:
        (tmp_path / f"{NEWEST}.sha256").unlink()
    noticed, bits = 0, bits_of(whole, times(40, 200))
    for bit in bits:
        caplog.clear()
        newest.write_bytes(flipped(whole, bit))
        if resumed_at(run) == 1:
            assert f"{NEWEST} is passed over" in caplog.text
            noticed += 1
        else:
            assert not has_checksum
            assert repr(load_file(newest)) == repr(expected)
    record_fault(
        "Damage",
        f"a flipped bit in the newest checkpoint, {'with' if has_checksum else 'without'} its "
        "checksum",
        made="one bit at a time",
        promised="named, and the one before is used, unless nothing of it is another",
        tried=f"{len(bits)} bits",
        happened=f"{noticed} named, {len(bits) - noticed} in bytes without meaning",
    )


def test_flipped_bits_in_a_checksum_never_let_a_damaged_file_pass(
    run: Checkpointer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    times: Any,
    record_fault: Any,
) -> None:
    checksum = tmp_path / f"{NEWEST}.sha256"
    whole = checksum.read_bytes()
    bits = bits_of(whole, times(40, 200))
    for bit in bits:
        caplog.clear()
        checksum.write_bytes(flipped(whole, bit))
        is_in_digest = bit // 8 <= 64  # or the blank behind it; the file's name does not count
        assert resumed_at(run) == (1 if is_in_digest else 2)
        assert (f"{NEWEST} is passed over" in caplog.text) == is_in_digest
    record_fault(
        "Damage",
        "a flipped bit in a checkpoint's .sha256",
        made="one bit at a time",
        promised="nobody can tell whether the checkpoint is whole: the one before is used",
        tried=f"{len(bits)} bits",
        happened="so, but where the bit is in the file's name, which says nothing",
    )


def test_over_a_damaged_checkpoint_and_checksum_a_run_that_was_sent_back_saves_again(
    run: Checkpointer, tmp_path: Path
) -> None:
    for name in (NEWEST, f"{NEWEST}.sha256"):
        (tmp_path / name).write_bytes(b"")
    assert resumed_at(run) == 1
    nn.init.constant_(run.model.weight, 2)
    run.save("model_0000002", iteration=2)
    assert resumed_at(run) == 2


@pytest.mark.parametrize("content", [b"", b"\n"])
def test_an_emptied_checksum_is_damage(
    run: Checkpointer, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    (tmp_path / f"{NEWEST}.sha256").write_bytes(content)
    assert resumed_at(run) == 1
    assert f"{NEWEST}.sha256 is empty, so nobody can tell whether {NEWEST} is whole" in caplog.text


def test_with_any_flipped_bit_in_last_checkpoint_the_newest_is_found(
    run: Checkpointer, tmp_path: Path, times: Any, record_fault: Any
) -> None:
    last = tmp_path / "last_checkpoint"
    whole = last.read_bytes()
    damages = [*truncations(whole), *flips(whole, times(40, 8 * len(whole)))]
    for damage in damages:
        last.write_bytes(damage)
        assert resumed_at(run) == 2
    record_fault(
        "Damage",
        "last_checkpoint",
        made="cut off at each of its bytes; any of its bits flipped",
        promised="the checkpoint with the most iterations is used",
        tried=f"{len(damages)} damages",
        happened="used",
    )


def test_without_last_checkpoint_the_newest_is_found(run: Checkpointer, tmp_path: Path) -> None:
    (tmp_path / "last_checkpoint").unlink()
    assert resumed_at(run) == 2


def test_a_last_checkpoint_whose_file_is_gone_means_the_one_before(
    run: Checkpointer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / NEWEST).unlink()
    assert resumed_at(run) == 1
    assert f"names '{NEWEST}', which is no file of this folder" in caplog.text


def test_the_best_is_resumed_only_where_nothing_else_is_whole(
    run: Checkpointer, tmp_path: Path
) -> None:
    nn.init.constant_(run.model.weight, 9)
    run.save_best(iteration=9)
    assert resumed_at(run) == 2
    (tmp_path / NEWEST).write_bytes(b"")
    assert resumed_at(run) == 1
    (tmp_path / "model_0000001.pth").write_bytes(b"")
    assert resumed_at(run) == 9


def test_where_none_is_whole_the_run_does_not_go_on(run: Checkpointer, tmp_path: Path) -> None:
    for iteration in (1, 2):
        (tmp_path / f"model_000000{iteration}.pth").write_bytes(b"PK")
    before = run.model.weight.clone()
    with pytest.raises(ValueError, match=r"is whole(.|\n)*_0000002.*\n.*_0000001(.|\n)*OUTPUT_DIR"):
        run.resume()
    assert torch.equal(run.model.weight, before)


def test_a_whole_checkpoint_that_does_not_fit_is_an_error_and_no_reason_to_go_back(
    run: Checkpointer, tmp_path: Path
) -> None:
    Checkpointer(nn.Linear(3, 3), save_dir=tmp_path).save("model_0000003", iteration=3)
    with pytest.raises(ValueError, match=r"model_0000003\.pth"):
        run.resume()


def test_the_folder_can_be_moved_with_its_checkpoints(run: Checkpointer, tmp_path: Path) -> None:
    moved = tmp_path.parent / f"{tmp_path.name}_moved"
    tmp_path.rename(moved)
    assert resumed_at(make_run(moved)) == 2
    moved.rename(tmp_path)
