import yaml

from detengine.choosing.recipe import Recipe, wrapped
from detengine.config.load import load_config, parse_config


def test_what_was_put_is_read_back_from_the_text_with_its_reasons() -> None:
    recipe = Recipe()
    recipe.put("", {"CONVENTIONS": "modern", "OUTPUT_DIR": "runs/a b: c#d"})
    definition = {"FORMAT": "yolo", "IMAGES": ".", "CLASSES": ["no", "1", "a: b", "ü\x85", "#"]}
    recipe.put("Where they are.", {"DATASETS.DEFINE.x": definition, "DATASETS.TRAIN": ["x"]})
    recipe.put("How long.", {"SOLVER.MAX_ITER": 70, "SOLVER.STEPS": [50, 60]})
    text = recipe.text(["Data: 3 images.", ""])
    assert parse_config(text, source="x") == load_config(None, recipe.overrides())
    assert text.startswith("# Data: 3 images.\n#\nCONVENTIONS: modern\n")
    assert "SOLVER:\n  # How long.\n  MAX_ITER: 70\n  STEPS: [50, 60]\n" in text
    assert "  DEFINE:\n    # Where they are.\n    x:\n" in text


def test_a_folder_with_a_line_break_in_its_name_is_read_back() -> None:
    recipe = Recipe()
    recipe.put("", {"DATASETS.ROOT": "data/a\nb", "OUTPUT_DIR": "runs/\udcff", "SEED": 3})
    assert parse_config(recipe.text([]), source="x") == load_config(None, recipe.overrides())


def test_a_reason_of_the_data_is_a_comment_on_every_one_of_its_lines() -> None:
    recipe = Recipe()
    recipe.put("cat\nOUTPUT_DIR: elsewhere\r# " + "long " * 60, {"SEED": 3})
    text = recipe.text(["name\nOUTPUT_DIR: elsewhere"])
    assert yaml.safe_load(text) == {"SEED": 3}
    assert all(len(line) < 100 for line in text.splitlines())


def test_wrapping_loses_no_word() -> None:
    text = "word " * 100
    assert " ".join(wrapped(text)).split() == text.split()
