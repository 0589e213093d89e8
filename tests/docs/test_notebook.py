"""The notebook runs from top to bottom, in two iterations; what is stored of it is small."""

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import detengine

PATH = Path(__file__).parents[2] / "docs" / "notebook.ipynb"
LARGEST = 300_000


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    return nbformat.read(PATH, as_version=4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:zmq", "ignore::ResourceWarning")
def test_it_runs_and_shows_a_picture_a_curve_and_a_table(
    notebook: nbformat.NotebookNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(detengine.__file__).parents[1]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PATH", os.environ["PATH"])
    for cell in notebook.cells:
        cell.source = re.sub(r'("SOLVER.MAX_ITER", )"\d+"', r'\1"2"', cell.source)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources=resources).execute()
    kinds = [
        kind
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        for kind in output.get("data", {})
    ]
    assert kinds.count("image/png") == 2
    assert "text/markdown" in kinds


def test_it_is_small_and_says_nothing_of_the_machine_it_ran_on() -> None:
    text = PATH.read_text(encoding="utf-8")
    assert len(text) < LARGEST
    assert not re.search(r'"/(home|root|tmp|usr|work)/', text)
    assert '"output_type": "error"' not in text
