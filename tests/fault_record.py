"""What the tests of faults tried and saw, as the rows of docs/reliability.md.

A test marked `faults` calls `record_fault(...)` at its end, when the promise was held. With
`--faults-table FILE` each such row is written into that file: in the place of the one with the same
command, or at the end of its section's table.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "docs/reliability.md"
SECTIONS = (
    "Crashes",
    "Memory",
    "Disks",
    "Damage",
    "Data",
    "Workers",
    "Ranks",
    "Load",
    "Security",
    "Determinism",
)
HEAD = (
    "| fault | how it is made | promised | tried | what happened | command |",
    "|---|---|---|---|---|---|",
)
ROWS = pytest.StashKey[list["Row"]]()


class Row(NamedTuple):
    """One line of the table; section is the heading that it stands under."""

    section: str
    fault: str
    made: str
    promised: str
    tried: str
    happened: str
    command: str

    def line(self) -> str:
        cells = [cell.replace("|", "\\|").replace("\n", " ") for cell in self[1:]]
        return "| " + " | ".join(cells) + " |"


Record = Callable[..., None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--faults-table",
        metavar="FILE",
        type=Path,
        help="write what the tests of faults tried and saw into this document",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of minutes are run where faults are asked for, and nowhere else."""
    if asked_for_faults(config):
        return
    long = [item for item in items if item.get_closest_marker("endurance")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


def pytest_sessionfinish(session: pytest.Session) -> None:
    path, rows = session.config.getoption("--faults-table"), session.config.stash[ROWS]
    if path and rows:
        path.write_text(with_rows(path.read_text(), rows))


def asked_for_faults(config: pytest.Config) -> bool:
    """`-m faults`. `-m "faults and not endurance"` is the ordinary suite's part of them alone."""
    asked = config.getoption("-m") or ""
    return "faults" in asked and not re.search("not (endurance|faults)", asked)


@pytest.fixture(scope="session")
def times(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """(quick, full) -> how often to try: the full number under `-m faults`, else the quick one."""

    def number(quick: int, full: int) -> int:
        return full if asked_for_faults(request.config) else quick

    return number


@pytest.fixture
def record_fault(request: pytest.FixtureRequest) -> Iterator[Record]:
    """(section, fault, *, made, promised, tried, happened) -> a row of the table.

    To be called once, as the last line of a test: what is recorded has been asserted.
    """
    rows: list[Row] = []

    def add(
        section: str, fault: str, *, made: str, promised: str, tried: object, happened: str
    ) -> None:
        assert section in SECTIONS
        name = request.node.nodeid.partition("[")[0]
        command = f"`pytest -m faults {name}`"
        rows.append(Row(section, fault, made, promised, str(tried), happened, command))

    yield add
    request.config.stash[ROWS] += rows


def with_rows(document: str, rows: list[Row]) -> str:
    """The document, each row where the same fault and command stood, or at its section's end."""
    lines = document.splitlines()
    for row in rows:
        end = f" | {row.command} |"
        start = f"| {row.line().split(' | ')[0][2:]} | "
        old = [i for i, line in enumerate(lines) if line.endswith(end) and line.startswith(start)]
        if old:
            lines[old[0]] = row.line()
        else:
            lines.insert(_end_of_table(lines, row.section), row.line())
    return "\n".join(lines) + "\n"


def _end_of_table(lines: list[str], section: str) -> int:
    """The index behind the last row of the section's table, which is begun if it is not there."""
    heading = lines.index(f"## {section}")
    following = [i for i in range(heading + 1, len(lines)) if lines[i].startswith("## ")]
    stop = following[0] if following else len(lines)
    table = [i for i in range(heading, stop) if lines[i].startswith("|")]
    if table:
        return table[-1] + 1
    while stop > heading + 1 and not lines[stop - 1].strip():
        stop -= 1
    lines[stop:stop] = ["", *HEAD]
    return stop + 3
