from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detengine.config.load import load_config
from detengine.data.build import build_datasets, load_truth
from detengine.data.part import images_of_part

NAMES = [f"{number}.jpg" for number in range(100)]
names = st.lists(st.text("abc", min_size=1, max_size=8), unique=True, min_size=2, max_size=60)


@given(names)
def test_parts_that_touch_have_nothing_in_common_and_are_everything(file_names: list[str]) -> None:
    inside, outside = (images_of_part(file_names, part) for part in ((0.0, 0.2), (0.2, 1.0)))
    assert sorted(inside + outside) == list(range(len(file_names)))
    assert inside
    assert outside


@given(names)
def test_a_part_is_of_names_and_not_of_their_order(file_names: list[str]) -> None:
    forwards = {file_names[index] for index in images_of_part(file_names, (0.0, 0.3))}
    behind = file_names[::-1]
    assert {behind[index] for index in images_of_part(behind, (0.0, 0.3))} == forwards


@given(names, st.text("xyz", min_size=1, max_size=8))
def test_an_image_more_moves_at_most_one_other(file_names: list[str], new: str) -> None:
    before = {file_names[index] for index in images_of_part(file_names, (0.0, 0.2))}
    larger = [*file_names, new]
    after = {larger[index] for index in images_of_part(larger, (0.0, 0.2))}
    assert len((before ^ after) - {new}) <= 1


def test_a_fifth_of_a_hundred_images_is_twenty() -> None:
    assert len(images_of_part(NAMES, (0.0, 0.2))) == 20
    assert len(images_of_part(NAMES, (0.07, 0.14))) == 7


def test_varied_copies_of_a_picture_are_in_one_part() -> None:
    copies = [f"{n}_jpg.rf.{n * 7 + copy:032x}.jpg" for n in range(20) for copy in range(3)]
    inside = images_of_part(copies, (0.0, 0.5))
    assert sorted({index // 3 for index in inside}) == [index // 3 for index in inside[::3]]
    assert len(inside) == 30


def with_part(tiny_config: Path, part: str) -> list[str]:
    return ["DATASETS.DEFINE.shapes_train.PART", part]


def test_a_part_of_a_data_set_is_read_with_its_own_annotations(tiny_config: Path) -> None:
    whole = load_truth(load_config(tiny_config), "shapes_train", for_scoring=False)[0]
    found = {}
    for part in ("[0.0, 0.2]", "[0.2, 1.0]"):
        cfg = load_config(tiny_config, with_part(tiny_config, part))
        [dataset] = build_datasets(cfg, ["shapes_train"])
        truth = dataset.ground_truth()
        assert truth.categories == whole.categories
        for index in range(len(truth)):
            ids = truth.annotation_ids[truth.annotations_of(index)].tolist()
            found[truth.file_name(index)] = ids
    assert found == {
        whole.file_name(index): whole.annotation_ids[whole.annotations_of(index)].tolist()
        for index in range(len(whole))
    }


def test_a_part_in_which_no_image_is_says_so(tiny_config: Path) -> None:
    cfg = load_config(tiny_config, with_part(tiny_config, "[0.0, 0.0001]"))
    assert len(load_truth(cfg, "shapes_train", for_scoring=False)[0]) == 1
    cfg = load_config(tiny_config, with_part(tiny_config, "[0.01, 0.02]"))
    with pytest.raises(
        ValueError, match=r"'shapes_train' is the part \[0\.01, 0\.02\] of 7 images"
    ):
        load_truth(cfg, "shapes_train", for_scoring=False)


def test_a_part_that_ends_before_it_begins_is_refused(tiny_config: Path) -> None:
    with pytest.raises(ValueError, match=r"DEFINE\.shapes_train\.PART is \[0\.5, 0\.2\]; expected"):
        load_config(tiny_config, with_part(tiny_config, "[0.5, 0.2]"))
