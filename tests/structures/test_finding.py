"""What is found, put into words."""

import pytest

from detengine.structures.finding import (
    Finding,
    Problem,
    counted,
    finding_of_error,
    gathered,
    listed,
    worst_first,
)


def test_the_last_sentence_of_a_message_is_its_cure() -> None:
    error = ValueError("a.json: image 3 stands twice. Was it merged from several? Number it anew.")
    found = finding_of_error(error, "pets")
    assert found == Finding(
        "error",
        "pets",
        "a.json: image 3 stands twice. Was it merged from several?",
        "Number it anew.",
    )


def test_the_line_below_a_table_is_the_cure() -> None:
    found = finding_of_error("classes differ:\n  1  cat\nRename one. Or both.", "pets")
    assert (found.what, found.cure) == ("classes differ:\n  1  cat", "Rename one. Or both.")


@pytest.mark.parametrize("message", ["there is no v1.5 of a.json", "classes differ:\n  1  Cat"])
def test_a_message_without_a_cure_stays_whole(message: str) -> None:
    assert finding_of_error(message, "pets") == Finding("error", "pets", message)


def test_problems_of_one_kind_are_one_finding_with_all_their_places() -> None:
    problems = [
        Problem(
            "annotation 3", "annotation 3 has the unknown category 9; known are [1, 2]. Add it."
        ),
        Problem("annotation 4", "the bbox of annotation 4 must be four numbers, but is 'x'."),
        Problem(
            "annotation 15", "annotation 15 has the unknown category 80; known are []. Add it."
        ),
    ]
    first, second = gathered(problems, "pets")
    assert "unknown category 9" in first.what
    assert "2 are like this: annotation 3, annotation 15." in first.what
    assert first.cure == "Add it."
    assert "bbox of annotation 4" in second.what


def test_long_lists_are_cut_and_counted() -> None:
    names = [f"{n}.jpg" for n in range(1200)]
    assert listed(names, 2) == "0.jpg, 1.jpg and 1,198 more"
    assert listed(names[:2], 2) == "0.jpg, 1.jpg"
    assert [counted(1, "box", "boxes"), counted(1200, "image")] == ["1 box", "1,200 images"]


def test_findings_are_sorted_by_severity_and_else_as_they_came() -> None:
    notes = [Finding("note", "a", ""), Finding("error", "b", ""), Finding("note", "c", "")]
    assert [each.where for each in worst_first(notes)] == ["b", "a", "c"]


def test_what_ends_without_a_full_stop_gets_one_before_the_places() -> None:
    problems = [Problem("one", "the id is 'a'"), Problem("two", "the id is 'b'")]
    [found] = gathered(problems, "pets")
    assert found.what.startswith("the id is 'a'. 2 are like this: one, two.")
