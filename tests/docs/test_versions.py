"""The versions that documents name are those that pyproject.toml admits."""

import re
import tomllib
from pathlib import Path

import pytest

from detengine.modeling.export_onnx import TORCH

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
RELIABILITY = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")


def bounds(requirements: list[str]) -> dict[str, str]:
    """The lower bound of each, by its name; what is no version's bound is an error."""
    own = [each for each in requirements if not each.startswith("detengine[")]
    return dict(each.split(">=") for each in own)  # type: ignore[misc]


def test_the_readme_names_the_lowest_python_and_torch() -> None:
    python, torch = PROJECT["requires-python"][2:], bounds(PROJECT["dependencies"])["torch"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"Python {python} or newer, torch {torch} or newer" in readme


@pytest.mark.parametrize("requirements", [PROJECT["dependencies"], *EXTRAS.values()])
def test_everything_has_a_lower_bound_so_that_the_oldest_can_be_tried(
    requirements: list[str],
) -> None:
    assert all(re.fullmatch(r"[\d.]+", bound) for bound in bounds(requirements).values())


def test_the_table_of_versions_has_every_bound_of_what_is_used() -> None:
    section = RELIABILITY.partition("\n## Versions\n")[2]
    used = bounds(PROJECT["dependencies"])
    for extra in ("timm", "tensorboard", "wandb", "video", "onnx"):
        used |= bounds(EXTRAS[extra])
    stated = [f"{name} {bound}" for name, bound in used.items()]
    assert [each for each in stated if not re.search(rf"{re.escape(each)}(?![\d.])", section)] == []


def test_the_page_about_exporting_names_the_torch_that_can() -> None:
    page = (ROOT / "docs/export.md").read_text(encoding="utf-8")
    assert f"torch {TORCH} or newer" in page
    assert f"torch {TORCH} or newer" in RELIABILITY.partition("\n## Versions\n")[2]
