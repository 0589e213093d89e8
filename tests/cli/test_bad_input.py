"""What a user can get wrong: one paragraph that names what was given, where, and the cure."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

Command = Callable[..., Any]


@pytest.fixture
def config(write_tiny_run: Callable[[Path], Path], tmp_path: Path) -> Path:
    """A tiny run of this test's own, whose data may be spoiled."""
    return write_tiny_run(tmp_path)


@pytest.fixture
def assert_refused(detengine: Command) -> Callable[..., None]:
    """(arguments, said=parts of the message in their order) runs a command that must fail so."""

    def run(*arguments: str | Path, said: list[str]) -> None:
        code, out, err = detengine(*arguments)
        assert code == 1
        assert err.startswith("error: ")
        assert "Traceback" not in out + err
        assert "\n\n" not in err.strip()
        rest = err
        for part in said:
            assert part in rest, f"{part!r} is missing in {rest!r}"
            rest = rest.partition(part)[2]

    return run


def change(annotations: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Edit a COCO file in place."""
    content = json.loads(annotations.read_text())
    edit(content)
    annotations.write_text(json.dumps(content))


# Data


def test_a_missing_annotation_file(config: Path, assert_refused: Callable[..., None]) -> None:
    path = config.with_name("train.json")
    path.unlink()
    assert_refused(
        *("train", "-c", config),
        said=["'shapes_train'", f"{path} does not exist", "ANNOTATIONS, or DATASETS.ROOT"],
    )


def test_an_annotation_file_that_was_cut_off(
    config: Path, assert_refused: Callable[..., None]
) -> None:
    path = config.with_name("train.json")
    path.write_bytes(path.read_bytes()[:200])
    assert_refused(
        *("train", "-c", config), said=[str(path), "no complete JSON file (200 bytes)", "cut off?"]
    )


def test_a_path_that_commands_the_terminal_is_shown_by_escapes(
    detengine: Command, tmp_path: Path
) -> None:
    code, _, err = detengine("train", "-c", tmp_path / "a\x1b[31m.yaml")
    assert code == 1
    assert r"a\x1b[31m.yaml: cannot be read" in err


@pytest.mark.parametrize("workers", [0, 1])
def test_a_missing_image(config: Path, assert_refused: Callable[..., None], workers: int) -> None:
    path = config.parent / "images" / "train_4.jpg"
    path.unlink()
    assert_refused(
        *("train", "-c", config, "DATALOADER.NUM_WORKERS", str(workers)),
        said=[f"{path} does not exist", "'shapes_train' lists it (image 104)", "Put it there, or"],
    )


def test_a_missing_image_folder(config: Path, assert_refused: Callable[..., None]) -> None:
    folder = config.parent / "pictures"
    assert_refused(
        *("train", "-c", config, "DATASETS.DEFINE.shapes_train.IMAGES", "pictures"),
        said=["train.json", "'train_0.jpg'", str(folder), "no such folder", "image folder right?"],
    )


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_truncated_jpeg(
    config: Path, assert_refused: Callable[..., None], workers: int, split: str
) -> None:
    path = config.parent / "images" / f"{split}_1.jpg"
    size = path.stat().st_size // 2
    path.write_bytes(path.read_bytes()[:size])
    assert_refused(
        *("train", "-c", config, "DATALOADER.NUM_WORKERS", str(workers)),
        said=[f"{path} cannot be read as an image", f"({size} bytes)", "Copy the file again"],
    )


def test_a_box_outside_of_its_image(config: Path, assert_refused: Callable[..., None]) -> None:
    path = config.with_name("train.json")
    change(path, lambda content: content["annotations"][0].update(bbox=[500, 20, 30, 40]))
    assert_refused(
        *("train", "-c", config),
        said=[
            f"{path}: the box of annotation 1 lies entirely outside of its image",
            "[500.0, 20.0, 30.0, 40.0] in train_0.jpg of ",
            "Do the boxes belong to resized images?",
        ],
    )


def test_a_box_that_reaches_out_of_its_image_is_clipped_with_a_word(
    config: Path, detengine: Command
) -> None:
    path = config.with_name("train.json")
    change(path, lambda content: content["annotations"][0].update(bbox=[10, 10, 500, 30]))
    finished = detengine("train", "-c", config, "--skip-test", "SOLVER.MAX_ITER", "1")
    assert finished.code == 0
    assert "1 of 10 annotations reach out of their image" in finished.out
    assert "they are clipped: 1 (train_0.jpg)" in finished.out


def test_an_unknown_category(config: Path, assert_refused: Callable[..., None]) -> None:
    path = config.with_name("train.json")
    change(path, lambda content: content["annotations"][2].update(category_id=4))
    assert_refused(
        *("train", "-c", config),
        said=[f"{path}: annotation 3", "unknown category 4", "[3, 7, 20]", "Add it to them, or"],
    )


def test_an_image_of_another_size_than_its_annotations_say(
    config: Path, assert_refused: Callable[..., None]
) -> None:
    change(config.with_name("train.json"), lambda content: content["images"][0].update(width=77))
    assert_refused(
        *("train", "-c", config), said=["train_0.jpg has ", "'shapes_train' gives it 77 x", "EXIF"]
    )


def test_masks_asked_of_a_set_without_any(
    config: Path, assert_refused: Callable[..., None]
) -> None:
    assert_refused(
        *("train", "-c", config, "DATASETS.TRAIN", "[voc_train]"),
        said=["MODEL.MASK_ON is True, but data set 'voc_train' has no masks", "to False, or"],
    )


def test_a_test_set_with_classes_that_are_not_trained(
    config: Path, assert_refused: Callable[..., None]
) -> None:
    change(config.with_name("val.json"), lambda content: content["categories"][1].update(name="i"))
    assert_refused(
        *("train", "-c", config),
        said=["shapes_val has 1 of 3 classes that the model does not know: i", "DATASETS.CLASSES"],
    )


# The configuration


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (["SOLVER.MAXITER", "3"], ["unknown key SOLVER.MAXITER", "SOLVER.MAX_ITER?"]),
        (["SOLVER.MAX_ITER", "many"], ["SOLVER.MAX_ITER is 'many'", "expected an integer"]),
        (["SOLVER.MAX_ITER"], ["'SOLVER.MAX_ITER' has no value", "pairs of KEY VALUE"]),
        (["SOLVER.BASE_LR", "-1"], ["SOLVER.BASE_LR is -1", "a number greater than 0"]),
        (["MODEL.DEVICE", "gpu"], ["MODEL.DEVICE is 'gpu'", "expected auto, cpu", "Set MODEL"]),
        (["DATASETS.TRAIN", "[]"], ["DATASETS.TRAIN is empty", "name at least one"]),
        (
            ["DATASETS.TRAIN", "[shapes]"],
            ["'shapes' is not defined under DATASETS.DEFINE", "shapes_train, shapes_val, voc_tr"],
        ),
        (
            ["DATASETS.CLASSES", "[disc, cone]"],
            ["DATASETS.CLASSES asks for 'cone'", "shapes_train are 'disc', 'bar', 'wedge'"],
        ),
        (
            ["MODEL.ROI_BOX_HEAD.NUM_CLASSES", "3"],
            [
                "a label beyond NUM_CLASSES: MODEL.ROI_BOX_HEAD.NUM_CLASSES is 3",
                "3 classes (disc, bar, wedge) and needs 4",
                "DATASETS.CLASSES",
            ],
        ),
        (
            ["CONVENTIONS", "maskrcnn_benchmark"],
            ["MODEL.BACKBONE.CONV_BODY is 'R-18-FPN' and MODEL.RPN.USE_FPN is False"],
        ),
        (
            ["SOLVER.IMS_PER_BATCH", "3", "SOLVER.ACCUMULATE", "2"],
            ["SOLVER.IMS_PER_BATCH is 3", "SOLVER.ACCUMULATE, 2", "expected a multiple of it"],
        ),
        (
            ["MODEL.BUILDER", "no_such_module:build"],
            ["MODEL.BUILDER: there is no module 'no_such_module'", "check the spelling"],
        ),
        (
            ["MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", "1000000000"],
            ["MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM is 1000000000", "less than or equal to 65536"],
        ),
        (
            [  # more than an address can name, whatever the machine
                *("MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", "65536"),
                *("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", "1024"),
                *("MODEL.RESNETS.BACKBONE_OUT_CHANNELS", "1024"),
            ],
            ["the memory is not enough", "allocate", "SOLVER.ACCUMULATE", "the model smaller"],
        ),
    ],
)
def test_a_setting_that_cannot_be(
    tiny_config: Path,
    tmp_path: Path,
    assert_refused: Callable[..., None],
    pairs: list[str],
    said: list[str],
) -> None:
    assert_refused("train", "-c", tiny_config, "--output-dir", tmp_path, *pairs, said=said)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_device_that_is_not_there(
    tiny_config: Path, tmp_path: Path, assert_refused: Callable[..., None]
) -> None:
    assert_refused(
        *("train", "-c", tiny_config, "--output-dir", tmp_path, "MODEL.DEVICE", "cuda"),
        said=["MODEL.DEVICE is 'cuda', but ", "Set MODEL.DEVICE to cpu, or to auto"],
    )


def test_a_mistake_in_the_file_names_the_file(
    config: Path, assert_refused: Callable[..., None]
) -> None:
    config.write_text(config.read_text().replace("OPTIMIZER: adamw", "OPTIMIZER: adam"))
    assert_refused(
        *("train", "-c", config),
        said=[f"{config}: SOLVER.OPTIMIZER is 'adam'", "expected 'sgd' or 'adamw'"],
    )


def test_a_missing_configuration(tmp_path: Path, assert_refused: Callable[..., None]) -> None:
    path = tmp_path / "gone.yaml"
    for command in (["train", "-c"], ["eval", "--weights", "model.pth", "-c"], ["config"]):
        assert_refused(*command, path, said=[f"{path}: cannot be read (No such file", "YAML file"])


def test_losses_that_run_away(
    tiny_config: Path, tmp_path: Path, assert_refused: Callable[..., None]
) -> None:
    pairs = ["SOLVER.BASE_LR", "1e12", "SOLVER.OPTIMIZER", "sgd", "SOLVER.WARMUP_FACTOR", "1"]
    assert_refused(
        *("train", "-c", tiny_config, "--output-dir", tmp_path, *pairs),
        said=["not finite", "iteration ", "image ids [", "loss", "lower SOLVER.BASE_LR"],
    )
    assert not list(tmp_path.glob("model_*.pth"))


# The output folder


@pytest.mark.parametrize("below", ["", "run"])
def test_an_output_folder_where_a_file_is(
    tiny_config: Path, tmp_path: Path, assert_refused: Callable[..., None], below: str
) -> None:
    (tmp_path / "notes").write_text("a file")
    folder = tmp_path / "notes" / below
    assert_refused(
        *("train", "-c", tiny_config, "--output-dir", folder),
        said=[f"the output folder {folder} cannot be made", "Name another by --output-dir"],
    )


def test_an_output_folder_with_a_run_in_it(
    tiny_config: Path, finished_run: Path, assert_refused: Callable[..., None]
) -> None:
    assert_refused(
        *("train", "-c", tiny_config, "--output-dir", finished_run),
        said=[f"{finished_run} holds a run already", "Add --resume", "--output-dir (OUTPUT_DIR)"],
    )


# Weights


@pytest.fixture
def assert_weights_refused(
    tiny_config: Path, tmp_path: Path, assert_refused: Callable[..., None]
) -> Callable[..., None]:
    """(weights, pairs, said) as weights to score, and as those to begin a training with."""

    def run(weights: Path, *pairs: str, said: list[str]) -> None:
        common = ["-c", tiny_config, "--output-dir", tmp_path / "out", *pairs]
        assert_refused("eval", *common, "--weights", weights, said=said)
        assert_refused("train", *common, "MODEL.WEIGHT", weights, said=said)

    return run


def test_missing_weights(finished_run: Path, assert_weights_refused: Callable[..., None]) -> None:
    path = finished_run / "model_finale.pth"
    assert_weights_refused(
        path, said=[f"there is no checkpoint {path}", "there are: model_final.pth"]
    )


def test_weights_that_are_something_else(
    tiny_config: Path, assert_weights_refused: Callable[..., None]
) -> None:
    assert_weights_refused(
        tiny_config, said=[f"{tiny_config} is not a checkpoint", "Expected a .pth file"]
    )


def test_weights_that_were_cut_off(
    finished_run: Path, tmp_path: Path, assert_weights_refused: Callable[..., None]
) -> None:
    path = tmp_path / "cut.pth"
    path.write_bytes((finished_run / "model_final.pth").read_bytes()[:10_000])
    assert_weights_refused(path, said=[f"{path} is truncated", "(10,000 bytes are there)"])


def test_weights_that_would_run_code(
    tmp_path: Path, assert_weights_refused: Callable[..., None]
) -> None:
    path = tmp_path / "model.pth"
    torch.save({"model": torch.nn.Linear(1, 1)}, path)
    assert_weights_refused(path, said=[f"{path} holds Python objects", "could run any code"])


def test_weights_of_another_model(
    tiny_config: Path, finished_run: Path, tmp_path: Path, assert_refused: Callable[..., None]
) -> None:
    weights = finished_run / "model_final.pth"
    assert_refused(
        *("eval", "-c", tiny_config, "--output-dir", tmp_path, "--weights", weights),
        *("MODEL.RESNETS.BACKBONE_OUT_CHANNELS", "48"),
        said=[f"the weights in {weights} are not this model's", "->", "config.yaml beside it"],
    )


def test_weights_for_other_classes(
    config: Path, finished_run: Path, assert_refused: Callable[..., None]
) -> None:
    change(config.with_name("val.json"), lambda content: content["categories"][0].update(name="o"))
    assert_refused(
        *("eval", "-c", config, "--weights", finished_run / "model_final.pth"),
        said=["shapes_val has 1 of 3 classes that the model does not know: o", "label", "model"],
    )


def test_nothing_to_score(
    tiny_config: Path, finished_run: Path, assert_refused: Callable[..., None]
) -> None:
    weights = finished_run / "model_final.pth"
    assert_refused(
        *("eval", "-c", tiny_config, "--weights", weights, "DATASETS.TEST", "[]"),
        said=["DATASETS.TEST is empty", "name at least one data set to score on"],
    )
