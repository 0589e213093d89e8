"""The commands as a user types them: what they do, what they print, how they end."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from detengine import __version__
from detengine.checkpoint.files import load_file
from detengine.cli.main import app
from detengine.config.load import load_config

Command = Callable[..., Any]
COMMANDS = sorted(get_command(app).commands)


def words(text: str) -> str:
    """The text of help and usage errors without their frames, line breaks and colours."""
    return " ".join(re.sub(r"[╭─╮│╰╯]|\x1b\[[\d;]*m", " ", text).split())


def test_help_lists_every_command(detengine: Command) -> None:
    finished = detengine("--help")
    assert finished.code == 0
    for command in COMMANDS:
        assert re.search(rf" {command} [A-Z]", words(finished.out))
    assert "..." not in finished.out.partition("Commands:")[2], "each is said to its end"


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_each_command_has_an_example(detengine: Command, command: str) -> None:
    finished = detengine(command, "--help")
    assert finished.code == 0
    assert re.search(rf"Example: detengine {command}", words(finished.out))


def test_the_version_is_the_packages(detengine: Command) -> None:
    assert detengine("--version") == (0, f"detengine {__version__}\n", "")


def test_the_difference_of_a_configuration_is_what_was_set(
    detengine: Command, tmp_path: Path
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("CONVENTIONS: modern\nSOLVER: {MAX_ITER: 7, MOMENTUM: 0.9}\n")
    finished = detengine("config", path, "SOLVER.BASE_LR", "0.5", "--diff")
    assert finished.code == 0
    assert yaml.safe_load(finished.out) == {
        "CONVENTIONS": "modern",
        "SOLVER": {"MAX_ITER": 7, "BASE_LR": 0.5},
    }


def test_negative_values_are_values(detengine: Command, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("SOLVER: {MAX_ITER: 7}\n")
    finished = detengine("config", path, "--diff", "MODEL.RPN.STRADDLE_THRESH", "-1")
    assert finished.code == 0
    assert yaml.safe_load(finished.out)["MODEL"] == {"RPN": {"STRADDLE_THRESH": -1}}
    finished = detengine("config", path, "SOLVER.BASE_LR", "-1e-3")
    assert finished.code == 1
    assert "SOLVER.BASE_LR is -0.001; expected a number greater than 0" in finished.err


def test_train_then_eval_gives_the_same_results(
    detengine: Command, tiny_config: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = ["-c", tiny_config, "--output-dir", run, "SOLVER.MAX_ITER", "2"]
    finished = detengine("train", *options)
    assert finished.code == 0
    assert finished.err == ""
    assert "iter: 2  loss: " in finished.out
    assert re.search(r"\nbbox +\d", finished.out)
    results = json.loads((run / "results.json").read_text())
    assert results.keys() == {"shapes_val"}

    scored = tmp_path / "scored"
    weights = run / "model_final.pth"
    finished = detengine(
        "eval", "--config-file", run / "config.yaml", "--weights", weights, "--output-dir", scored
    )
    assert finished.code == 0
    assert json.loads((scored / "results.json").read_text()) == results


def test_overrides_and_options_stand_in_any_order_and_win_over_the_file(
    detengine: Command, tiny_config: Path, tmp_path: Path
) -> None:
    finished = detengine(
        *("train", "SOLVER.MAX_ITER", "1", "-c", tiny_config, "--skip-test"),
        *("SOLVER.WEIGHT_DECAY", "0", "--output-dir", tmp_path, "MODEL.MASK_ON", "False"),
    )
    assert finished.code == 0
    stored = load_config(tmp_path / "config.yaml")
    assert (stored.SOLVER.MAX_ITER, stored.SOLVER.WEIGHT_DECAY) == (1, 0)
    assert stored.MODEL.MASK_ON is False
    assert Path(stored.OUTPUT_DIR) == tmp_path
    assert "loss_mask" not in finished.out
    assert not (tmp_path / "results.json").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["trian"], "No such command 'trian'"),
        (["train"], "Missing option '-c' / '--config-file'"),
        (["eval", "-c", "run.yaml"], "Missing option '--weights'"),
        (["train", "-c", "run.yaml", "--resum"], "No such option: --resum"),
        (["train", "-c", "run.yaml", "SOLVER.MAX_ITER", "3", "--resum"], "No such option: --resum"),
        (["train", "-c", "run.yaml", "--resum", "SOLVER.MAX_ITER", "3"], "No such option: --resum"),
        (["config", "run.yaml", "--dif"], "--dif"),
        (["demo", "--fast"], "--fast"),
    ],
)
def test_a_slip_in_the_command_itself_is_a_usage_error(
    detengine: Command, arguments: list[str], complaint: str
) -> None:
    finished = detengine(*arguments)
    assert finished.code == 2
    assert complaint in words(finished.err)
    assert "Traceback" not in finished.err


def test_a_missed_expectation_ends_with_3(
    detengine: Command, tiny_config: Path, finished_run: Path, tmp_path: Path
) -> None:
    weights = finished_run / "model_final.pth"
    expected = '[["bbox", "AP", [0.9, 0.01]]]'
    options = ["-c", tiny_config, "--output-dir", tmp_path, "TEST.EXPECTED_RESULTS", expected]
    finished = detengine("eval", *options, "--weights", weights)
    assert finished.code == 3
    assert "error: 1 of 1 expected results were missed" in finished.err
    assert "bbox > AP" in finished.err
    assert (tmp_path / "results.json").exists()


def test_a_stopped_run_ends_with_75_and_the_command_that_goes_on(
    detengine: Command,
    tiny_config: Path,
    tmp_path: Path,
    interrupted_at: Callable[[str], AbstractContextManager[None]],
) -> None:
    with interrupted_at("iter: 2 "):
        finished = detengine("train", "-c", tiny_config, "--output-dir", tmp_path)
    assert finished.code == 75
    assert "SIGINT: stopping after this step, to be resumed" in finished.out
    assert not (tmp_path / "model_final.pth").exists()
    program, *arguments = shlex.split(finished.err.strip().rpartition("To go on: ")[2])
    assert program == "detengine"
    assert detengine(*arguments).code == 0
    assert load_file(tmp_path / "model_final.pth")["iteration"] == 4


@pytest.mark.parametrize("line", ["--debug config gone.yaml", "config gone.yaml --debug"])
def test_debug_anywhere_shows_where_a_mistake_was_found(detengine: Command, line: str) -> None:
    assert detengine("config", "gone.yaml").code == 1
    with pytest.raises(ValueError, match=r"gone\.yaml: cannot be read"):
        detengine(*line.split())


def test_in_a_pipe_there_are_plain_lines_only(tiny_config: Path, tmp_path: Path) -> None:
    arguments = ["train", "-c", str(tiny_config), "--output-dir", str(tmp_path / "run")]
    colourful = {"FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"}
    environment = {name: value for name, value in os.environ.items() if name not in colourful}
    finished = subprocess.run(
        [sys.executable, "-m", "detengine", *arguments, "SOLVER.MAX_ITER", "1"],
        env=environment | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")},
        capture_output=True,
        timeout=100,
        check=True,
    )
    output = finished.stdout + finished.stderr
    assert b"iter: 1 " in output
    assert b"\x1b" not in output
    assert b"\r" not in output
    assert finished.stderr == b""


def test_a_full_disk_is_one_paragraph_with_the_cure(
    detengine: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("there is no disk here that is always full")
    with full.open("w") as file:
        monkeypatch.setattr("sys.stdout", file)
        code, _, err = detengine("config", "--schema")
        monkeypatch.undo()
    assert code == 1
    assert "No space left on device. What was being written is not complete. Make room" in err
