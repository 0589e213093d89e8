"""A trained model from a run's folder, a checkpoint, a published name, or none of these."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from packaging.version import Version
from PIL import Image
from safetensors.torch import save_file as save_safetensors

from detengine.checkpoint import catalog
from detengine.checkpoint.files import load_file, save_file
from detengine.config.load import load_config, replace
from detengine.config.published import config_of_torchvision
from detengine.config.schema import Config
from detengine.evaluation.predictions_file import load_predictions
from detengine.exporting import export_onnx
from detengine.loading import LoadedModel, load, load_model
from detengine.modeling.build import build_detection_model
from detengine.modeling.export_onnx import TORCH
from detengine.run import evaluate, train
from detengine.run_report.folder import read_run_folder
from fault_record import Record

CLASSES = ("disc", "bar", "wedge")


@pytest.fixture(scope="module")
def run_folder(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two iterations, with averaged weights and a best checkpoint from the first."""
    folder = tmp_path_factory.mktemp("run")
    changes = {"OUTPUT_DIR": str(folder), "SOLVER.MAX_ITER": 2, "SOLVER.EMA_DECAY": 0.5}
    train(replace(load_config(tiny_config), changes), skip_test=True)
    best = load_file(folder / "model_final.pth")
    best["ema"]["weights"] = {k: v + 1 for k, v in best["ema"]["weights"].items()}
    save_file(folder / "model_best.pth", best)
    return folder


@pytest.fixture
def cfg(run_folder: Path) -> Config:
    return load_config(run_folder / "config.yaml")


def assert_averaged(loaded: LoadedModel, file: Path) -> None:
    averaged = load_file(file)["ema"]["weights"]
    state = loaded.model.state_dict()
    assert averaged
    for name, value in averaged.items():
        assert torch.equal(state[name], value), name


def test_a_runs_folder_gives_its_last_checkpoint_and_the_best_one_on_request(
    run_folder: Path,
) -> None:
    last = load_model(run_folder, device="cpu")
    assert_averaged(last, run_folder / "model_final.pth")
    assert last.class_names == CLASSES
    best = load_model(str(run_folder), device="cpu", best=True)
    assert_averaged(best, run_folder / "model_best.pth")


def test_a_checkpoint_does_not_say_which_code_is_run(run_folder: Path, tmp_path: Path) -> None:
    entries = load_file(run_folder / "model_final.pth")
    entries["config"] = entries["config"].replace("BUILDER: null", "BUILDER: wicked:function")
    save_file(tmp_path / "wicked.pth", entries)
    with pytest.raises(ValueError, match=r"MODEL\.BUILDER: wicked:function.*config='FILE\.yaml'"):
        load_model(tmp_path / "wicked.pth", device="cpu")


@pytest.mark.faults
def test_a_runs_folder_does_not_say_which_code_is_run(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_fault: Record
) -> None:
    """Somebody's folder, with a module in it, that is worked in."""
    theirs = shutil.copytree(run_folder, tmp_path / "theirs")
    (theirs / "wicked_module.py").write_text("open('it_ran', 'w').close()")
    config = theirs / "config.yaml"
    text = config.read_text()
    (theirs / "config.yaml.sha256").unlink()  # it is theirs, and would be right
    monkeypatch.chdir(theirs)
    monkeypatch.setattr("sys.path", [each for each in sys.path if each])
    config.write_text(text.replace("BUILDER: null", "BUILDER: wicked_module:build"))
    refused = [
        lambda: load_model(theirs, device="cpu"),
        lambda: load_model(theirs, device="cpu", best=True),
    ]
    if Version(torch.__version__) >= Version(TORCH):  # an older one is refused before
        refused.append(lambda: export_onnx(theirs, tmp_path / "x.onnx"))
    for attempt in refused:
        with pytest.raises(ValueError, match=r"MODEL\.BUILDER"):
            attempt()
    for line in ("_BASE_: /etc/hostname", "A: &a 1\nB: *a"):
        config.write_text(f"{line}\n{text}")
        with pytest.raises(ValueError, match=r"config\.yaml: (includes a file|has an alias)"):
            load_model(theirs, device="cpu")
        with pytest.raises(ValueError, match=r"config\.yaml: (includes a file|has an alias)"):
            read_run_folder(theirs)
    assert not Path("it_ran").exists()
    config.write_text(text.replace("BUILDER: null", "BUILDER: wicked_module:build"))
    with pytest.raises(ValueError, match="wicked_module has no function 'build'"):
        load_model(theirs, device="cpu", config=config)
    assert Path("it_ran").exists()  # where the user names the configuration
    del sys.modules["wicked_module"]
    record_fault(
        "Security",
        "a run's folder that names code",
        made="MODEL.BUILDER in its config.yaml, the module beside it, the folder worked in; files "
        "to include; aliases",
        promised="nothing is imported or included by load, predict, export and report, until the "
        "user names the configuration",
        tried=f"{len(refused) + 4} calls",
        happened=f"{len(refused) + 4} refused",
    )


