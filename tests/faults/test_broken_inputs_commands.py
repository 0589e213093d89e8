"""The same broken data sets, through the commands as a user types them."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from faults.broken_inputs import Case, Counted, Kind, Refused
from faults.sound_inputs import write_sound
from faults.test_broken_inputs import THEMES, is_unlike_others
from processes import ForkServer

pytestmark = [pytest.mark.faults, pytest.mark.endurance]

SECONDS = 120


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Kind], Path]:
    """(kind) -> a folder with the sound data set of that kind, to be copied."""
    root = tmp_path_factory.mktemp("sound")

    def folder_of(kind: Kind) -> Path:
        if not (root / kind).is_dir():
            write_sound(kind, root / kind)
        return root / kind

    return folder_of


def ended(server: ForkServer, case: Case, sound: Path, folder: Path) -> list[str]:
    """What is wrong with how train and doctor end for a case. sound: the data set to be copied."""
    shutil.copytree(sound, folder)
    case.spoil(folder)
    source = ["--data", "."] if case.kind == "folder" else ["-c", "run.yaml"]
    commands = [["doctor", *source, "--no-model", *case.overrides]]
    if case.kind != "folder" and not case.only_scoring:
        commands.append(["train", *source, "--skip-test", *case.overrides])
    elif case.kind == "folder" and isinstance(
        case.promise, Refused
    ):  # else a whole model is trained
        commands.append(["train", *source, "--weights", ""])
    wrong = []
    for command in commands:
        output = folder.with_name(f"{folder.name}.{command[0]}")
        process = server.start(
            arguments=command, output=str(output), environment={}, folder=str(folder)
        )
        code = process.wait(SECONDS)
        said = output.read_text(errors="replace")
        if complaint := _complaint(case, command[0], code, said):
            wrong.append(f"{case.name}: {command[0]} {complaint}: {said[-800:]}")
    shutil.rmtree(folder)
    return wrong


def _complaint(case: Case, command: str, code: int, said: str) -> str:
    """What is wrong with how a command ended; "" for nothing."""
    if "Traceback" in said:
        return "shows a traceback"
    words = " ".join(said.split())
    if isinstance(case.promise, Refused):
        if code != 1:
            return f"ends with {code}"
        return "" if re.search(case.promise.pattern, words) else "does not say what is wrong"
    if command == "doctor" and isinstance(case.promise, Counted):
        return "" if code in (0, 1) else f"ends with {code}"
    return "" if code == 0 else f"ends with {code}"


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("theme", THEMES)
def test_commands_end_with_one_paragraph_and_never_a_traceback(
    theme: str,
    fork_server: ForkServer,
    sound: Callable[[Kind], Path],
    tmp_path: Path,
    record_fault: Callable[..., None],
) -> None:
    cases = [case for case in THEMES[theme] if is_unlike_others(case)]
    wrong = [
        each
        for number, case in enumerate(cases)
        for each in ended(fork_server, case, sound(case.kind), tmp_path / str(number))
    ]
    assert not wrong, "\n\n".join(wrong)
    refused = sum(isinstance(case.promise, Refused) for case in cases)
    record_fault(
        "Data",
        f"broken {theme}, by command",
        made="as above, with `detengine doctor` and `detengine train` of one step",
        promised="exit code 1 and one paragraph for what is refused, else 0; no traceback, no hang",
        tried=f"{len(cases)} data sets",
        happened=f"{refused} refused with the cause, {len(cases) - refused} trained on; "
        "0 tracebacks",
    )
