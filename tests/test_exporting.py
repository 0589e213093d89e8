"""An ONNX file of a model: what it finds when onnxruntime runs it, and what it says of itself."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from detengine import exporting
from detengine.checkpoint.export import export_weights
from detengine.config.load import load_config, to_yaml
from detengine.exporting import Exported, compare, export_onnx, open_session
from detengine.loading import LoadedModel, load_model
from detengine.modeling.build import build_detection_model
from detengine.structures.prediction import Prediction
from detengine.structures.rle import RLE, decode_counts
from modeling.exportable_models import (
    C4,
    PREDECESSOR,
    RETINANET,
    SMALL,
    needs_exporter,
    speaking_up,
)

pytestmark = needs_exporter
DOCUMENT = (Path(__file__).parents[1] / "docs" / "export.md").read_text(encoding="utf-8")
CLASSES = ("cell", 'a "quoted" name', "Zelle ü")
SIZE = (96, 140)
BOTH_HEADS = {"MODEL.KEYPOINT_ON": "True"}


def write_weights(folder: Path, settings: Mapping[str, str]) -> Path:
    """A checkpoint with random weights that detect something, and its configuration."""
    given = {"CONVENTIONS": "modern", "INPUT.MIN_SIZE_TEST": "96", "INPUT.MAX_SIZE_TEST": "140"}
    pairs = given | SMALL | dict(settings)
    cfg = load_config(None, [part for pair in pairs.items() for part in pair])
    torch.manual_seed(0)
    model = speaking_up(build_detection_model(cfg))
    path = folder / "weights.pth"
    export_weights(path, model.state_dict(), model, class_names=CLASSES, config=to_yaml(cfg))
    return path


def write_pictures(folder: Path) -> list[Path]:
    generator = np.random.default_rng(0)
    paths = [folder / f"{index}.png" for index in range(2)]
    for path in paths:
        noise = generator.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    return paths


class Case:
    """A model of both heads, and the file that was exported of it."""

    def __init__(self, folder: Path) -> None:
        self.weights = write_weights(folder, BOTH_HEADS)
        self.pictures = write_pictures(folder)
        self.exported = export_onnx(self.weights, folder / "model.onnx", pictures=self.pictures)
        self.loaded: LoadedModel = load_model(self.weights, device="cpu")
        self.loaded.model.eval()


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("export"))


def images(*sizes: tuple[int, int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator) for size in sizes
    ]


def raise_if_it_differs(exported: Exported, loaded: LoadedModel, samples: list[Tensor]) -> None:
    agreement = compare(loaded, exported.path, samples)
    assert agreement.detections > 0
    assert agreement.problems() == []
    assert max(agreement.worst.values()) < 0.01


def test_the_file_finds_what_the_model_finds_in_sizes_and_batches_of_its_own(case: Case) -> None:
    assert case.exported.agreement.worst.keys() == {
        "boxes", "scores", "mask_probs", "keypoints", "keypoints_scores"
    }  # fmt: skip
    raise_if_it_differs(case.exported, case.loaded, images((33, 70), (150, 64), (40, 50)))


def test_where_nothing_is_found_outputs_are_empty(case: Case, tmp_path: Path) -> None:
    model, raised = onnx.load(case.exported.path), 0
    for each in model.graph.initializer:
        if onnx.numpy_helper.to_array(each).tolist() in ([float(np.float32(0.05))], 0.05):
            above_all = np.array([1.0], np.float32)
            each.CopyFrom(onnx.numpy_helper.from_array(above_all, each.name))
            raised += 1
    assert raised == 1
    onnx.save(model, tmp_path / "never.onnx")
    session = open_session(tmp_path / "never.onnx")
    shapes = [
        each.shape for each in session.run(None, {"images": np.zeros((2, 3, 64, 64), np.uint8)})
    ]
    assert [shape[0] for shape in shapes] == [0] * len(session.get_outputs())
    assert shapes[0] == (0, 4)


def test_the_file_says_what_it_is(case: Case) -> None:
    model = onnx.load(case.exported.path)
    says = {each.key: each.value for each in model.metadata_props}
    assert json.loads(says["class_names"]) == list(CLASSES)
    assert (says["min_size"], says["max_size"], says["resize"]) == ("96", "140", "torch")
    assert (says["inclusive_pixels"], says["score_threshold"]) == ("false", "0.05")
    assert says["weights"] == "weights.pth"
    assert [each.version for each in model.opset_import if each.domain == ""] == [18]
    onnx.checker.check_model(model, full_check=True)
    session = open_session(case.exported.path)
    [given] = session.get_inputs()
    assert (given.name, given.type, given.shape) == (
        "images", "tensor(uint8)", ["batch", 3, "height", "width"]
    )  # fmt: skip
    assert {each.shape[0] for each in session.get_outputs()} == {"detections"}


def test_every_key_of_the_file_is_in_the_document(case: Case) -> None:
    keys = exporting.describe(case.loaded).keys()
    assert [key for key in keys if f"`{key}`" not in DOCUMENT] == []


def test_the_program_of_the_document_finds_and_draws_what_the_model_does(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [program] = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    assert "detengine" not in program
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.onnx").write_bytes(case.exported.path.read_bytes())
    black = Image.fromarray(np.asarray(Image.open(case.pictures[0])) // 2)
    black.save("picture.png")
    exec(compile(program, "export.md", "exec"), {})

    pixels = torch.from_numpy(np.array(black)).permute(2, 0, 1)
    with torch.inference_mode():
        [output] = case.loaded.model([pixels])
    expected = Prediction.from_output(output, SIZE, SIZE)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(expected) > 0
    drawn = (np.asarray(Image.open("found.png")) == (255, 0, 0)).all(axis=2)
    union = np.any([dense(each) for each in expected.encoded().rles or []], axis=0)
    assert (drawn & union).sum() / (drawn | union).sum() > 0.99


def dense(mask: RLE) -> NDArray[np.bool_]:
    height, width = mask["size"]
    runs = decode_counts(mask["counts"])
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def test_a_file_of_other_weights_is_refused_with_numbers_and_none_is_left(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_weights(tmp_path, BOTH_HEADS)
    entries = torch.load(other, weights_only=True)
    entries["model"]["roi_heads.box_predictor.bbox_pred.bias"] += 0.5
    torch.save(entries, other)
    other.with_name("weights.pth.sha256").unlink()

    def write_of_the_first(_: object, path: Path, **__: object) -> None:
        path.write_bytes(case.exported.path.read_bytes())

    monkeypatch.setattr(exporting, "write_onnx", write_of_the_first)
    with pytest.raises(ValueError, match=r"was not written: .* detections"):
        export_onnx(other, tmp_path / "out.onnx", pictures=case.pictures)
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("target", "given", "error"),
    [
        ("out.pb", {}, "ends with .onnx"),
        ("missing/out.onnx", {}, "there is no folder"),
        ("out.onnx", {"opset": 11}, "opset 11 was asked for; expected 18 to"),
        ("out.onnx", {"overrides": ["TEST.BBOX_AUG.ENABLED", "True"]}, "BBOX_AUG.ENABLED False"),
        ("out.onnx", {"overrides": ["MODEL.BUILDER", "mine:build"]}, "MODEL.BUILDER mine:build"),
        ("out.onnx", {"pictures": ["no.png"]}, "there is no picture no.png"),
    ],
)
def test_what_cannot_be_exported_is_said_at_once(
    target: str, given: dict[str, object], error: str, case: Case, tmp_path: Path
) -> None:
    with pytest.raises((ValueError, OSError), match=re.escape(error)):
        export_onnx(case.weights, tmp_path / target, **given)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_to_is_said_at_once(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)  # who runs this may be root
    with pytest.raises(PermissionError, match="cannot be written to; give another"):
        export_onnx(case.weights, tmp_path / "out.onnx")


def test_a_file_that_is_there_is_replaced_only_on_request(case: Case) -> None:
    with pytest.raises(FileExistsError, match="--overwrite"):
        export_onnx(case.weights, case.exported.path)


def test_a_missing_package_is_one_message(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detengine.modeling.export_onnx.PACKAGES", ("onnx", "no_such_package"))
    with pytest.raises(
        ImportError, match=r"needs no_such_package.*pip install 'detengine\[onnx\]'"
    ):
        export_onnx(case.weights, tmp_path / "out.onnx")


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(C4, id="c4"),
        pytest.param(RETINANET, id="retinanet"),
        pytest.param(RETINANET | PREDECESSOR, id="retinanet, inclusive"),
        pytest.param({"MODEL.CLS_AGNOSTIC_BBOX_REG": "True"}, id="one box for all classes"),
        pytest.param({"MODEL.RPN_ONLY": "True", "MODEL.MASK_ON": "False"}, id="proposals"),
        pytest.param(
            {"MODEL.BACKBONE.NORM": "FrozenBN", "MODEL.FOLD_FROZEN_BN": "True"}, id="folded norms"
        ),
    ],
)
def test_the_file_of_each_kind_finds_what_its_model_finds(
    settings: dict[str, str], tmp_path: Path
) -> None:
    weights = write_weights(tmp_path, settings)
    exported = export_onnx(weights, tmp_path / "out.onnx", pictures=write_pictures(tmp_path))
    loaded = load_model(weights, device="cpu")
    loaded.model.eval()
    raise_if_it_differs(exported, loaded, images((200, 140), (90, 97)))


@pytest.mark.slow
@pytest.mark.parametrize("opset", [20])
def test_a_later_opset_finds_the_same(opset: int, case: Case, tmp_path: Path) -> None:
    exported = export_onnx(case.weights, tmp_path / "out.onnx", opset=opset, pictures=case.pictures)
    found = [each.version for each in onnx.load(exported.path).opset_import if each.domain == ""]
    assert found == [opset]