def test_a_checkpoint_alone_says_what_model_it_is_of(run_folder: Path, tmp_path: Path) -> None:
    shutil.copy(run_folder / "model_final.pth", tmp_path / "mine.pth")
    loaded = load_model(tmp_path / "mine.pth", device="cpu")
    assert_averaged(loaded, run_folder / "model_final.pth")
    assert loaded.class_names == CLASSES
    assert loaded.cfg.MODEL.DEVICE == "cpu"
    assert loaded.cfg.INPUT.MIN_SIZE_TEST == 96


@pytest.fixture
def foreign(cfg: Config, tmp_path: Path) -> Path:
    """Weights alone, without class names and configuration."""
    path = tmp_path / "foreign.pth"
    torch.save(build_detection_model(cfg).state_dict(), path)
    return path


def test_weights_that_do_not_name_their_model_need_a_configuration(
    foreign: Path, cfg: Config, run_folder: Path
) -> None:
    with pytest.raises(ValueError, match=r"foreign\.pth does not say what model.*--config-file"):
        load_model(foreign, device="cpu")
    given = load_model(foreign, device="cpu", config=run_folder / "config.yaml")
    assert given.class_names == ()
    named = load_model(foreign, device="cpu", config=cfg, class_names=["a", "b", "c"])
    assert named.class_names == ("a", "b", "c")


def test_weights_without_class_names_take_the_number_from_the_names_given(
    foreign: Path, cfg: Config
) -> None:
    cfg = replace(cfg, {"MODEL.ROI_BOX_HEAD.NUM_CLASSES": None})
    with pytest.raises(ValueError, match=r"how many classes.*set MODEL.ROI_BOX_HEAD.NUM_CLASSES"):
        load_model(foreign, device="cpu", config=cfg)
    loaded = load_model(foreign, device="cpu", config=cfg, class_names=CLASSES)
    assert loaded.cfg.MODEL.ROI_BOX_HEAD.NUM_CLASSES == 4


def test_class_names_must_be_as_many_as_the_models_classes_and_those_of_the_file(
    foreign: Path, cfg: Config, run_folder: Path
) -> None:
    with pytest.raises(ValueError, match=r"2 class names were given.*NUM_CLASSES is 4.*expected 3"):
        load_model(foreign, device="cpu", config=cfg, class_names=["a", "b"])
    with pytest.raises(ValueError, match="trained for other classes"):
        load_model(run_folder, device="cpu", class_names=["a", "b", "c"])


def test_a_safetensors_file_of_foreign_weights_is_read_with_a_configuration(
    foreign: Path, cfg: Config, tmp_path: Path
) -> None:
    path = tmp_path / "foreign.safetensors"
    weights = torch.load(foreign, weights_only=True)
    save_safetensors({name: value.contiguous() for name, value in weights.items()}, path)
    state = load_model(path, device="cpu", config=cfg).model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in weights.items())


