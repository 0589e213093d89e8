"""Whatever stands in a data set's files: an error that is meant for its user, or the numbers."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask as oracle

from detengine.config.load import load_config
from detengine.data.build import build_datasets, make_evaluation_loader
from detengine.data.coco import load_coco
from detengine.data.dataset import DetectionDataset
from detengine.data.salvage_coco import salvage_coco
from detengine.data.voc_pages import read_page
from detengine.structures.finding import Problem
from detengine.structures.rle import decode_counts, encode_counts
from faults.coco_oracle import assert_equal_to_pycocotools
from faults.sound_inputs import PAGE, coco_content, write_sound

pytestmark = pytest.mark.faults

Times = Callable[[int, int], int]
Record = Callable[..., None]

PROMISED = "an error of one kind for reader and doctor, or the numbers of the reference"

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-5, 60)
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([1e30, -1e30, 1e300, -0.0, 2**63 - 1, 2**63, 2**64, 10**30])
    | st.text(max_size=5)
    | st.sampled_from(["disc", "a.jpg", "0P`1", "../a.jpg", "", "\0"])
)
values = st.recursive(
    scalars,
    lambda inside: (
        st.lists(inside, max_size=8)
        | st.dictionaries(st.sampled_from(["size", "counts", "id", "x"]), inside, max_size=3)
    ),
    max_leaves=12,
)


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in a json's content."""
    keys = content if isinstance(content, dict) else range(len(content))
    found = []
    for key in keys:
        found.append((*path, key))
        if isinstance(content[key], dict | list):
            found += places(content[key], (*path, key))
    return found


PLACES = places(coco_content())
PLACES_OF_NUMBERS = [
    path
    for path in PLACES
    if path[0] == "annotations" and {"bbox", "segmentation", "area", "iscrowd"} & {*path[2:]}
]
numbers = st.integers(0, 30) | st.floats(0, 40) | st.sampled_from([0, 1, -0.0, 1e-9, 1e5, 1e9])


def put(content: Any, path: tuple[Any, ...], value: object) -> None:
    """Sets the value at a path; nothing, if another value has taken its place before."""
    for key in path[:-1]:
        try:
            content = content[key]
        except (LookupError, TypeError):
            return
    if isinstance(content, dict) or (isinstance(content, list) and path[-1] in range(len(content))):
        content[path[-1]] = value


def of_many(examples: int) -> Any:
    return settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))


def test_any_value_anywhere_in_a_coco_file(
    tmp_path: Path, times: Times, record_fault: Record
) -> None:
    folder, seen = tmp_path / "set", [0, 0]
    untold: list[Any] = []  # what the reader refuses, and the doctor does not
    write_sound("coco", folder)
    file = folder / "a.json"

    @of_many(times(40, 1000))
    @given(
        st.lists(st.tuples(st.sampled_from(PLACES_OF_NUMBERS), numbers), min_size=1, max_size=5)
        | st.lists(st.tuples(st.sampled_from(PLACES), values), min_size=1, max_size=2)
    )
    def holds(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
        content = coco_content()
        for path, value in changes:
            put(content, path, value)
        file.write_text(json.dumps(content))
        problems: list[Problem] = []
        try:
            left = salvage_coco(file, folder / "images", "t", problems)
        except (ValueError, OSError):
            left = None
        try:
            truth = load_coco(file, folder / "images", "t")
        except FileNotFoundError:  # the doctor looks at the files one by one, afterwards
            seen[0] += 1
            return
        except (ValueError, OSError):
            seen[0] += 1
            untold.extend([] if problems or left is None else [content])
            return
        seen[1] += 1
        assert left is not None
        assert not problems
        assert left.digest() == truth.digest()
        assert_equal_to_pycocotools(truth, file)

    holds()
    assert not untold
    record_fault(
        "Data",
        "any value in any place of a COCO file",
        made="values of a sound file are replaced by drawn ones of any kind, or by numbers",
        promised=PROMISED,
        tried=f"{sum(seen)} files",
        happened=f"{seen[0]} refused, {seen[1]} read, scored and salvaged as pycocotools does",
    )


tags = st.sampled_from(
    [
        *("annotation", "object", "name", "bndbox", "xmin", "ymin", "xmax", "ymax"),
        *("size", "width", "height", "difficult", "x"),
    ]
)
texts = st.sampled_from(["disc", "1", "24", "-3", "0", "nan", "1e400", "1_0", "", " ", "x"]) | (
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=4)
)


def trees(of: Any) -> Any:
    @st.composite
    def tree(draw: Any) -> ElementTree.Element:
        element = ElementTree.Element(draw(tags))
        element.text = draw(texts)
        element.extend(draw(st.lists(of, max_size=4)))
        return element

    return tree()


def _leaf(tag: str, text: str) -> ElementTree.Element:
    element = ElementTree.Element(tag)
    element.text = text
    return element


leaves = st.builds(_leaf, tags, texts)


