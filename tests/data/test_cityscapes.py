import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import hotcoco.mask
import numpy as np
import pycocotools.mask
import pytest
from PIL import Image

from detengine.config.load import load_config
from detengine.data.build import build_datasets
from detengine.data.cityscapes import load_cityscapes
from detengine.structures.ground_truth import VOID, GroundTruth

HEIGHT, WIDTH = 20, 30
SQUARE = [[2, 3], [9, 3], [9, 8], [2, 8]]
MakeTree = Callable[..., Path]


@pytest.fixture
def make_tree(tmp_path: Path) -> MakeTree:
    """Writes leftImg8bit/val and gtFine/val. images: "city/stem" to its polygons and its pixels."""

    def make(images: dict[str, tuple[list[dict[str, Any]], Any]]) -> Path:
        for name, (polygons, pixels) in images.items():
            for folder in ("leftImg8bit", "gtFine"):
                (tmp_path / folder / "val" / name).parent.mkdir(parents=True, exist_ok=True)
            picture = tmp_path / f"leftImg8bit/val/{name}_leftImg8bit.png"
            Image.new("RGB", (WIDTH, HEIGHT)).save(picture)
            page = {"imgHeight": HEIGHT, "imgWidth": WIDTH, "objects": polygons}
            (tmp_path / f"gtFine/val/{name}_gtFine_polygons.json").write_text(json.dumps(page))
            ids = Image.fromarray(np.asarray(pixels, dtype=np.uint16))
            ids.save(tmp_path / f"gtFine/val/{name}_gtFine_instanceIds.png")
        return tmp_path

    return make


def load(root: Path, mode: Literal["poly", "mask"], mini: int | None = None) -> GroundTruth:
    folders = root / "leftImg8bit", root / "gtFine"
    return load_cityscapes(*folders, "val", "streets", mode=mode, mini=mini)


def nothing() -> Any:
    return np.full((HEIGHT, WIDTH), 7)


def test_polygons_become_boxes_from_the_first_to_the_last_pixel(make_tree: MakeTree) -> None:
    objects = [
        {"label": "road", "polygon": SQUARE},
        {"label": "bicycle", "polygon": SQUARE},
        {"label": "cargroup", "polygon": SQUARE},
        {"label": "person", "polygon": [[0, 0], [29, 0], [29, 19]]},
    ]
    truth = load(make_tree({"b/b_1": (objects, nothing()), "a/a_1": ([], nothing())}), "poly")
    assert truth.categories.names == (
        *("person", "rider", "car", "truck", "bus", "caravan", "trailer", "train"),
        *("motorcycle", "bicycle"),
    )
    assert [truth.file_name(i) for i in range(2)] == [
        "a/a_1_leftImg8bit.png",
        "b/b_1_leftImg8bit.png",
    ]
    assert truth.image_sizes.tolist() == [[HEIGHT, WIDTH]] * 2
    assert truth.offsets.tolist() == [0, 0, 2]
    assert truth.category_ids.tolist() == [10, 1]
    assert truth.boxes_xywh.tolist() == [[2, 3, 8, 6], [0, 0, 30, 20]]
    assert not truth.is_crowd.any()
    assert truth.masks is not None
    runs = pycocotools.mask.merge(
        pycocotools.mask.frPyObjects([[2, 3, 9, 3, 9, 8, 2, 8]], HEIGHT, WIDTH)
    )
    assert truth.masks[0] == runs["counts"]
    assert truth.areas[0] == pycocotools.mask.area(runs)


def test_masks_are_pycocotools_to_the_byte(make_tree: MakeTree) -> None:
    pixels = np.random.default_rng(0).choice(
        [7, 26, 24000, 26000, 26001, 33002], size=(HEIGHT, WIDTH)
    )
    pixels[-1, -1] = 33002  # a run that reaches the end, and below one that starts at the start
    pixels[0, 0] = 24000
    truth = load(make_tree({"a/a_1": ([], pixels)}), "mask")
    assert truth.category_ids.tolist() == [1, 3, 3, 10]
    assert truth.masks is not None
    for index, instance_id in enumerate([24000, 26000, 26001, 33002]):
        mask = pixels == instance_id
        expected = pycocotools.mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert truth.masks[index] == expected["counts"]
        assert truth.areas[index] == mask.sum()
        y, x = mask.nonzero()
        assert truth.boxes_xywh[index].tolist() == [
            *(x.min(), y.min()),
            *(x.max() - x.min() + 1, y.max() - y.min() + 1),
        ]


