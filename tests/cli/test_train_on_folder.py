import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from detengine.checkpoint.files import load_file
from detengine.config.load import load_config

Command = Callable[..., Any]
SMALL = ["MODEL.DEVICE", "cpu", "SOLVER.IMS_PER_BATCH", "1", "DATALOADER.NUM_WORKERS", "0",
         "INPUT.MIN_SIZE_TRAIN", "[64]", "INPUT.MIN_SIZE_TEST", "64", "INPUT.CROP_SIZE_TRAIN",
         "None", "TEST.PICTURES", "1"]  # fmt: skip


@pytest.fixture
def folder(tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """COCO's data of the tiny run, in a folder `shapes` of the working folder."""
    root = tmp_path / "shapes"
    root.mkdir()
    for name in ("train.json", "val.json"):
        shutil.copy(tiny_config.with_name(name), root)
    shutil.copytree(tiny_config.with_name("images"), root / "images")
    monkeypatch.chdir(tmp_path)
    return Path("shapes")


def test_a_folder_alone_is_trained_on_scored_and_its_recipe_kept(
    detengine: Command, folder: Path
) -> None:
    options = ["--data", folder, "--weights", "", *SMALL, "SOLVER.MAX_ITER", "1"]
    finished = detengine("train", *options)
    assert finished.code == 0
    assert "Data: COCO in shapes; 7 images to train on" in finished.out
    assert "To change it and train anew: detengine train -c runs/shapes/recipe.yaml" in finished.out
    assert finished.out.endswith("To use it: detengine predict runs/shapes PICTURES\n")
    run = Path("runs/shapes")
    assert load_config(run / "recipe.yaml").MODEL.MASK_ON
    assert (run / "model_final.pth").is_file()
    assert set(json.loads((run / "results.json").read_text())) == {"shapes_val"}
    # the same again has a folder of its own
    again = detengine("train", *options, "--skip-test")
    assert again.code == 0
    assert Path("runs/shapes-2/recipe.yaml").is_file()
    # and what was kept trains alike
    copy = detengine("train", "-c", "runs/shapes-2/recipe.yaml", "--output-dir", "runs/copy")
    assert copy.code == 0
    first, second = (load_file(Path(each, "model_final.pth")) for each in (run, "runs/copy"))
    assert all((second["model"][name] == each).all() for name, each in first["model"].items())


def test_resume_goes_on_by_the_recipe_that_was_kept(detengine: Command, folder: Path) -> None:
    options = ["--data", folder, "--weights", "", "--skip-test", *SMALL, "SOLVER.MAX_ITER"]
    assert detengine("train", *options, "1").code == 0
    recipe = Path("runs/shapes/recipe.yaml")
    text = recipe.read_text() + "SEED: 0\n"
    recipe.write_text(text)
    finished = detengine("train", *options, "2", "--resume")
    assert finished.code == 0
    assert "Going on by runs/shapes/recipe.yaml, as it was chosen" in finished.out
    assert recipe.read_text() == text
    assert load_file(Path("runs/shapes/model_final.pth"))["iteration"] == 2
    assert not Path("runs/shapes-2").exists()


def test_data_that_has_changed_is_no_run_to_go_on_with(detengine: Command, folder: Path) -> None:
    options = ["--data", folder, "--weights", "", "--skip-test", *SMALL, "SOLVER.MAX_ITER"]
    assert detengine("train", *options, "1").code == 0
    content = json.loads((folder / "train.json").read_text())
    content["annotations"].pop()
    (folder / "train.json").write_text(json.dumps(content))
    finished = detengine("train", *options, "2", "--resume")
    assert finished.code == 1
    assert "'shapes_train' is not the one that the run" in finished.err


def test_a_folder_that_holds_a_run_is_refused_before_its_recipe_is_overwritten(
    detengine: Command, folder: Path
) -> None:
    options = ["--data", folder, "--weights", "", "--skip-test", "--output-dir", "out", *SMALL]
    assert detengine("train", *options, "SOLVER.MAX_ITER", "1").code == 0
    before = Path("out/recipe.yaml").read_text()
    finished = detengine("train", *options, "SOLVER.MAX_ITER", "9")
    assert finished.code == 1
    assert "out holds a run already" in finished.err
    assert Path("out/recipe.yaml").read_text() == before


def test_an_output_folder_among_the_pairs_is_the_output_folder(
    detengine: Command, folder: Path
) -> None:
    options = ["--data", folder, "--weights", "", "--skip-test", *SMALL, "SOLVER.MAX_ITER", "1"]
    assert detengine("train", *options, "OUTPUT_DIR", "here").code == 0
    assert load_config("here/recipe.yaml").OUTPUT_DIR == "here"
    assert not Path("runs").exists()


def test_from_scratch_for_want_of_weights_is_said_as_a_warning(
    detengine: Command, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DETENGINE_CACHE", "TORCH_HOME", "TORCH_MODEL_ZOO"):
        monkeypatch.setenv(name, str(tmp_path / "cache"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody answers there
    finished = detengine("train", "--data", folder, "--skip-test", *SMALL, "SOLVER.MAX_ITER", "1")
    assert finished.code == 0
    assert "WARNING: training starts from scratch" in finished.err
    assert "To do better: --weights FILE" in finished.err


def test_the_configuration_of_a_folder_is_printed_without_training(
    detengine: Command, folder: Path
) -> None:
    finished = detengine("config", "--data", folder, "--weights", "", "SOLVER.BASE_LR", "0.5")
    assert finished.code == 0
    assert yaml.safe_load(finished.out)["SOLVER"]["BASE_LR"] == 0.5
    assert finished.out.startswith("# Chosen for a folder of data and a CPU")
    assert "# Data: COCO in shapes; 7 images" in finished.out
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-c", "x.yaml", "--data", "."], "--data and -c exclude each other"),
        (["--replay", "x.json", "--data", "."], "--data and --replay exclude each other"),
        (["-c", "x.yaml", "--weights", "x"], "--weights goes with --data"),
        ([], "Missing option '-c' / '--config-file', or '--data'"),
        (["--data", ".", "--no-such", "1"], "No such option: --no-such"),
    ],
)
def test_options_that_contradict_each_other_are_a_usage_error(
    detengine: Command, options: list[str], message: str
) -> None:
    finished = detengine("train", *options)
    assert finished.code == 2
    assert message in " ".join(finished.err.replace("│", " ").split())


def test_an_empty_folder_ends_with_one_paragraph(
    detengine: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nothing").mkdir()
    finished = detengine("train", "--data", "nothing")
    assert finished.code == 1
    assert "no data set was recognised in nothing: it is empty" in finished.err
    assert "Traceback" not in finished.err
    assert not Path("runs").exists()


def test_a_class_name_cannot_command_the_terminal(detengine: Command, folder: Path) -> None:
    for split in ("train", "val"):
        path = folder / f"{split}.json"
        path.write_text(path.read_text().replace('"disc"', '"di\\u202esc"'))
    for image in (folder / "images").iterdir():
        image.write_text("text")  # what was chosen is said, and that is all
    code, out, _ = detengine("train", "--data", folder, "--weights", "", "--output-dir", "out")
    assert code == 1
    assert r"Classes: di\u202esc 4" in out