def test_any_tree_of_tags_is_refused_or_has_finite_boxes(
    tmp_path: Path, times: Times, record_fault: Record
) -> None:
    path, seen = tmp_path / "a.xml", [0, 0]
    said: set[str] = set()

    @of_many(times(40, 1000))
    @given(st.recursive(leaves, trees, max_leaves=20), st.booleans())
    def holds(element: ElementTree.Element, is_grafted: bool) -> None:
        root = element
        if is_grafted:  # into a sound page, where most of it is read
            root = ElementTree.fromstring(PAGE.format(name="a.jpg", width=40, height=30))
            found = next(iter(root.iter(element.tag)), None)
            (root if found is None or found is root else found).append(element)
        path.write_bytes(ElementTree.tostring(root, encoding="utf-8"))
        try:
            page = read_page(path)
        except ValueError as error:
            said.add(str(error).partition(" ")[0])
            seen[0] += 1
            return
        seen[1] += 1
        assert len(page.objects) == len(list(root.iter("object")))
        for each in page.objects:
            assert np.isfinite(each.box_xywh).all()
            assert each.name.strip() == each.name != ""

    holds()
    assert said == {str(path)}
    record_fault(
        "Data",
        "any tree of tags in a VOC file",
        made="drawn trees of VOC's tags, alone and inside of a sound page",
        promised="an error that names the file, or all of its objects with finite boxes",
        tried=f"{sum(seen)} files",
        happened=f"{seen[0]} refused, {seen[1]} read",
    )


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools'
def test_any_text_and_any_counts_are_refused_or_a_mask(times: Times, record_fault: Record) -> None:
    seen = [0, 0]

    @of_many(times(100, 3000))
    @given(st.binary(max_size=12) | st.text("0123456789:;<=>?@PQRo_n", max_size=12))
    def texts_hold(text: bytes | str) -> None:
        data = text.encode() if isinstance(text, str) else text
        try:
            runs = decode_counts(data)
        except ValueError:
            seen[0] += 1
            return
        seen[1] += 1
        assert (runs >= 0).all()
        assert decode_counts(encode_counts(runs)).tolist() == runs.tolist()
        area = int(runs.sum())
        if 0 < area < 10_000 and runs.max(initial=0) < 1 << 31:
            rle = {"size": [area, 1], "counts": encode_counts(runs)}
            assert oracle.area(rle) == runs[1::2].sum()
            inside = np.repeat(np.arange(len(runs)) % 2, runs)
            assert oracle.decode([rle])[:, 0, 0].tolist() == inside.tolist()

    texts_hold()
    record_fault(
        "Data",
        "any text as a mask",
        made="drawn bytes, and drawn characters of COCO's alphabet",
        promised="an error, or the mask that pycocotools makes of it",
        tried=f"{sum(seen)} texts",
        happened=f"{seen[0]} refused, {seen[1]} decoded, each as pycocotools does",
    )


@pytest.fixture(scope="module")
def sound_set(tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    folder = tmp_path_factory.mktemp("sound") / "coco"
    write_sound("coco", folder)
    truth = load_coco(folder / "a.json", folder / "images", "t")
    return DetectionDataset("t", truth, folder / "images", truth.categories.names)


def test_whatever_the_boxes_targets_lie_in_their_images_and_have_an_area(
    sound_set: DetectionDataset, times: Times, record_fault: Record
) -> None:
    seen = [0, 0]
    numbers = st.floats(-1e6, 1e6) | st.floats(-60, 60) | st.integers(-60, 60).map(float)

    @of_many(times(30, 500))
    @given(st.lists(st.tuples(*[numbers] * 4), min_size=4, max_size=4), st.booleans())
    def holds(boxes: list[tuple[float, ...]], inclusive: bool) -> None:
        truth = replace(sound_set.ground_truth(), boxes_xywh=torch.tensor(boxes).double())
        dataset = DetectionDataset(
            "t", truth, sound_set.image_folder, sound_set.class_names, inclusive_pixels=inclusive
        )
        _, labels = dataset.labels_trained_on()
        seen[0] += int((~truth.is_crowd).sum()) - len(labels)
        seen[1] += len(labels)
        for index in range(2):
            target = dataset[index].target
            height, width = target["image_size"].tolist()
            x1, y1, x2, y2 = target["boxes"].unbind(1)
            assert ((x1 >= 0) & (y1 >= 0) & (x1 < x2) & (y1 < y2)).all()
            assert ((x2 <= width - inclusive) & (y2 <= height - inclusive)).all()

    holds()
    record_fault(
        "Data",
        "any four numbers as a box",
        made="drawn boxes, far outside, inside out and without an extent, in either arithmetic",
        promised="what is trained on lies in its image and has an area",
        tried=f"{sum(seen)} boxes",
        happened=f"{seen[0]} left out, {seen[1]} clipped to their images",
    )


def test_scored_images_come_once_over_all_ranks_whatever_is_done_already(
    tmp_path: Path, times: Times, record_fault: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, tried = tmp_path / "coco", [0]
    write_sound("coco", folder)
    monkeypatch.chdir(folder)
    content = coco_content()
    content["images"] = [{**content["images"][0], "id": number} for number in range(1, 24)]
    content["annotations"] = []
    (folder / "a.json").write_text(json.dumps(content))
    cfg = load_config(Path("run.yaml"), ["MODEL.MASK_ON", "False"])
    [dataset] = build_datasets(cfg, ["t"], for_scoring=True)

    @of_many(times(20, 200))
    @given(st.integers(1, 9), st.sets(st.integers(1, 23)))
    def holds(ranks: int, done: set[int]) -> None:
        parts = [
            make_evaluation_loader(cfg, dataset, rank=rank, world_size=ranks, without=done)
            for rank in range(ranks)
        ]
        images = [
            int(dataset.ground_truth().image_ids[index])
            for part in parts
            for batch in part.batch_sampler
            for index in batch
        ]
        assert sorted(images) == sorted(set(range(1, 24)) - done)
        tried[0] += 1

    holds()
    record_fault(
        "Data",
        "any number of ranks, any images done before",
        made="1 to 9 ranks score 23 images, of which some have predictions already",
        promised="each of the others comes once, on one rank",
        tried=f"{tried[0]} ways",
        happened="each image once",
    )