def regions_of(truth: GroundTruth, index: int) -> dict[int, Any]:
    """The pixels of each ignored region, by category id."""
    assert truth.ignored_regions is not None
    return {
        category_id: hotcoco.mask.decode({"size": [HEIGHT, WIDTH], "counts": rle}).astype(bool)
        for category_id, rle in truth.ignored_regions.of_image(index)
    }


def test_void_and_groups_are_ignored_regions_and_a_caravan_is_none(make_tree: MakeTree) -> None:
    ids = [0, 4, 7, 9, 17, 18, 24, 26, 29, 30, 33, 26000, 29000, 33001]
    pixels = np.random.default_rng(0).choice(ids, size=(HEIGHT, WIDTH))
    pixels[0, 0], pixels[-1, -1] = 0, 26  # runs that begin and end with the image
    root = make_tree({"a/a_1": ([], nothing()), "a/a_2": ([], pixels)})
    truth = load(root, "mask")
    assert regions_of(truth, 0) == {}
    regions = regions_of(truth, 1)
    assert sorted(regions) == [VOID, 1, 3, 10]
    np.testing.assert_array_equal(regions[VOID], np.isin(pixels, [0, 4, 9, 18, 29, 30]))
    for category_id, label in ((1, 24), (3, 26), (10, 33)):
        np.testing.assert_array_equal(regions[category_id], pixels == label)
    assert len(truth.annotation_ids) == 3


def test_polygons_are_painted_one_over_the_other(make_tree: MakeTree) -> None:
    everywhere = [[0, 0], [WIDTH, 0], [WIDTH, HEIGHT], [0, HEIGHT]]
    left = [[0, 0], [9, 0], [9, HEIGHT], [0, HEIGHT]]
    objects = [
        {"label": "out of roi", "polygon": everywhere},
        {"label": "cargroup", "polygon": left},
        {"label": "road", "polygon": [[0, 0], [4, 0], [4, 4], [0, 4]]},
        {"label": "license plate", "polygon": [[5, 0], [9, 0], [9, 4], [5, 4]]},
        {"label": "car", "polygon": [[20, 0], [29, 0], [29, 4], [20, 4]]},
        {"label": "sky", "polygon": everywhere, "deleted": 1},
        {"label": "caravangroup", "polygon": [[0, 15], [4, 15], [4, 19], [0, 19]]},
    ]
    truth = load(make_tree({"a/a_1": (objects, nothing()), "a/a_2": ([], nothing())}), "poly")
    group, void = np.zeros((2, HEIGHT, WIDTH), bool)
    group[:, :10], void[:, 10:] = True, True
    group[:5, :5] = void[:5, 20:] = group[15:, :5] = False
    void[15:, :5] = True
    regions = regions_of(truth, 0)
    assert sorted(regions) == [VOID, 3]
    np.testing.assert_array_equal(regions[3], group)
    np.testing.assert_array_equal(regions[VOID], void)
    assert regions_of(truth, 1)[VOID].all()


def test_an_image_without_objects_is_an_image(make_tree: MakeTree) -> None:
    root = make_tree({"a/a_1": ([], nothing())})
    assert len(load(root, "mask")) == len(load(root, "poly")) == 1


@pytest.mark.parametrize(("mini", "kept"), [(None, 7), (10, 7), (3, 3), (1, 1)])
def test_mini_keeps_images_at_the_predecessors_stride(
    make_tree: MakeTree, mini: int | None, kept: int
) -> None:
    truth = load(make_tree({f"a/a_{i}": ([], nothing()) for i in range(7)}), "poly", mini)
    stride = 1 if mini is None else 7 // mini + 1
    assert [truth.file_name(i) for i in range(len(truth))] == [
        f"a/a_{i}_leftImg8bit.png" for i in range(0, 7, stride)
    ]
    assert len(truth) == kept


