"""The table of docs/reliability.md and the tests that write it."""

import re

from fault_record import ROOT, SECTIONS, TABLE, Row, with_rows

DOCUMENT = "# Title\n\n## Crashes\n\nWords.\n\n## Memory\n"


def row(
    section: str = "Crashes", fault: str = "kill", tried: str = "5", command: str = "`a`"
) -> Row:
    return Row(section, fault, "so", "this", tried, "that", command)


def test_a_first_row_begins_its_sections_table() -> None:
    written = with_rows(DOCUMENT, [row(), row("Memory", "no room")])
    assert written.startswith("# Title\n\n## Crashes\n\nWords.\n\n| fault |")
    assert "| kill | so | this | 5 | that | `a` |\n\n## Memory\n\n| fault |" in written
    assert written.endswith("| no room | so | this | 5 | that | `a` |\n")


def test_a_row_takes_the_place_of_the_one_with_the_same_fault_and_command() -> None:
    rows = [row(), row(fault="two ranks"), row(tried="50")]
    lines = with_rows(DOCUMENT, rows).splitlines()
    assert [line for line in lines if line.startswith("| kill")] == [row(tried="50").line()]
    assert lines.index(row(fault="two ranks").line()) == lines.index(row(tried="50").line()) + 1


def test_a_bar_in_a_cell_stays_text() -> None:
    assert row(fault="a|b\nc").line().startswith("| a\\|b c |")


def test_the_table_has_every_section_and_names_tests_that_there_are() -> None:
    text = TABLE.read_text()
    assert re.findall("^## (.*)$", text, re.MULTILINE)[: len(SECTIONS)] == list(SECTIONS)
    for path, name in re.findall(r"`pytest -m faults ([\w/.]+)::(\w+)`", text):
        assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.MULTILINE), (path, name)
