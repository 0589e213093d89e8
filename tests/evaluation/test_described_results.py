"""Results that say what they are about: written as they come, and scored by name."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from detengine.evaluation.coco_results import CocoResults
from detengine.evaluation.described_results import DescribedResultsWriter, is_described
from detengine.structures.categories import Categories
from detengine.structures.ground_truth import GroundTruth, PackedBytes
from full_disk import largest_file

ENTRY: dict[str, Any] = {"category_id": 2, "bbox": [1.0, 2.0, 3.0, 4.0], "score": 0.5}


def make_truth(file_names: list[str], names: tuple[str, ...] = ("dog", "cat")) -> GroundTruth:
    """Images 100, 101, ... and categories 7, 8, ..., without an object."""
    count = len(file_names)
    return GroundTruth(
        categories=Categories(names, tuple(range(7, 7 + len(names)))),
        image_ids=torch.arange(count) + 100,
        image_sizes=torch.tensor([[20, 40]]).repeat(count, 1),
        file_names=PackedBytes.from_list([name.encode() for name in file_names]),
        offsets=torch.zeros(count + 1, dtype=torch.int64),
        annotation_ids=torch.empty(0, dtype=torch.int64),
        category_ids=torch.empty(0, dtype=torch.int64),
        boxes_xywh=torch.empty(0, 4).double(),
        areas=torch.empty(0).double(),
        is_crowd=torch.empty(0, dtype=torch.bool),
        is_difficult=torch.empty(0, dtype=torch.bool),
    )


def write(path: Path, images: dict[str, list[dict[str, Any]]]) -> Path:
    with DescribedResultsWriter(path, ["cat", "dog"]) as writer:
        for name, entries in images.items():
            own = [{"image_id": writer.next_image_id(), **entry} for entry in entries]
            writer.add(name, (20, 40), own, ["dog"] * len(own))
    return path


def read_entries(path: Path, truth: GroundTruth) -> list[tuple[int, int]]:
    """(image_id, category_id) of each."""
    results = CocoResults(path, truth)
    results.raise_if_foreign(truth)
    return [(each["image_id"], each["category_id"]) for each in results._entries]


def test_a_file_has_results_images_and_categories(tmp_path: Path) -> None:
    path = write(tmp_path / "p.json", {"a.jpg": [ENTRY, ENTRY], "b.jpg": [], "c.jpg": [ENTRY]})
    content = json.loads(path.read_text())
    assert is_described(content)
    assert [each["image_id"] for each in content["annotations"]] == [1, 1, 3]
    assert content["images"][1] == {"id": 2, "file_name": "b.jpg", "width": 40, "height": 20}
    assert content["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]


@pytest.mark.parametrize("images", [{}, {"a.jpg": []}])
def test_without_detections_it_is_whole(
    tmp_path: Path, images: dict[str, list[dict[str, Any]]]
) -> None:
    content = json.loads(write(tmp_path / "p.json", images).read_text())
    assert content["annotations"] == []
    assert len(content["images"]) == len(images)


def test_classes_without_names_are_named_as_their_entries(tmp_path: Path) -> None:
    with DescribedResultsWriter(tmp_path / "p.json", []) as writer:
        writer.add("a.jpg", (20, 40), [{"image_id": 1, **ENTRY}], ["2"])
    categories = json.loads((tmp_path / "p.json").read_text())["categories"]
    assert categories == [{"id": 2, "name": "2"}]


def test_what_was_written_until_an_interruption_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text("of before")

    def write_until_stopped() -> None:
        with DescribedResultsWriter(path, ["cat", "dog"]) as writer:
            writer.add("a.jpg", (20, 40), [{"image_id": 1, **ENTRY}], ["dog"])
            assert path.read_text() == "of before"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_until_stopped()
    assert len(json.loads(path.read_text())["annotations"]) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_to_its_end_leaves_nothing(
    tmp_path: Path,
) -> None:
    def write_beyond_the_limit() -> None:
        path = tmp_path / "predictions.json"
        with largest_file(20), DescribedResultsWriter(path, ["dog"]) as writer:
            writer.add("a.jpg", (2, 3), [], [])

    with pytest.raises(OSError, match="too large"):
        write_beyond_the_limit()
    assert list(tmp_path.iterdir()) == []


def test_it_is_scored_by_the_names_of_images_and_classes(tmp_path: Path) -> None:
    path = write(tmp_path / "p.json", {"b.jpg": [ENTRY], "sub/a.jpg": [ENTRY]})
    truth = make_truth(["a.jpg", "x/b.jpg", "c.jpg"])
    assert read_entries(path, truth) == [(101, 7), (100, 7)]


def test_the_whole_name_comes_before_its_last_part(tmp_path: Path) -> None:
    path = write(tmp_path / "p.json", {"1/a.jpg": [ENTRY], "2/a.jpg": [ENTRY]})
    assert read_entries(path, make_truth(["2/a.jpg", "1/a.jpg"])) == [(101, 7), (100, 7)]
    with pytest.raises(ValueError, match=r"several of them have the same name"):
        read_entries(path, make_truth(["a.jpg", "b.jpg"]))


def test_images_and_classes_that_the_truth_has_not_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "p.json", {"b.jpg": [ENTRY]})
    with pytest.raises(ValueError, match=r"1 of 1 images are none of .*2, by their names: b\.jpg"):
        read_entries(path, make_truth(["a.jpg", "c.jpg"]))
    with pytest.raises(ValueError, match=r"detections of dog, but the .* classes are cat, cow"):
        read_entries(path, make_truth(["b.jpg"], ("cat", "cow")))


def test_an_annotation_file_is_still_taken_for_one(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    content = {"annotations": [{"image_id": 1}], "images": [], "categories": []}
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="Is it an annotation file"):
        CocoResults(path, make_truth(["a.jpg"]))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content["annotations"][0].update(image_id=9),
        lambda content: content["annotations"][0].pop("category_id"),
        lambda content: content["images"][0].pop("id"),
        lambda content: content["categories"].append(None),
    ],
)
def test_a_file_that_refers_to_nothing_is_refused(tmp_path: Path, spoil: Any) -> None:
    path = write(tmp_path / "p.json", {"a.jpg": [ENTRY]})
    content = json.loads(path.read_text())
    spoil(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"p\.json (is not as `detengine predict`|has detections)"):
        read_entries(path, make_truth(["a.jpg"]))
