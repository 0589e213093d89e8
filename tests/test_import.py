"""Importing the package and asking for help are light: no torch."""

import json
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

import detengine

# Runs a statement and reports whether heavy libraries came with it, whatever it exits with.
REPORT = """
import json, sys
try:
    {statement}
except SystemExit as stop:
    assert not stop.code, stop.code
heavy = {{"torch", "torchvision", "numpy", "hotcoco", "PIL"}} & sys.modules.keys()
print("heavy:" + json.dumps(sorted(heavy)))
"""


def heavy_after(statement: str, *arguments: str) -> list[str]:
    finished = subprocess.run(
        [sys.executable, "-c", REPORT.format(statement=statement), *arguments],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return json.loads(finished.stdout.rsplit("heavy:", 1)[1])


def test_importing_detengine_imports_no_torch() -> None:
    assert heavy_after("import detengine; detengine.__version__; dir(detengine)") == []


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["eval", "--help"], ["doctor", "--help"]]
)
def test_help_imports_no_torch(arguments: list[str]) -> None:
    statement = "import runpy; runpy.run_module('detengine', run_name='__main__')"
    assert "torch" not in heavy_after(statement, *arguments)


def test_the_lazy_names_are_those_that_are_announced() -> None:
    assert set(dir(detengine)) == {"__version__", "train", "evaluate", "load", "load_config"}
    for name in detengine.__all__:
        assert getattr(detengine, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'detengine' has no attribute 'trian'"):
        detengine.trian  # noqa: B018


def test_the_command_is_the_function_behind_python_m_detengine() -> None:
    installed = [each for each in entry_points(group="console_scripts") if each.name == "detengine"]
    if not installed:
        pytest.skip("detengine is on the path but not installed")
    assert installed[0].value == "detengine.cli.main:main"