# What it finds


@pytest.mark.parametrize("inclusive_pixels", [False, True])
def test_a_picture_alone_gives_what_an_evaluation_in_batches_of_one_gives(
    run_folder: Path, cfg: Config, tmp_path: Path, inclusive_pixels: bool
) -> None:
    """To the last bit, whatever kind of picture is given."""
    changes = {
        "OUTPUT_DIR": str(tmp_path),
        "TEST.IMS_PER_BATCH": 1,
        "TEST.PICTURES": 0,
        "MODEL.ROI_HEADS.SCORE_THRESH": 0.0,
        "MODEL.ARITHMETIC.INCLUSIVE_PIXELS": inclusive_pixels,
    }
    cfg = replace(cfg, changes)
    evaluate(cfg, run_folder / "model_final.pth")
    predictor = load(run_folder / "model_final.pth", device="cpu", config=cfg)
    images = Path(cfg.DATASETS.ROOT) / "images"
    for image_id, stored in load_predictions(tmp_path / "inference/shapes_val"):
        path = images / f"val_{image_id - 100}.jpg"
        pixels = np.asarray(Image.open(path))
        planes = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
        assert len(stored)
        for picture in (path, Image.open(path), pixels, planes):
            found = predictor(picture)
            assert torch.equal(found.boxes_xyxy, stored.boxes_xyxy)
            assert torch.equal(found.scores, stored.scores)
            assert stored.labels is not None
            assert found.labels is not None
            assert torch.equal(found.labels, stored.labels)
            assert found.rles == stored.rles


# What is not there


def test_a_folder_without_a_run_cannot_be_loaded(run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no run: config\.yaml is missing"):
        load(tmp_path)
    shutil.copy(run_folder / "model_final.pth", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"Or give the checkpoint in it: .*model_final"):
        load(tmp_path)


def test_a_run_without_a_checkpoint_or_without_the_best_one_says_so(
    run_folder: Path, tmp_path: Path
) -> None:
    shutil.copy(run_folder / "config.yaml", tmp_path)
    with pytest.raises(FileNotFoundError, match="has no checkpoint yet"):
        load_model(tmp_path)
    shutil.copy(run_folder / "model_final.pth", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"kept no model_best\.pth.*BEST_METRIC"):
        load_model(tmp_path, best=True)


def test_nothing_of_that_name_is_an_error_that_names_what_can_be_given(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing at .*runs/frist\. Expected a run's"):
        load(tmp_path / "runs/frist")
    with pytest.raises(ValueError, match="best chooses among a run's checkpoints"):
        load("torchvision://maskrcnn_resnet50_fpn", best=True)


# Published names


def test_a_published_name_needs_no_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With weights of our own under its file's name, whose checksum is not torchvision's."""
    source = catalog.find_source("torchvision://fasterrcnn_resnet50_fpn")
    assert source is not None
    monkeypatch.setenv("DETENGINE_CACHE", str(tmp_path))
    monkeypatch.setattr(catalog, "_raise_if_checksum_differs", lambda *_: None)
    weights = build_detection_model(config_of_torchvision("fasterrcnn_resnet50_fpn", "cpu"))
    torch.save(weights.state_dict(), tmp_path / source.file_name)
    loaded = load_model("torchvision://fasterrcnn_resnet50_fpn", device="cpu")
    assert loaded.class_names[:2] == ("person", "bicycle")
    assert len(loaded.class_names) == 90


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision://resnet50", "weights of a backbone, which detects nothing by itself"),
        ("torchvision://fcos_resnet50_fpn", "has no configuration here; known are"),
        ("torchvision://maskrcnn", r"torchvision has no model 'maskrcnn'; did you mean"),
    ],
)
def test_a_name_that_is_no_detector_of_ours_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_model(name, device="cpu")
