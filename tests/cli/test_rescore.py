"""Stored predictions scored from the command line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]
Store = Callable[..., Path]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("0,²", "'²' is no image id; expected integers with commas"),
        ("0,--1", "'--1' is no image id"),
        ("", "nothing is an image id"),
        ("{file}", "nothing is an image id"),
        ("9" * 5000, "is no image id"),
    ],
)
def test_what_is_no_image_id_is_named(
    detengine: Command, store: Store, tiny_config: Path, tmp_path: Path, given: str, said: str
) -> None:
    (tmp_path / "ids.txt").write_text("\n")
    given = given.format(file=tmp_path / "ids.txt")
    arguments = ["--predictions", store("run", every=1), "-c", tiny_config]
    finished = detengine("eval", *arguments, "--images", given)
    assert finished.code == 1
    assert said in finished.err


def test_expected_results_are_held_against_an_annotation_file_s_scores_too(
    detengine: Command, store: Store, tiny_config: Path
) -> None:
    truth = tiny_config.with_name("val.json")
    arguments = ["--predictions", store("run", every=1), "--annotations", truth]
    expected = "[[bbox, AP, [0.5, 0.01]]]"
    finished = detengine("eval", *arguments, "TEST.EXPECTED_RESULTS", expected)
    assert finished.code == 3
    assert ": FAIL: bbox > AP sanity check" in finished.out
    assert "error: 1 of 1 expected results were missed:\nval: bbox > AP" in finished.err


def test_an_expected_result_that_is_met_is_said(
    detengine: Command, store: Store, tiny_config: Path
) -> None:
    arguments = ["--predictions", store("run", every=1), "-c", tiny_config, "--iou-type", "bbox"]
    expected = "[[bbox, AP, [1.0, 0.01]]]"
    finished = detengine("eval", *arguments, "TEST.EXPECTED_RESULTS", expected)
    assert finished.code == 0, finished.err
    assert ": PASS: bbox > AP sanity check" in finished.out


def test_a_list_of_image_ids_may_be_longer_than_the_name_of_a_file(
    detengine: Command, store: Store, tiny_config: Path
) -> None:
    content = json.loads(tiny_config.with_name("val.json").read_text())
    ids = [str(each["id"]) for each in content["images"]]
    arguments = ["--predictions", store("run", every=1), "-c", tiny_config, "--iou-type", "bbox"]
    finished = detengine("eval", *arguments, "--images", ",".join(ids * 2000))
    assert finished.code == 0, finished.err
