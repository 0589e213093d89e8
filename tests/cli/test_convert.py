"""detengine convert, as a user types it."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from detengine.checkpoint.checkpointer import DetectronCheckpointer
from detengine.checkpoint.files import load_file, save_file
from detengine.checkpoint.readers import read_file
from detengine.config.load import load_config
from detengine.modeling.build import build_detection_model

Command = Callable[..., Any]

SHARED = Path(__file__).parents[2] / "../shared"
GOLDEN = SHARED / "golden"
MSRA_R50 = SHARED / "weights/R-50.pkl"
needs_recordings = pytest.mark.skipif(not GOLDEN.exists(), reason="../shared is absent")


@pytest.fixture(scope="module")
def trained(finished_run: Path) -> Path:
    """A checkpoint of ours."""
    return finished_run / "model_final.pth"


@pytest.fixture
def recorded() -> tuple[Path, list[str]]:
    """A pickle of Caffe2 Detectron, and the options that say what it is."""
    recording = json.loads((GOLDEN / "c2_pkl/conversion.json").read_text())
    pairs = [str(each) for each in recording["overrides"]]
    return GOLDEN / "c2_pkl/model_c2.pkl", [
        "-c",
        str(GOLDEN / recording["upstream_config"]),
        *pairs,
    ]


def assert_same(read: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert read.keys() == expected.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".pkl"])
def test_a_checkpoint_of_ours_goes_into_each_format_and_back(
    detengine: Command, trained: Path, tmp_path: Path, suffix: str
) -> None:
    there, back = tmp_path / f"there{suffix}", tmp_path / "back.pth"
    finished = detengine("convert", trained, there)
    assert (finished.code, finished.err) == (0, "")
    assert "tensors match" in finished.out
    assert f"to {there}" in finished.out
    assert ("take BGR in 0..255 for granted" in finished.out) == (suffix == ".pkl")
    assert detengine("convert", there, back).code == 0
    original, read = load_file(trained), load_file(back)
    assert_same(read["model"], original["model"])
    assert read.keys() == {"format", "model", "categories", "config"}
    assert read["categories"] == original["categories"]
    assert read["config"] == original["config"]


def test_a_converted_file_is_scored_as_the_checkpoint_is(
    detengine: Command, trained: Path, tiny_config: Path, tmp_path: Path
) -> None:
    converted = tmp_path / "model.safetensors"
    detengine("convert", trained, converted)
    results = []
    for weights in (trained, converted):
        folder = tmp_path / weights.suffix[1:]
        options = ["-c", tiny_config, "--output-dir", folder, "TEST.PICTURES", "0"]
        assert detengine("eval", *options, "--weights", weights).code == 0
        results.append((folder / "results.json").read_text())
    assert results[0] == results[1]


@needs_recordings
def test_foreign_weights_need_a_configuration_and_the_error_gives_the_command(
    detengine: Command, recorded: tuple[Path, list[str]], tmp_path: Path
) -> None:
    source, options = recorded
    target = tmp_path / "x.pth"
    finished = detengine("convert", source, target)
    assert finished.code == 1
    assert f"detengine convert {source} {target} -c FILE" in finished.err
    assert detengine("convert", source, target, *options).code == 0
    back = tmp_path / "x.pkl"
    assert detengine("convert", target, back).code == 0
    blobs, original = read_file(back)["model"], read_file(source)["model"]
    assert_same(blobs, {name: original[name] for name in blobs})
    aside = original.keys() - blobs.keys()
    assert all(name.endswith("_momentum") or name in ("pred_w", "pred_b") for name in aside)


@pytest.mark.skipif(not MSRA_R50.exists(), reason="../shared is absent")
def test_a_trunk_stays_a_trunk_and_what_is_missing_is_said(
    detengine: Command, tmp_path: Path
) -> None:
    config = GOLDEN / "configs/e2e_faster_rcnn_R_50_FPN_1x.yaml"
    target = tmp_path / "R-50.pth"
    finished = detengine("convert", MSRA_R50, target, "-c", config)
    assert finished.code == 0
    assert "of the model, missing in the file" in finished.out
    entries = load_file(target)
    assert all(name.startswith("backbone.body.") for name in entries["model"])
    cfg = load_config(config, ["MODEL.DEVICE", "cpu", "MODEL.WEIGHT", ""])
    model = build_detection_model(cfg)
    DetectronCheckpointer(cfg, model).load(target, strict=False)
    state = model.state_dict()
    assert_same({name: state[name] for name in entries["model"]}, entries["model"])
    blobs, name = read_file(MSRA_R50)["model"], "backbone.body.layer1.0.conv2.weight"
    assert torch.equal(state[name], blobs["res2_0_branch2b_w"])


@pytest.mark.skipif(not MSRA_R50.exists(), reason="../shared is absent")
def test_a_configuration_of_other_conventions_is_refused_by_its_keys(
    detengine: Command, tmp_path: Path
) -> None:
    config = tmp_path / "modern.yaml"
    config.write_text("CONVENTIONS: modern\n")
    finished = detengine("convert", MSRA_R50, tmp_path / "x.pth", "-c", config)
    assert finished.code == 1
    assert "INPUT.TO_BGR255 is False, but the weights want True" in finished.err
    assert "MODEL.RESNETS.STRIDE_IN_1X1 is False" in finished.err
    assert not (tmp_path / "x.pth").exists()


def test_the_averaged_weights_are_taken_unless_asked_otherwise(
    detengine: Command, trained: Path, tmp_path: Path
) -> None:
    data = load_file(trained)
    averaged = {name: tensor + 1 for name, tensor in data["model"].items()}
    source = tmp_path / "ema.pth"
    save_file(source, data | {"ema": {"weights": averaged, "updates": 2}})
    assert "averaged weights (EMA)" in detengine("convert", source, tmp_path / "a.pth").out
    assert detengine("convert", source, tmp_path / "b.pth", "--no-ema").code == 0
    assert_same(load_file(tmp_path / "a.pth")["model"], averaged)
    assert_same(load_file(tmp_path / "b.pth")["model"], data["model"])


def test_a_file_that_is_there_is_replaced_only_when_asked(
    detengine: Command, trained: Path, tmp_path: Path
) -> None:
    target = tmp_path / "x.safetensors"
    target.write_text("precious")
    finished = detengine("convert", trained, target)
    assert finished.code == 1
    assert "x.safetensors is there already; give another name, or --overwrite" in finished.err
    assert target.read_text() == "precious"
    assert detengine("convert", trained, target, "--overwrite").code == 0
    assert read_file(target)["model"]


def test_a_file_is_not_written_over_itself(
    detengine: Command, trained: Path, tmp_path: Path
) -> None:
    source = shutil.copy(trained, tmp_path / "x.pth")
    (tmp_path / "folder").mkdir()
    target = tmp_path / "folder/../x.pth"
    finished = detengine("convert", source, target, "--overwrite")
    assert finished.code == 1
    assert "is the file to read and the file to write" in finished.err


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("x.onnx", "expected .pth, .safetensors, .pkl"),
        ("gone/x.pth", "there is no folder"),
        ("folder.pth", "is a folder"),
    ],
)
def test_a_target_that_cannot_be_written_is_refused_before_anything_is_read(
    detengine: Command, tmp_path: Path, target: str, message: str
) -> None:
    (tmp_path / "folder.pth").mkdir()
    finished = detengine("convert", "https://nowhere.invalid/x.pth", tmp_path / target)
    assert finished.code == 1
    assert message in finished.err


@pytest.mark.parametrize(
    "overrides",
    [
        ["MODEL.ROI_BOX_HEAD.NUM_CLASSES", "9"],
        ["MODEL.MASK_ON", "False"],
        ["MODEL.BACKBONE.CONV_BODY", "R-50-FPN"],
    ],
)
def test_weights_of_another_model_are_refused(
    detengine: Command, trained: Path, tmp_path: Path, overrides: list[str]
) -> None:
    finished = detengine("convert", trained, tmp_path / "x.pth", *overrides)
    assert finished.code == 1
    assert "are not this model's" in finished.err
    assert list(tmp_path.iterdir()) == []


def test_weights_of_other_classes_are_refused_with_the_table(
    detengine: Command, trained: Path, tmp_path: Path
) -> None:
    classes = ["DATASETS.CLASSES", "[disc, wedge, bar]"]
    finished = detengine("convert", trained, tmp_path / "x.pth", *classes)
    assert finished.code == 1
    assert "was trained for other classes" in finished.err
    assert "<--" in finished.err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("MODEL: {BUILDER: 'os:abort'}", "no file of weights may ask for"),
        ("_BASE_: /etc/hostname", "includes a file"),
        ("MODEL: [", "is no valid YAML"),
        ("MODEL: {MASKON: True}", "the configuration in .*MASKON"),
    ],
)
def test_a_files_own_configuration_runs_nothing_and_reads_nothing(
    detengine: Command, trained: Path, tmp_path: Path, line: str, message: str
) -> None:
    source = tmp_path / "strange.pth"
    save_file(source, load_file(trained) | {"config": f"CONVENTIONS: modern\n{line}\n"})
    finished = detengine("convert", source, tmp_path / "x.pth")
    assert finished.code == 1
    assert re.search(message, finished.err)
    assert not (tmp_path / "x.pth").exists()


@needs_recordings
def test_the_number_of_classes_is_that_of_the_weights(
    detengine: Command, recorded: tuple[Path, list[str]], tmp_path: Path
) -> None:
    source, options = recorded
    options = [*options, "MODEL.ROI_BOX_HEAD.NUM_CLASSES", "None"]
    assert detengine("convert", source, tmp_path / "x.pth", *options).code == 0
    entries = load_file(tmp_path / "x.pth")
    assert "NUM_CLASSES: 5" in entries["config"]


def test_an_unknown_option_is_a_usage_error(detengine: Command) -> None:
    finished = detengine("convert", "a.pth", "b.pth", "--overwrit")
    assert finished.code == 2
