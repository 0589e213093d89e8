from pathlib import Path

import pytest

from detengine.config.errors import ConfigError, known_keys, shortened
from detengine.config.load import load_config


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["SOLVER.BASE_LR", "fast"], "SOLVER.BASE_LR is 'fast'; expected a number (The learning"),
        (["SOLVER.MAX_ITER", "1.5"], "SOLVER.MAX_ITER is 1.5; expected an integer (Iterations"),
        (["SOLVER.GAMMA", "-1"], "SOLVER.GAMMA is -1; expected a number greater than 0 (multi"),
        (["MODEL.MASK_ON", "1"], "MODEL.MASK_ON is 1; expected true or false (Predict masks.)"),
        (["SOLVER.OPTIMIZER", "lamb"], "SOLVER.OPTIMIZER is 'lamb'; expected 'sgd' or 'adamw'"),
        (["CONVENTIONS", "new"], "'new'; expected 'maskrcnn_benchmark' or 'modern'"),
        (["DATASETS.TRAIN", "bccd"], "'bccd'; expected a list, such as [a, b]"),
        (["SOLVER.STEPS", "(1, 'a')"], "SOLVER.STEPS[1] is 'a'; expected an integer"),
        (["INPUT.PIXEL_STD", "[1]"], "INPUT.PIXEL_STD is (1,); expected 3 items (Each channel"),
        (
            ["TEST.EXPECTED_RESULTS", "[[bbox, AP, [0.3]]]"],
            "TEST.EXPECTED_RESULTS[0][2] is (0.3,); expected 2 items (",
        ),
        (["INPUT.PIXEL_STD", "[1, 2, 3, 4]"], "expected 3 items at most"),
        (["INPUT.MIN_SIZE_TRAIN", "[]"], "expected 1 or more items"),
        (["SOLVER.BASE_LR", ".inf"], "expected a finite number"),
        (["SOLVER", "3"], "SOLVER is '3'; expected a section with keys"),
        (["SOLVER.SEED.X", "3"], "SOLVER.SEED"),
        (["SEED.X", "3"], "SEED.X cannot be set, because SEED is 0 and has no keys"),
        (
            ["DATASETS.DEFINE.a.ROOT", "x"],
            "DATASETS.DEFINE.a.FORMAT is missing; expected coco,",
        ),
        (
            ["DATASETS.DEFINE.a.FORMAT", "vok"],
            "DATASETS.DEFINE.a.FORMAT is vok; expected coco, voc",
        ),
        (["DATASETS.DEFINE.a.FORMAT", "coco"], "DATASETS.DEFINE.a.IMAGES is missing, and has no"),
        (["DATASETS.DEFINE.a", "x"], "DATASETS.DEFINE.a is 'x'; expected a section with keys"),
        (
            ["DATASETS.DEFINE", "{a: {FORMAT: voc, ROOT: r, SPLIT: 2007}}"],
            "DATASETS.DEFINE.a.SPLIT is 2007; expected text; write it in quotes (A list in",
        ),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(None, overrides)
    assert str(error.value).startswith("command line: ")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("SOLVER.BASELR", "SOLVER.BASE_LR"),
        ("SOLVR.BASE_LR", "SOLVER.BASE_LR"),
        ("MODEL.MAX_ITER", "SOLVER.MAX_ITER"),
        ("MAX_ITER", "SOLVER.MAX_ITER"),
        ("solver.base_lr", "SOLVER.BASE_LR"),
        ("MODEL.RPN.SIZE", "MODEL.RPN.MIN_SIZE"),
        ("XYZZY", None),
    ],
)
def test_an_unknown_key_gets_the_nearest_known_one(key: str, nearest: str | None) -> None:
    hint = f"; did you mean {nearest}?" if nearest else ""
    with pytest.raises(ConfigError) as error:
        load_config(None, [key, "1"])
    assert str(error.value) == f"command line: unknown key {key}{hint}"


def test_an_unknown_key_of_a_data_set_gets_the_nearest_of_its_format() -> None:
    definition = "{a: {FORMAT: voc, ROOT: r, SPLIT: s, CLASES: [x]}}"
    with pytest.raises(ConfigError, match=r"DATASETS\.DEFINE\.a\.CLASES; did .*\.a\.CLASSES\?"):
        load_config(None, ["DATASETS.DEFINE", definition])


def test_every_mistake_has_its_line() -> None:
    with pytest.raises(ConfigError) as error:
        load_config(
            None,
            ["SOLVER.BASE_LR", "fast", "SEED", "-1", "SOLVER.GAMA", "1", "INPUT.PIXEL_STD", (0,)],
        )
    assert len(str(error.value).splitlines()) == 5


def test_a_mistake_takes_one_line_however_long_its_key_is_described() -> None:
    with pytest.raises(ConfigError) as error:
        load_config(None, ["MODEL.WEIGHT", 5, "INPUT.PIXEL_STD", (1,)])
    assert len(str(error.value).splitlines()) == 2


def test_a_key_that_a_data_set_lacks_is_missed_where_the_others_were_given(
    tmp_path: Path,
) -> None:
    path = tmp_path / "file.yaml"
    path.write_text("SEED: 1\n")
    with pytest.raises(ConfigError, match=r"^command line: DATASETS\.DEFINE\.a\.IMAGES is miss"):
        load_config(path, ["DATASETS.DEFINE.a.FORMAT", "coco"])


def test_known_keys_are_dotted_and_described() -> None:
    keys = dict(known_keys())
    assert keys["SOLVER.MAX_ITER"] == "Iterations of the whole run."
    assert keys["MODEL.ROI_BOX_HEAD"] is None


def test_long_values_are_shortened_and_sections_shown_by_their_keys() -> None:
    assert shortened({"A": 1, "B": 2}) == "a section with A, B"
    assert len(shortened("x" * 200)) == 80
