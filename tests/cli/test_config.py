from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detengine.cli.config import show_config
from detengine.config.load import load_config
from detengine.config.reference import json_schema, reference_page


@pytest.mark.parametrize("diff", [False, True])
def test_what_is_shown_can_be_loaded_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], diff: bool
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("CONVENTIONS: modern\nSOLVER: {MAX_ITER: 7}\n")
    show_config(path, ["SOLVER.BASE_LR", "1e-3"], diff)
    shown = capsys.readouterr().out
    (tmp_path / "shown.yaml").write_text(shown)
    assert load_config(tmp_path / "shown.yaml") == load_config(path, ["SOLVER.BASE_LR", "1e-3"])
    assert ("MOMENTUM" in shown) is not diff


@pytest.mark.parametrize(
    ("option", "document"), [("--schema", json_schema), ("--reference", reference_page)]
)
def test_the_documents_of_all_options_need_no_file(
    detengine: Callable[..., Any], option: str, document: Callable[[], str]
) -> None:
    finished = detengine("config", option)
    assert (finished.code, finished.out) == (0, document())


def test_without_a_file_the_command_says_what_it_can_show(
    detengine: Callable[..., Any],
) -> None:
    finished = detengine("config")
    assert finished.code == 2
    assert "--reference" in finished.err
