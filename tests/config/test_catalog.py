import json
from pathlib import Path
from typing import Any

import pytest

from detengine.config.catalog import CATALOG, VOC_CLASSES, find_definition
from detengine.config.load import load_config
from detengine.config.schema import CityscapesDefinition, CocoDefinition, Datasets, VocDefinition

CATALOGS = Path(__file__).parents[2] / "../shared/golden/small/catalogs.json"
RECORDED = json.loads(CATALOGS.read_text())["datasets"] if CATALOGS.exists() else {}


def as_recorded(name: str) -> dict[str, Any]:
    """The definition in the words of the predecessor's catalog."""
    definition = CATALOG[name]
    if isinstance(definition, CocoDefinition):
        return {"img_dir": definition.IMAGES, "ann_file": definition.ANNOTATIONS}
    if isinstance(definition, VocDefinition):
        return {"data_dir": definition.ROOT, "split": definition.SPLIT}
    mini = {} if definition.MINI is None else {"mini": definition.MINI}
    folders = {"img_dir": definition.IMAGES, "ann_dir": definition.ANNOTATIONS}
    return folders | {"split": definition.SPLIT, "mode": definition.MODE} | mini


@pytest.mark.skipif(not RECORDED, reason="../shared is absent")
def test_the_names_are_those_of_the_predecessor() -> None:
    assert set(CATALOG) == set(RECORDED)


@pytest.mark.skipif(not RECORDED, reason="../shared is absent")
@pytest.mark.parametrize("name", RECORDED)
def test_each_name_means_the_predecessors_files(name: str) -> None:
    recorded = {
        key: value.rstrip("/") if isinstance(value, str) else value
        for key, value in RECORDED[name].items()
    }
    assert as_recorded(name) == recorded


def make_voc_folder(root: Path) -> Path:
    (root / "voc/VOC2007").mkdir(parents=True)
    return root


def test_relative_paths_start_at_the_root_or_at_datasets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_voc_folder(tmp_path / "data")
    definition, found = find_definition(Datasets(ROOT=str(root)), "voc_2007_test")
    assert (definition, found) == (CATALOG["voc_2007_test"], root)
    assert isinstance(definition, VocDefinition)
    assert definition.CLASSES == VOC_CLASSES
    assert len(VOC_CLASSES) == 20
    make_voc_folder(tmp_path / "datasets")
    monkeypatch.chdir(tmp_path)
    assert find_definition(Datasets(), "voc_2007_test")[1] == Path("datasets")


def test_a_definition_wins_over_the_catalog_and_starts_at_the_working_folder() -> None:
    own = CocoDefinition(FORMAT="coco", IMAGES="i", ANNOTATIONS="a.json")
    datasets = Datasets(DEFINE={"coco_2014_train": own})
    assert find_definition(datasets, "coco_2014_train") == (own, Path())


def test_what_is_not_there_is_said_with_places_and_cure(tmp_path: Path) -> None:
    (tmp_path / "coco/val2014").mkdir(parents=True)
    with pytest.raises(FileNotFoundError) as error:
        find_definition(Datasets(ROOT=str(tmp_path)), "coco_2014_minival")
    assert str(error.value) == (
        "the files of data set 'coco_2014_minival' are not there: looked for "
        f"{tmp_path}/coco/annotations/instances_minival2014.json. Set DATASETS.ROOT to the folder "
        "that holds coco/, or say where the files are under DATASETS.DEFINE.coco_2014_minival."
    )


def test_of_cityscapes_the_folders_of_the_split_are_needed(tmp_path: Path) -> None:
    for folder in ("leftImg8bit", "gtFine"):
        (tmp_path / "cityscapes" / folder / "train").mkdir(parents=True)
    datasets = Datasets(ROOT=str(tmp_path))
    definition, _ = find_definition(datasets, "cityscapes_poly_instance_train")
    assert isinstance(definition, CityscapesDefinition)
    with pytest.raises(FileNotFoundError, match=r"gtFine/val and \S*leftImg8bit/val\. Set"):
        find_definition(datasets, "cityscapes_poly_instance_minival")


def test_an_unknown_name_gets_the_nearest_known_ones() -> None:
    pairs = ["DATASETS.DEFINE.mine", {"FORMAT": "voc", "ROOT": "", "SPLIT": ""}]
    with pytest.raises(ValueError, match=r"'coco_2014_mini' .*are: mine\. .*coco_2014_minival"):
        find_definition(load_config(None, pairs).DATASETS, "coco_2014_mini")
    with pytest.raises(ValueError, match=r"'xyzzy' is not defined .* all\); defined are: none$"):
        find_definition(Datasets(), "xyzzy")
