"""What a notebook keeps of a training, and what it shows while it lasts."""

import os
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest
from rich.text import Text

import detengine
from detengine.monitor.display import NotebookDisplay

TRAINING = """\
from detengine import evaluate, load_config, train
settings = ["OUTPUT_DIR", "{folder}", "SOLVER.LOG_PERIOD", "1", "SOLVER.TEST_PERIOD", "2",
            "TEST.PICTURES", "0"]
cfg = load_config("{config}", settings)
result = train(cfg)
"""


@pytest.mark.slow
def test_a_training_in_a_notebook_is_one_output_that_is_replaced(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(detengine.__file__).parents[1]))
    source = TRAINING.format(config=tiny_config, folder=tmp_path / "run")
    score = f"scores = evaluate(cfg, '{tmp_path}/run/model_final.pth')"
    cells = [nbformat.v4.new_code_cell(each) for each in (source, score)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(notebook, timeout=120).execute()
    shown, printed = outputs_of(notebook.cells[0])
    assert len(shown) == 1
    plain, html = shown[0]["text/plain"], shown[0]["text/html"]
    assert "4/4 in 0:0" in plain
    assert "iteration 4" in plain
    assert html.startswith("<pre")
    assert "iter: " not in printed
    assert printed.count("Start evaluation") == 2
    assert max(map(len, plain.splitlines())) <= 88
    shown, printed = outputs_of(notebook.cells[1])
    assert [each["text/plain"].split()[:2] for each in shown] == [["scoring", "shapes_val"]]
    assert " iter: 4 " in (tmp_path / "run/log.txt").read_text()


def outputs_of(cell: Any) -> tuple[list[Any], str]:
    """What is displayed, by its kinds, and what is printed."""
    shown = [each.data for each in cell.outputs if each.output_type == "display_data"]
    printed = [each.text for each in cell.outputs if each.output_type == "stream"]
    return shown, "".join(printed)


def test_names_are_escaped_in_a_notebooks_page() -> None:
    import IPython.display as front

    pages: list[Any] = []

    class Handle(front.DisplayHandle):
        def display(self, page: Any, **how: Any) -> None:
            pages.append(page)

        update = display

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(front, "DisplayHandle", Handle)
        with NotebookDisplay().showing(lambda: Text("<img src=x onerror=alert(1)>")):
            pass
    assert pages[-1]["text/plain"] == "<img src=x onerror=alert(1)>"
    assert "<img" not in pages[-1]["text/html"]
    assert os.linesep not in pages[-1]["text/plain"]
