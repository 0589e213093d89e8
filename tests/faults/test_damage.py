"""What a run's folder holds, and weights of any kind, cut off and with flipped bits."""

import html
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from safetensors.torch import save_file as save_safetensors
from torch import Tensor, nn

from damage import flips, truncations
from detengine.checkpoint.export import export_weights
from detengine.checkpoint.readers import read_file
from detengine.config.errors import ConfigError
from detengine.config.load import load_config, to_yaml
from detengine.disk.checksums import write_checked_text
from detengine.evaluation.predictions_file import load_predictions, stored_image_ids
from detengine.monitor.sinks import JsonlSink, evaluations_in, last_iteration_with
from detengine.run_report.folder import read_run_folder
from detengine.run_report.reporting import write_report
from report_runs import make_config, write_run

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3_000)]

T = TypeVar("T")
FLIPS = (8, 200)
"""Of each file: in the ordinary suite, and where faults are asked for."""


@pytest.fixture(scope="module")
def run(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder, trained, scored and recorded."""
    folder = tmp_path_factory.mktemp("damage") / "run"
    write_run(make_config(tiny_config, folder))
    (folder / "log.txt").write_text(
        "2026-01-01 10:00:00,000 detengine.run WARNING: one\nof two lines\n"
        "2026-01-01 10:00:01,000 detengine.run INFO: ümlaut\n"
    )
    return folder


@pytest.fixture
def each_damage(times: Any) -> Callable[[bytes], list[bytes]]:
    """(content) -> it cut off at each twentieth, and with a flipped bit."""

    def make(content: bytes) -> list[bytes]:
        return [*truncations(content), *flips(content, times(*FLIPS))]

    return make


MADE = "cut off at each 1/20 of its length; one bit flipped"


def test_a_damaged_configuration_is_refused(
    tiny_config: Path, tmp_path: Path, each_damage: Any, record_fault: Any
) -> None:
    path = tmp_path / "config.yaml"
    write_checked_text(path, to_yaml(load_config(tiny_config)))
    damages = each_damage(path.read_bytes())
    for damage in damages:
        path.write_bytes(damage)
        with pytest.raises(ConfigError, match=r"config\.yaml: is damaged, or was changed"):
            load_config(path)
    record_fault(
        "Damage",
        "config.yaml of a run",
        made=MADE,
        promised="refused",
        tried=f"{len(damages)} damages",
        happened="all refused",
    )


@pytest.mark.parametrize("content", [b"", b"\n \n", bytes(500), b"\xef\xbb\xbf\n"])
def test_an_empty_configuration_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.yaml: is empty: was its writing .* cut off\?"):
        load_config(path)


def test_a_configuration_of_comments_or_of_nothing_said_is_all_defaults(tmp_path: Path) -> None:
    for content in ("# SEED: 1\n", "{}\n"):
        (tmp_path / "a.yaml").write_text(content)
        assert load_config(tmp_path / "a.yaml") == load_config(None)


def test_damaged_metrics_are_gone_on_with_and_whole_lines_stay(
    run: Path, tmp_path: Path, each_damage: Any, record_fault: Any
) -> None:
    path = tmp_path / "metrics.jsonl"
    whole = (run / "metrics.jsonl").read_bytes()
    damages = each_damage(whole)
    for damage in damages:
        path.write_bytes(damage)
        last_iteration_with("val/", path, until=4)
        list(evaluations_in(path))
        sink = JsonlSink(path, 2)
        sink.write(4, {"train/loss": 1.0})
        sink.close()
        lines = path.read_bytes().splitlines()
        assert json.loads(lines[-1]) == {"iteration": 4, "train/loss": 1.0}
        first = whole.splitlines()[0]
        assert first in lines or first not in damage.splitlines()
    record_fault(
        "Damage",
        "metrics.jsonl of a run",
        made=MADE,
        promised="the run goes on; a torn last line goes, other damaged ones are left and counted",
        tried=f"{len(damages)} damages",
        happened="gone on with, whole lines as they were",
    )


NAMES = ["environment.json", "results.json", "per_class.json", "metrics.jsonl", "log.txt"]


@pytest.mark.parametrize(
    "name", [NAMES[0], *(pytest.param(each, marks=pytest.mark.endurance) for each in NAMES[1:])]
)
def test_a_report_is_written_whatever_is_damaged(
    run: Path, each_damage: Any, times: Any, record_fault: Any, name: str
) -> None:
    path, every = run / name, times(100, 10)
    whole = path.read_bytes()
    expected = read_run_folder(run)
    damages, problems = each_damage(whole), 0
    try:
        for number, damage in enumerate(damages):
            path.write_bytes(damage)
            found = read_run_folder(run)
            problems += found.problems != expected.problems
            if number % every == 0:
                page = html.unescape(write_report(run, studies=[]).read_text())
                assert page.rstrip().endswith("</html>")
                assert all(each in page for each in found.problems)
    finally:
        path.write_bytes(whole)
    record_fault(
        "Damage",
        f"{name} of a run, by `report`",
        made=MADE,
        promised="a page of the rest, which says what is missing; such text has no checksum",
        tried=f"{len(damages)} damages, every {every}th to the page itself",
        happened=f"read each time, {problems} of them with the problem said",
    )


def test_damaged_predictions_are_made_again_and_never_scored(
    run: Path, tmp_path: Path, each_damage: Any, record_fault: Any
) -> None:
    [stored] = run.rglob("predictions.pth")
    path = tmp_path / "predictions.pth"
    path.write_bytes(stored.read_bytes())
    expected = _content(path)
    origin = torch.load(path)["origin"]
    damages, refused = each_damage(stored.read_bytes()), 0
    for damage in damages:
        path.write_bytes(damage)
        message, content = _refusal_of(_content, path)
        if message:
            assert "predictions.pth" in message
            assert stored_image_ids(tmp_path, origin) is None
            refused += 1
        else:
            assert content == expected
    record_fault(
        "Damage",
        "stored predictions",
        made=MADE,
        promised="refused and predicted again, unless nothing of them is another",
        tried=f"{len(damages)} damages",
        happened=f"{refused} refused, {len(damages) - refused} in bytes without meaning",
    )


def _refusal_of(read: Callable[[Path], T], path: Path) -> tuple[str, T | None]:
    """The error, or what was read."""
    try:
        return "", read(path)
    except ValueError as error:
        return str(error) or "without a word", None


def _content(path: Path) -> str:
    torch.set_printoptions(profile="full", precision=17)
    return repr(list(load_predictions(path)))


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16))


def _export(path: Path) -> None:
    export_weights(path, _model().state_dict(), _model(), class_names=["cat"])


def _save_torch(path: Path) -> None:
    torch.save(_model().state_dict(), path)


def _save_caffe2(path: Path) -> None:
    arrays = {name: tensor.numpy() for name, tensor in _model().state_dict().items()}
    path.write_bytes(pickle.dumps({"blobs": arrays}, protocol=2))


def _save_safetensors(path: Path) -> None:
    save_safetensors(_model().state_dict(), path)


def _tensors(path: Path) -> dict[str, Tensor]:
    return dict(read_file(path)["model"])


def _are_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(tensor, other[name]) and tensor.dtype == other[name].dtype
        for name, tensor in one.items()
    )


@pytest.mark.parametrize(
    ("kind", "name", "write", "has_checksum"),
    [
        ("our .pth", "model.pth", _export, True),
        ("our .safetensors", "model.safetensors", _export, True),
        ("another's .pth", "model.pth", _save_torch, True),
        ("another's .pkl", "model.pkl", _save_caffe2, False),
        ("another's .safetensors", "model.safetensors", _save_safetensors, False),
    ],
)
def test_damaged_weights_are_refused(
    tmp_path: Path, times: Any, record_fault: Any, kind: str, name: str, write: Any,
    has_checksum: bool,
) -> None:  # fmt: skip
    path = tmp_path / name
    write(path)
    whole, expected = path.read_bytes(), _tensors(path)
    cut = list(truncations(whole))
    for damage in cut:
        path.write_bytes(damage)
        with pytest.raises(ValueError, match=name):
            read_file(path)
    refused, other = 0, 0
    for damage in (bits := list(flips(whole, times(*FLIPS)))):
        path.write_bytes(damage)
        message, tensors = _refusal_of(_tensors, path)
        if tensors is None:
            assert name in message
            refused += 1
        else:
            other += not _are_same(tensors, expected)
    assert not (has_checksum and other)
    limit = "" if has_checksum else "; the format has no checksum of its numbers"
    numbers = "" if has_checksum else f", {other} loaded with another number or name"
    record_fault(
        "Damage",
        f"weights: {kind}",
        made=MADE,
        promised=f"refused, unless nothing of them is another{limit}",
        tried=f"{len(cut)} lengths, {len(bits)} bits",
        happened=f"all lengths refused; of the bits {refused} refused{numbers}",
    )


def test_an_archive_without_checksums_of_its_parts_is_taken(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        _save_torch(tmp_path / "model.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert _are_same(_tensors(tmp_path / "model.pth"), _model().state_dict())
