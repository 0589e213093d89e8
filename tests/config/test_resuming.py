"""A run goes on with the configuration it was started with, but for what does not teach it."""

from typing import Any

import pytest
import yaml

from detengine.config.errors import ConfigError
from detengine.config.load import load_config, to_yaml
from detengine.config.resuming import raise_if_another_run

RUN: list[Any] = [
    "CONVENTIONS", "modern",
    "DATASETS.DEFINE", {
        "mine": {"FORMAT": "coco", "IMAGES": "a", "ANNOTATIONS": "a.json"},
        "other": {"FORMAT": "voc", "ROOT": "b", "SPLIT": "val"},
    },
    "DATASETS.TRAIN", ["mine"],
    "DATASETS.TEST", ["other"],
]  # fmt: skip


def compare(*changes: Any) -> list[str]:
    before = to_yaml(load_config(None, RUN))
    return raise_if_another_run(before, to_yaml(load_config(None, [*RUN, *changes])), "run/x.pth")


def test_the_same_configuration_goes_on_without_a_word() -> None:
    assert compare() == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("DATASETS.ROOT", "elsewhere"),
        ("DATASETS.DEFINE.mine.IMAGES", "moved"),
        ("DATASETS.DEFINE.mine.ANNOTATIONS", "moved.json"),
        ("DATASETS.DEFINE.other.SPLIT", "test"),
        ("DATASETS.TEST", "[mine]"),
        ("DATALOADER.NUM_WORKERS", "0"),
        ("MODEL.DEVICE", "cpu"),
        ("SOLVER.MAX_ITER", "99000"),
        ("SOLVER.ACCUMULATE", "2"),
        ("SOLVER.LOG_PERIOD", "7"),
        ("SOLVER.CHECKPOINT_PERIOD", "7"),
        ("SOLVER.TEST_PERIOD", "7"),
        ("SOLVER.KEEP_CHECKPOINTS", "2"),
        ("SOLVER.TIME_LIMIT", "60"),
        ("TEST.LOSS", "True"),
        ("TEST.PICTURES", "0"),
        ("TEST.BBOX_AUG.ENABLED", "True"),
    ],
)
def test_what_teaches_nothing_may_change_and_is_said(key: str, value: str) -> None:
    [line] = compare(key, value)
    assert line.startswith(f"{key} was ")


def test_the_patience_of_a_run_may_change_and_end() -> None:
    scored = ("SOLVER.TEST_PERIOD", "5", "SOLVER.BEST_METRIC", "bbox/AP")
    before, now = (
        to_yaml(load_config(None, [*RUN, *scored, "SOLVER.EARLY_STOPPING", patience]))
        for patience in ("3", "None")
    )
    [line] = raise_if_another_run(before, now, "run/x.pth")
    assert line == "SOLVER.EARLY_STOPPING was 3, and is None from here on"


@pytest.mark.parametrize("patience", ["None", "3"])
def test_a_key_that_the_run_of_another_version_did_not_know_is_a_difference_where_it_is_on(
    patience: str,
) -> None:
    scored = ("SOLVER.TEST_PERIOD", "5", "SOLVER.BEST_METRIC", "bbox/AP")
    cfg = load_config(None, [*RUN, *scored, "SOLVER.EARLY_STOPPING", patience])
    before = yaml.safe_load(to_yaml(cfg))
    del before["SOLVER"]["EARLY_STOPPING"], before["DATALOADER"]["REPEAT_THRESHOLD"]
    lines = raise_if_another_run(yaml.safe_dump(before), to_yaml(cfg), "run/x.pth")
    said = "SOLVER.EARLY_STOPPING was not there, and is 3 from here on"
    assert lines == ([] if patience == "None" else [said])


def test_a_moved_output_folder_is_not_worth_a_word() -> None:
    assert compare("OUTPUT_DIR", "moved") == []


def test_a_data_set_may_be_added_to_those_that_are_scored() -> None:
    new = {"FORMAT": "voc", "ROOT": "c", "SPLIT": "val"}
    lines = compare("DATASETS.DEFINE.new", new, "DATASETS.TEST", "[new]")
    assert any("DATASETS.DEFINE.new was not there, and is a section" in line for line in lines)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SEED", "1"),
        ("DTYPE", "bfloat16"),
        ("MODEL.WEIGHT", "other.pth"),
        ("MODEL.MASK_ON", "True"),
        ("SOLVER.BASE_LR", "0.5"),
        ("SOLVER.IMS_PER_BATCH", "2"),
        ("SOLVER.EMA_DECAY", "0.99"),
        ("DATASETS.TRAIN", "[other]"),
        ("INPUT.MIN_SIZE_TRAIN", "[320]"),
    ],
)
def test_what_is_learnt_may_not_change(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"  {key}: was .*, is "):
        compare(key, value)


def test_the_refusal_is_a_table_with_the_file_and_both_cures() -> None:
    with pytest.raises(ConfigError) as refused:
        compare("SEED", "7", "SOLVER.BASE_LR", "0.5", "SOLVER.MAX_ITER", "9")
    text = str(refused.value)
    assert "the run in run/x.pth was started with another configuration" in text
    assert "\n  SEED: was 0, is 7\n" in text
    assert "SOLVER.BASE_LR: was 0.02, is 0.5" in text
    assert "SOLVER.MAX_ITER: " not in text
    assert "config.yaml beside it" in text
    assert "MODEL.WEIGHT" in text


def test_another_length_under_a_stretched_schedule_is_said_with_its_consequence() -> None:
    before = to_yaml(load_config(None, [*RUN, "SOLVER.SCHEDULE", "cosine"]))
    now = to_yaml(load_config(None, [*RUN, "SOLVER.SCHEDULE", "cosine", "SOLVER.MAX_ITER", "9"]))
    [line] = raise_if_another_run(before, now, "x.pth")
    assert line.endswith("the cosine schedule is stretched to it, so its learning rate jumps")
