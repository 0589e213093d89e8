"""The recipes in configs/: each keeps to the form of its header, and starts as the header says."""

import re
from pathlib import Path
from statistics import mean

import pytest

from detengine.config.load import load_config
from detengine.config.schema import Config
from detengine.data.build import make_data_loader
from detengine.modeling.build import build_detection_model
from detengine.parts import with_num_classes
from detengine.run import train

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "configs").glob("*.yaml"))
HEADER = re.compile(
    r"# [A-Z][^\n]{20,}\.\n"
    r"# Command:  detengine train -c (?P<file>\S+)\n"
    r"(?P<results>(?:# Result:   [^\n]+\n)+)"
    r"# Time:     about (?P<minutes>\d+) min "
    r"\((?P<iterations>\d+) iterations at (?P<step>\d\.\d\d) s"
    r"(?:, with other work on the machine)?\)\n"
    r"# Hardware: \d+ CPU cores, torch \d+\.\d+\n"
    r"(?:#\n(?:# [^\n]+\n)+)?"
    r"(?P<modern>CONVENTIONS: modern\n)?"
    r"OUTPUT_DIR: \S+\n"
)
RESULT = re.compile(
    r"# Result:   (?P<dataset>\w+) (?P<task>bbox|segm|keypoints) AP (?P<ap>[01]\.\d{3}), "
    r"AP50 (?P<ap50>[01]\.\d{3}) \(seed (?P<seed>\d+)\)"
)
TINY = {
    "MODEL.DEVICE": "cpu",
    "DATALOADER.NUM_WORKERS": "0",
    "INPUT.MIN_SIZE_TRAIN": "(128,)",
    "INPUT.MIN_SIZE_TEST": "128",
    "SOLVER.IMS_PER_BATCH": "1",
    "SOLVER.MAX_ITER": "1",
    "TEST.IMS_PER_BATCH": "1",
}

each_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)


@pytest.fixture
def at_the_project_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the recipes' relative paths start."""
    if not (ROOT / "../shared/data").is_dir():
        pytest.skip("needs the data sets in ../shared/data")
    monkeypatch.chdir(ROOT)


def header_of(recipe: Path) -> re.Match[str]:
    header = HEADER.match(recipe.read_text())
    assert header is not None, f"{recipe.name}: its header has not the form of the others"
    return header


def mean_over_seeds(results: list[re.Match[str]]) -> set[tuple[str, str, float]]:
    """Of each task its AP, with three digits; no seed counts twice."""
    ap_of_seed: dict[str, dict[str, float]] = {}
    for result in results:
        aps = ap_of_seed.setdefault(result["task"], {})
        assert result["seed"] not in aps, result[0]
        aps[result["seed"]] = float(result["ap"])
    return {(task, "AP", round(mean(aps.values()), 3)) for task, aps in ap_of_seed.items()}


def load_recipe(recipe: Path, overrides: list[str] | None = None) -> Config:
    """The recipe's configuration; skips the test where it needs timm, and that is missing."""
    cfg = load_config(recipe, overrides or [])
    if cfg.MODEL.BACKBONE.CONV_BODY.startswith("timm:"):
        pytest.importorskip("timm", reason=f"{recipe.name} takes a backbone of timm")
    return cfg


def family_of(cfg: Config) -> str:
    model = cfg.MODEL
    if model.RETINANET_ON:
        return "RetinaNet"
    heads = {"Mask": model.MASK_ON, "Keypoint": model.KEYPOINT_ON}
    return " and ".join(name for name, is_on in heads.items() if is_on) or "Faster"


def test_the_recipes_are_of_all_detectors_and_conventions_and_several_bodies() -> None:
    configs = [load_config(recipe) for recipe in RECIPES]
    bodies = {re.sub(r"-\d+-|:.*", "-", cfg.MODEL.BACKBONE.CONV_BODY) for cfg in configs}
    assert {family_of(cfg) for cfg in configs} == {"Faster", "Mask", "Keypoint", "RetinaNet"}
    assert bodies == {"R-C4", "R-FPN", "R-FPN-RETINANET", "FBNet", "timm-"}
    assert {cfg.CONVENTIONS for cfg in configs} == {"modern", "maskrcnn_benchmark"}


@each_recipe
def test_the_header_names_the_file_and_what_was_measured_with_it(recipe: Path) -> None:
    header, cfg = header_of(recipe), load_config(recipe)
    assert ROOT / header["file"] == recipe
    assert int(header["iterations"]) == cfg.SOLVER.MAX_ITER
    seconds = cfg.SOLVER.MAX_ITER * float(header["step"])
    assert 0 <= int(header["minutes"]) * 60 - seconds <= 90  # loading and scoring come on top
    lines = header["results"].splitlines()
    results = [result for line in lines if (result := RESULT.fullmatch(line))]
    assert len(results) == len(lines)
    assert {result["dataset"] for result in results} == set(cfg.DATASETS.TEST)
    assert cfg.SEED in {int(result["seed"]) for result in results}
    expected = {(task, metric, value) for task, metric, (value, _) in cfg.TEST.EXPECTED_RESULTS}
    assert expected == mean_over_seeds(results)


@each_recipe
def test_it_names_its_conventions_unless_they_are_the_predecessors(recipe: Path) -> None:
    is_of_predecessor = recipe.stem.endswith("_maskrcnn_benchmark")
    assert (header_of(recipe)["modern"] is None) == is_of_predecessor
    conventions = "maskrcnn_benchmark" if is_of_predecessor else "modern"
    assert conventions == load_config(recipe).CONVENTIONS


@each_recipe
def test_it_is_built_and_writes_to_a_folder_of_its_own_name(recipe: Path) -> None:
    cfg = load_recipe(recipe)
    assert Path(cfg.OUTPUT_DIR) == Path("runs", recipe.stem)
    build_detection_model(with_num_classes(cfg, ["one", "two", "three"]))


@each_recipe
@pytest.mark.usefixtures("at_the_project_root")
def test_its_data_are_found_and_an_iteration_is_trained(recipe: Path, tmp_path: Path) -> None:
    tiny = TINY | {"OUTPUT_DIR": str(tmp_path)}
    cfg = load_recipe(recipe, [text for pair in tiny.items() for text in pair])
    for loader in make_data_loader(cfg, is_train=False):
        batch = next(iter(loader))
        assert [min(image.shape[1:]) for image in batch.images] == [cfg.INPUT.MIN_SIZE_TEST]
    assert train(cfg, skip_test=True).finished
