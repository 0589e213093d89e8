from pathlib import Path

import pytest

from detengine.cli.config import show_config
from detengine.config.load import load_config


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