def test_two_points_have_a_box_and_no_mask(make_tree: MakeTree) -> None:
    objects = [{"label": "car", "polygon": line} for line in ([[2, 3], [5, 3]], SQUARE)]
    truth = load(make_tree({"a/a_1": (objects, nothing())}), "poly")
    assert truth.masks is not None
    assert truth.masks[0] == b""
    assert truth.boxes_xywh[0].tolist() == [2, 3, 4, 1]


def test_a_missing_folder_and_a_missing_annotation_are_named(make_tree: MakeTree) -> None:
    root = make_tree({"a/a_1": ([], nothing()), "a/a_2": ([], nothing())})
    with pytest.raises(FileNotFoundError, match=r"'streets' has no images in .*there is no such"):
        load_cityscapes(root / "no", root / "gtFine", "val", "streets", mode="poly")
    (root / "gtFine/val/a/a_2_gtFine_polygons.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 2 images .*/a/a_2_gtFine_polygons\.json\."):
        load(root, "poly")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "JSONDecodeError"),
        ("{}", "KeyError: 'objects'"),
        ('{"objects": [{"polygon": []}]}', "KeyError: 'label'"),
        ('{"objects": [{"label": "car", "polygon": []}]}', r"the polygon of a car is \[\]"),
        ('{"objects": [{"label": "car", "polygon": [[1, 2, 3]]}]}', r"a car is \[\[1, 2, 3\]\]"),
    ],
)
def test_a_damaged_annotation_is_named(make_tree: MakeTree, text: str, reason: str) -> None:
    root = make_tree({"a/a_1": ([], nothing())})
    (root / "gtFine/val/a/a_1_gtFine_polygons.json").write_text(text)
    with pytest.raises(ValueError, match=rf"a_1_gtFine_polygons\.json is no Cityscapes .*{reason}"):
        load(root, "poly")


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.full((HEIGHT, WIDTH), 23000), "has the object 23000, of the label 23; labels with"),
        (np.full((HEIGHT, 7), 24000), r"is of \[20, 7\] pixels .*of \[20, 30\]"),
    ],
)
def test_a_foreign_mask_is_refused(make_tree: MakeTree, pixels: Any, reason: str) -> None:
    root = make_tree({"a/a_1": ([], pixels)})
    with pytest.raises(ValueError, match=rf"a_1_gtFine_instanceIds\.png {reason}"):
        load(root, "mask")


@pytest.mark.parametrize("length", [0, 60])
def test_a_truncated_mask_is_named(make_tree: MakeTree, length: int) -> None:
    root = make_tree({"a/a_1": ([], nothing())})
    path = root / "gtFine/val/a/a_1_gtFine_instanceIds.png"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"a_1_gtFine_instanceIds\.png cannot be read as an image"):
        load(root, "mask")


@pytest.mark.parametrize("name", ["cityscapes_poly_instance_val", "cityscapes_mask_instance_val"])
def test_the_catalogs_names_are_found_below_the_root(make_tree: MakeTree, name: str) -> None:
    pixels = nothing()
    pixels[3:9, 2:10] = 26000
    root = make_tree({"a/a_1": ([{"label": "car", "polygon": SQUARE}], pixels)})
    home = root.parent / f"{root.name}-home"
    home.mkdir()
    root.rename(home / "cityscapes")
    cfg = load_config(
        None,
        ["DATASETS.ROOT", home, "DATASETS.TEST", [name], "MODEL.ROI_BOX_HEAD.NUM_CLASSES", 11],
    )
    (dataset,) = build_datasets(cfg, [name])
    assert dataset.ground_truth().ignored_regions is None  # which only scoring asks for
    (scored,) = build_datasets(cfg, [name], for_scoring=True)
    assert scored.ground_truth().ignored_regions is not None
    sample = dataset[0]
    assert list(sample.image.shape) == [3, HEIGHT, WIDTH]
    assert sample.target["labels"].tolist() == [3]
