import pytest
from hypothesis import given
from hypothesis import strategies as st

from detengine.structures.categories import (
    Categories,
    merge_class_names,
    raise_if_classes_unknown,
)

PETS = Categories(("cat", "dog", "bird"), (18, 1, 44))


def test_labels_and_ids_are_translated_by_name() -> None:
    assert PETS.labels_of_ids(("bird", "cat")) == {44: 1, 18: 2}
    assert PETS.ids_of_labels(("bird", "fish", "cat")) == [44, None, 18]
    assert len(PETS) == 3


@given(st.permutations(range(3)))
def test_a_class_keeps_its_label_whatever_its_place_in_the_file(order: list[int]) -> None:
    names, ids = (tuple(column[i] for i in order) for column in (PETS.names, PETS.ids))
    shuffled = Categories(names, ids)  # type: ignore[arg-type]
    assert shuffled.labels_of_ids(PETS.names) == PETS.labels_of_ids(PETS.names)


def test_ids_to_labels_and_back_is_the_identity() -> None:
    ids = PETS.ids_of_labels(PETS.names)
    assert all(ids[label - 1] == each for each, label in PETS.labels_of_ids(PETS.names).items())


@pytest.mark.parametrize(
    ("names", "ids", "message"),
    [
        (("a", "a"), (1, 2), "class name 'a' stands twice"),
        (("a", "b"), (7, 7), "category id '7' stands twice"),
        (("a",), (1, 2), "1 class names for 2 category ids"),
    ],
)
def test_names_and_ids_must_be_unique(
    names: tuple[str, ...], ids: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Categories(names, ids)


def test_merged_classes_stand_in_the_order_of_their_first_appearance() -> None:
    assert merge_class_names([PETS, Categories(("fish", "cat"), (1, 2))]) == (
        "cat", "dog", "bird", "fish",
    )  # fmt: skip
    assert merge_class_names([]) == ()


def test_a_class_that_the_model_does_not_know_is_refused_with_both_sides() -> None:
    with pytest.raises(ValueError, match="pets has 2 of 3 classes") as raised:
        raise_if_classes_unknown(("cat", "fish"), PETS, "pets")
    lines = str(raised.value).splitlines()
    assert [line.split() for line in lines[1:-1]] == [
        ["label", "model", "pets"],
        ["1", "cat", "cat"],
        ["2", "fish", "-"],
        ["-", "-", "dog"],
        ["-", "-", "bird"],
    ]
    assert "DATASETS.CLASSES" in lines[-1]


def test_a_model_may_know_more_classes_than_the_data_set() -> None:
    raise_if_classes_unknown(("fish", "bird", "dog", "cat"), PETS, "pets")


def test_a_model_without_classes_is_refused_too() -> None:
    with pytest.raises(ValueError, match="3 of 3 classes"):
        raise_if_classes_unknown((), PETS, "pets")


@pytest.mark.parametrize("name", ["", " ", "a\nb", "a\tb", "a\x1b[31m", "a\x85", "a\u2028b"])
def test_a_name_that_is_blank_or_breaks_a_line_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"the class name .* (is blank|has a line break)"):
        Categories((name, "b"), (1, 2))


@pytest.mark.parametrize("name", ["a b", "\u05d0\u05d1", "\U0001f469\u200d\U0001f680", "e\u0301"])
def test_names_of_any_script_are_names(name: str) -> None:
    assert Categories((name,), (1,)).names == (name,)
