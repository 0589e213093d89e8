"""What the demo leaves for the user, and where. Continuous integration runs the demo itself."""

from pathlib import Path

from detengine.cli.demo import DATA, YOUR_DATA, describe_device
from detengine.config.load import load_config


def test_the_recipe_for_ones_own_data_is_the_demos(tmp_path: Path) -> None:
    recipe = (DATA / "recipe.yaml").read_text(encoding="utf-8")
    path = tmp_path / "your_data.yaml"
    path.write_text(YOUR_DATA.format(file=path) + recipe, encoding="utf-8")
    mine, demo = load_config(path), load_config(DATA / "demo.yaml")
    assert (mine.MODEL, mine.SOLVER, mine.INPUT) == (demo.MODEL, demo.SOLVER, demo.INPUT)
    assert set(mine.DATASETS.DEFINE) == {"my_train", "my_val"}


def test_the_device_is_said_in_words() -> None:
    assert describe_device("cpu").startswith("cpu, ")
