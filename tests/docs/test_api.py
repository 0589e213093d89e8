"""What docs/api.md promises is what the code has."""

import re
from pathlib import Path

import pytest

import detengine
from detengine.checkpoint.entries import FORMAT
from detengine.cli.app import EXIT_ERROR, EXIT_EXPECTATION_MISSED, EXIT_STOPPED
from detengine.evaluation import predictions_file
from docs.test_names import HISTORIC, find

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
PROMISED = re.findall(r"^\| `(detengine(?:\.\w+)+)` \|", PAGE, re.MULTILINE)


@pytest.mark.parametrize("name", PROMISED)
def test_a_promised_name_is_there(name: str) -> None:
    find(name)


def test_every_name_of_the_package_itself_is_promised() -> None:
    own = {name.removeprefix("detengine.") for name in PROMISED if name.count(".") == 1}
    assert own == set(detengine.__all__)


def test_every_historic_name_is_promised() -> None:
    assert set(HISTORIC) <= {name.rpartition(".")[2] for name in PROMISED}


def test_the_versions_of_the_files_are_told() -> None:
    assert f"| `model_*.pth` | `format: {FORMAT}` |" in PAGE
    of_predictions = predictions_file._FORMAT
    assert f"| `inference/<set>/predictions*.pth` | `format: {of_predictions}` |" in PAGE


def test_the_exit_codes_are_told() -> None:
    codes = " ".join(PAGE.split("exit codes: ")[1].split(".")[0].split())
    assert codes == (
        f"0 done, {EXIT_ERROR} error, 2 wrong command line, {EXIT_EXPECTATION_MISSED} expected "
        f"results missed, {EXIT_STOPPED} stopped on request and resumable"
    )
