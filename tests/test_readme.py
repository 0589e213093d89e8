"""The README's programs do what it says, on data made here."""

import re
from pathlib import Path

import pytest
import torch

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def program(containing: str) -> str:
    [found] = [
        code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if containing in code
    ]
    return found


def test_the_program_of_parts_trains_and_scores_a_torchvision_model(
    write_tiny_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    write_tiny_run(tmp_path / "data")
    code = program(containing="maskrcnn_resnet50_fpn")
    small = code.replace("num_classes=2", "num_classes=4, min_size=64, max_size=96")
    assert small != code
    torch.manual_seed(0)
    exec(compile(small, "README.md", "exec"), {})
    assert "segm" in capsys.readouterr().out
    assert (tmp_path / "run" / "model_final.pth").is_file()


def test_the_program_of_parts_has_twenty_lines_behind_its_imports() -> None:
    code = program(containing="maskrcnn_resnet50_fpn")
    lines = [line for line in code.splitlines() if line and "import" not in line]
    assert len(lines) <= 20
