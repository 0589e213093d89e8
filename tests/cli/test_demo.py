"""What the demo leaves for the user, and where. Continuous integration runs the demo itself."""

from pathlib import Path

import pytest

from detengine.cli.demo import DATA, YOUR_DATA, describe_device, free_folder
from detengine.config.load import load_config


def test_the_recipe_for_ones_own_data_is_the_demos(tmp_path: Path) -> None:
    recipe = (DATA / "recipe.yaml").read_text(encoding="utf-8")
    path = tmp_path / "your_data.yaml"
    path.write_text(YOUR_DATA.format(file=path) + recipe, encoding="utf-8")
    mine, demo = load_config(path), load_config(DATA / "demo.yaml")
    assert (mine.MODEL, mine.SOLVER, mine.INPUT) == (demo.MODEL, demo.SOLVER, demo.INPUT)
    assert set(mine.DATASETS.DEFINE) == {"my_train", "my_val"}


def test_a_second_demo_finds_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert free_folder("detengine-demo") == Path("detengine-demo")
    Path("detengine-demo").mkdir()
    Path("detengine-demo-2").mkdir()
    assert free_folder("detengine-demo") == Path("detengine-demo-3")


def test_the_device_is_said_in_words() -> None:
    assert describe_device("cpu").startswith("cpu, ")
