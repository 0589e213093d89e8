"""The programs and commands in a Markdown document, and what runs them as a reader would.

- A block `console`: each line that begins with `$ ` is a command (it goes on in the next line
  behind a `\\`), the others are what it printed.
- A block whose first line is `# NAME.py` or `# NAME.yaml` is that file.
- Any other block `python` is a program of its own.
- All other blocks are only shown.

$DETENGINE is the project's folder.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from processes import ForkServer

SECONDS = 120.0
COUNT = "2"
"""Of iterations, and of a sweep's trials, wherever a document gives a number of them."""
PROJECT = Path(__file__).parents[2]

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"# ([\w/]+\.(?:py|yaml))\n")
_COUNTED = re.compile(r"(MAX_ITER\b[\"':=,\s]+|--trials )\d+")


class Step(NamedTuple):
    """What a reader does. kind: command, file or program; name: the file's, else empty."""

    kind: str
    text: str
    name: str = ""


def steps_of(document: str) -> Iterator[Step]:
    """What is done in a document, in its order, with COUNT for numbers of iterations."""
    for language, block in _BLOCK.findall(document):
        text = _COUNTED.sub(rf"\g<1>{COUNT}", block)
        file = _FILE.match(text)
        if language in ("python", "yaml") and file:
            yield Step("file", text, file[1])
        elif language == "python":
            yield Step("program", text)
        elif language == "console":
            for command in re.findall(r"^\$ ((?:.*\\\n)*.*)$", text, re.MULTILINE):
                yield Step("command", command.replace("\\\n", " "))


def follow(document: str, folder: Path, server: ForkServer) -> None:
    """Do all that a document says, in this folder. Raises AssertionError at the first failure."""
    for number, step in enumerate(steps_of(document), start=1):
        if step.kind == "file":
            path = folder / step.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(step.text, encoding="utf-8")
            continue
        output = folder.with_name(f"{folder.name}_step{number}.txt")
        code = _run(step, folder, output, server)
        assert code == 0, f"exit code {code} from\n{step.text}\n\n{output.read_text()}"


def _run(step: Step, folder: Path, output: Path, server: ForkServer) -> int:
    if step.kind == "program":
        program = output.with_suffix(".py")
        program.write_text(f"import sys; sys.path.insert(0, '')\n{step.text}", encoding="utf-8")
        return _fork(server, folder, output, str(program), [])
    words = [each for word in shlex.split(step.text) for each in _expanded(word, folder)]
    if words[0] == "detengine" and ">" not in words:
        return _fork(server, folder, output, "", words[1:])
    if words[0] == "python" and words[1].endswith(".py"):
        return _fork(server, folder, output, words[1], words[2:])
    with output.open("w") as file:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            f'detengine() {{ python -m detengine "$@"; }}\n{step.text}',
            shell=True,
            cwd=folder,
            stdout=file,
            stderr=subprocess.STDOUT,
            timeout=SECONDS,
            env=os.environ
            | {"PATH": path, "PYTHONPATH": os.pathsep.join(sys.path), "DETENGINE": str(PROJECT)},
            check=False,
        ).returncode


def _expanded(word: str, folder: Path) -> list[str]:
    """What a shell makes of a pattern."""
    found = (
        sorted(str(path.relative_to(folder)) for path in folder.glob(word)) if "*" in word else []
    )
    return found or [word]


def _fork(
    server: ForkServer, folder: Path, output: Path, program: str, arguments: list[str]
) -> int:
    process = server.start(
        program=program,
        arguments=arguments,
        output=str(output),
        environment={},
        folder=str(folder),
    )
    return process.wait(SECONDS)
