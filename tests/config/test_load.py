import ast
import hashlib
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from detengine.config.errors import ConfigError
from detengine.config.load import difference, load_config, parse_config, replace, to_yaml
from detengine.config.schema import CocoDefinition, Config

Write = Callable[[str, str], Path]

GOLDEN = Path(__file__).parents[2] / "../shared/golden"
HASHES = GOLDEN / "small/config_merged_hashes.json"
RECORDED = json.loads(HASHES.read_text()) if HASHES.exists() else {}

MASK_RCNN_1X = """
    MODEL:
      META_ARCHITECTURE: "GeneralizedRCNN"
      WEIGHT: "catalog://ImageNetPretrained/MSRA/R-50"
      BACKBONE:
        CONV_BODY: "R-50-FPN"
      ROI_HEADS:
        USE_FPN: True
      RPN:
        USE_FPN: True
        ANCHOR_STRIDE: (4, 8, 16, 32, 64)
      ROI_BOX_HEAD:
        POOLER_SCALES: (0.25, 0.125, 0.0625, 0.03125)
    DATASETS:
      TRAIN: ("coco_2014_train", "coco_2014_valminusminival")
      TEST: ("coco_2014_minival",)
    INPUT:
      PIXEL_STD: [57.375, 57.12, 58.395]
    SOLVER:
      BASE_LR: 2e-2
      STEPS: (60000, 80000)
"""


def test_a_file_of_the_predecessor_loads_unchanged(write: Write) -> None:
    cfg = load_config(write("mask_rcnn.yaml", MASK_RCNN_1X))
    assert cfg.CONVENTIONS == "maskrcnn_benchmark"
    assert cfg.MODEL.WEIGHT == "catalog://ImageNetPretrained/MSRA/R-50"
    assert cfg.MODEL.RPN.ANCHOR_STRIDE == (4, 8, 16, 32, 64)
    assert cfg.MODEL.ROI_BOX_HEAD.POOLER_SCALES == (0.25, 0.125, 0.0625, 0.03125)
    assert cfg.DATASETS.TEST == ("coco_2014_minival",)
    assert cfg.INPUT.PIXEL_STD == (57.375, 57.12, 58.395)
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.STEPS) == (0.02, (60000, 80000))
    assert cfg.SOLVER.WARMUP_ITERS == 500


@pytest.mark.skipif(not RECORDED, reason="../shared is absent")
@pytest.mark.parametrize("name", RECORDED)
def test_each_file_of_the_predecessor_resolves_to_what_it_resolved_to_there(name: str) -> None:
    expected = yaml.safe_load((GOLDEN / "small/config_defaults.yaml").read_text())
    expected["PATHS_CATALOG"] = ""
    merge_as_the_predecessor(expected, yaml.safe_load((GOLDEN / name).read_text()))
    # The recorded hash shows that `expected` is what the predecessor itself arrived at.
    dump = yaml.safe_dump(expected).encode()
    assert hashlib.sha256(dump).hexdigest() == RECORDED[name]["sha256_of_merged_dump"]
    assert_equal_where_expected(load_config(GOLDEN / name).model_dump(), expected)


def merge_as_the_predecessor(values: dict[str, Any], changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, dict):
            merge_as_the_predecessor(values[key], value)
        else:
            values[key] = literal(value)


def literal(value: Any) -> Any:
    try:
        return ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError):
        return value


def assert_equal_where_expected(values: dict[str, Any], expected: dict[str, Any]) -> None:
    for key, value in expected.items():
        if isinstance(value, dict):
            assert_equal_where_expected(values[key], value)
        else:
            assert values[key] == (tuple(value) if isinstance(value, list) else value), key


def test_later_givers_win_over_earlier_ones(write: Write) -> None:
    write("base.yaml", "SEED: 1\nSOLVER: {MAX_ITER: 1, GAMMA: 0.5, BASE_LR: 0.5}\n")
    path = write("sub/run.yaml", "_BASE_: ../base.yaml\nSOLVER: {MAX_ITER: 2, BASE_LR: 0.25}\n")
    cfg = load_config(path, ["SOLVER.MAX_ITER", "3"])
    assert (cfg.SEED, cfg.SOLVER.GAMMA, cfg.SOLVER.BASE_LR) == (1, 0.5, 0.25)
    assert cfg.SOLVER.MAX_ITER == 3
    assert cfg.SOLVER.MOMENTUM == 0.9


def test_the_defaults_are_those_of_the_last_named_conventions(write: Write) -> None:
    path = write("run.yaml", "CONVENTIONS: modern\nSOLVER: {MAX_ITER: 7}\n")
    modern, predecessor = (
        load_config(path),
        load_config(path, ["CONVENTIONS", "maskrcnn_benchmark"]),
    )
    assert (modern.SOLVER.BASE_LR, modern.SOLVER.MAX_ITER) == (0.02, 7)
    assert (predecessor.SOLVER.BASE_LR, predecessor.SOLVER.MAX_ITER) == (0.001, 7)
    write("base.yaml", "CONVENTIONS: modern\n")
    including = load_config(write("including.yaml", "_BASE_: base.yaml\n"))
    assert including.MODEL.DEVICE == "auto"


def test_data_sets_of_a_base_and_of_a_file_are_joined(write: Write) -> None:
    write(
        "base.yaml",
        """
        DATASETS:
          DEFINE:
            a: {FORMAT: voc, ROOT: here, SPLIT: train}
        """,
    )
    path = write(
        "run.yaml",
        """
        _BASE_: base.yaml
        DATASETS:
          DEFINE:
            b.1: {FORMAT: coco, IMAGES: i, ANNOTATIONS: a.json}
        """,
    )
    defined = load_config(path, ["DATASETS.DEFINE.a.ROOT", "there"]).DATASETS.DEFINE
    assert defined["a"].ROOT == "there"
    assert defined["b.1"] == CocoDefinition(FORMAT="coco", IMAGES="i", ANNOTATIONS="a.json")


def test_an_including_circle_is_refused(write: Write) -> None:
    write("a.yaml", "_BASE_: b.yaml\n")
    path = write("b.yaml", "_BASE_: a.yaml\n")
    with pytest.raises(ConfigError, match=r"b\.yaml -> a\.yaml -> b\.yaml"):
        load_config(path)


def test_a_base_is_one_path(write: Write) -> None:
    with pytest.raises(ConfigError, match=r"_BASE_ is \['a.yaml'\]; expected the path of one"):
        load_config(write("run.yaml", "_BASE_: [a.yaml]\n"))


def test_a_mistake_is_told_with_the_file_it_is_in(write: Write) -> None:
    write("base.yaml", "SOLVER: {BASE_LR: fast}\n")
    path = write("run.yaml", "_BASE_: base.yaml\nSOLVR: {MAX_ITER: 2}\n")
    with pytest.raises(ConfigError) as error:
        load_config(path, ["SEED", "-1"])
    by_file = {line.split(": ")[0].split("/")[-1]: line for line in str(error.value).splitlines()}
    assert "SOLVER.BASE_LR is 'fast'" in by_file["base.yaml"]
    assert "SOLVR.MAX_ITER; did you mean SOLVER.MAX_ITER?" in by_file["run.yaml"]
    assert "SEED is -1" in by_file["command line"]


def test_values_that_do_not_fit_together_are_told_with_the_file(write: Write) -> None:
    path = write("run.yaml", "SOLVER: {ACCUMULATE: 3}\n")
    with pytest.raises(ConfigError, match=r"run\.yaml: SOLVER.IMS_PER_BATCH is 16, which SOLVER"):
        load_config(path)


def test_a_dotted_key_in_a_file_is_told_to_be_nested(write: Write) -> None:
    with pytest.raises(ConfigError, match=r"unknown key SOLVER\.BASE_LR; write its parts"):
        load_config(write("run.yaml", "SOLVER.BASE_LR: 0.1\n"))


def test_a_section_without_keys_gives_nothing(write: Write) -> None:
    assert load_config(write("run.yaml", "SOLVER:\n  # MAX_ITER: 3\n")) == load_config(None)


def test_a_value_where_a_section_is_expected_does_not_drop_the_section(write: Write) -> None:
    path = write("run.yaml", "CONVENTIONS: modern\nSOLVER: 3\n")
    with pytest.raises(ConfigError, match="SOLVER is 3 and has no keys"):
        load_config(path, ["SOLVER.MAX_ITER", "2"])


def test_an_override_without_a_value_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'SEED' has no value; expected pairs of KEY VALUE"):
        load_config(None, ["SOLVER.MAX_ITER", "3", "SEED"])


def test_overrides_may_be_values_instead_of_text(tmp_path: Path) -> None:
    cfg = load_config(
        None,
        [
            *("INPUT.MIN_SIZE_TEST", 320, "SOLVER.BASE_LR", 1, "MODEL.MASK_ON", False),
            *("SOLVER.STEPS", [5, 6], "MODEL.RPN.ANCHOR_SIZES", "(8, 16)", "OUTPUT_DIR", tmp_path),
            *("INPUT.MIN_SIZE_TRAIN", (640, "672"), "SOLVER.CLIP_NORM", None),
            *("TEST.EXPECTED_RESULTS", [["bbox", "AP", [0.4, 0.1]]]),
        ],
    )
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.SOLVER.BASE_LR) == (320, 1.0)
    assert (cfg.SOLVER.STEPS, cfg.MODEL.RPN.ANCHOR_SIZES) == ((5, 6), (8, 16))
    assert (str(tmp_path), (640, 672)) == (cfg.OUTPUT_DIR, cfg.INPUT.MIN_SIZE_TRAIN)
    assert cfg.TEST.EXPECTED_RESULTS == (("bbox", "AP", (0.4, 0.1)),)


def test_an_override_of_a_section_changes_the_keys_it_names() -> None:
    cfg = load_config(None, ["SOLVER", {"MAX_ITER": 3, "STEPS": "(1, 2)"}])
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.GAMMA) == (3, (1, 2), 0.1)


def test_a_value_where_a_key_belongs_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"command line: 3 stands where a key is expected, such"):
        load_config(None, ["SEED", 1, 3, "SEED"])


@pytest.mark.skipif(not RECORDED, reason="../shared is absent")
@pytest.mark.parametrize(
    "path", sorted(GOLDEN.glob("*/overrides.json")), ids=lambda p: p.parent.name
)
def test_the_recordings_overrides_load_as_they_are_written(path: Path) -> None:
    recorded = json.loads(path.read_text())
    pairs = recorded["overrides"]
    cfg = load_config(GOLDEN / recorded["upstream_config"], pairs)
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        assert value_of(cfg, key) == as_tuple(literal(value)), key


def value_of(section: Any, key: str) -> Any:
    for name in key.split("."):
        section = getattr(section, name)
    return section


def as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def test_replace_checks_and_leaves_the_original_alone() -> None:
    cfg = load_config(None, ["CONVENTIONS", "modern"])
    changed = replace(cfg, {"MODEL.ROI_BOX_HEAD.NUM_CLASSES": 4, "SOLVER.STEPS": [5, 6]})
    assert (cfg.MODEL.ROI_BOX_HEAD.NUM_CLASSES, changed.MODEL.ROI_BOX_HEAD.NUM_CLASSES) == (None, 4)
    assert changed.SOLVER.STEPS == (5, 6)
    assert replace(changed, {}) == changed
    with pytest.raises(ConfigError, match=r"replace: MODEL\.ROI_BOX_HEAD\.NUM_CLASSES is 1; exp"):
        replace(cfg, {"MODEL.ROI_BOX_HEAD.NUM_CLASSES": 1})
    with pytest.raises(ConfigError, match="replace: unknown key SEEED; did you mean SEED"):
        replace(cfg, {"SEEED": 1})


def test_a_configuration_is_frozen_and_travels_to_other_processes() -> None:
    cfg = load_config(None)
    with pytest.raises(ValidationError, match="frozen"):
        cfg.SOLVER.MAX_ITER = 3  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(cfg)) == cfg


POSITIVE = st.floats(min_value=1e-300, max_value=1e300)
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "OUTPUT_DIR": st.text(),
        "MODEL.BUILDER": st.none() | st.text().filter(lambda text: text not in ("None", "null")),
        "MODEL.MASK_ON": st.booleans(),
        "INPUT.CROP_SIZE_TRAIN": st.none() | st.tuples(*[st.integers(1, 2**16)] * 2),
        "DATASETS.TRAIN": st.lists(st.text()),
        "DATASETS.CLASSES": st.none() | st.lists(st.text(), min_size=1, unique=True),
        "DATASETS.DEFINE": st.dictionaries(
            # a folder is named after it, and so it may not lead out of one
            st.text().filter(lambda name: not name.startswith("/") and ".." not in name),
            st.just({"FORMAT": "voc", "ROOT": "r", "SPLIT": "1", "CLASSES": ["7", "x"]}),
        ),
        "SOLVER.BASE_LR": POSITIVE,
        "SOLVER.STEPS": st.lists(st.integers(0, 10**9)).map(sorted),
        "SOLVER.CLIP_NORM": st.none() | POSITIVE,
        "TEST.EXPECTED_RESULTS": st.lists(
            st.tuples(st.text(), st.text(), st.tuples(POSITIVE, POSITIVE))
        ),
    },
)


@settings(deadline=None, max_examples=40)  # a loaded machine is no failure
@given(conventions=st.sampled_from(["modern", "maskrcnn_benchmark"]), changes=CHANGES)
def test_what_is_written_reads_back_equal(
    tmp_path_factory: pytest.TempPathFactory, conventions: str, changes: dict[str, Any]
) -> None:
    cfg = replace(load_config(None, ["CONVENTIONS", conventions]), changes)
    path = tmp_path_factory.getbasetemp() / "written.yaml"
    for text in (to_yaml(cfg), difference(cfg)):
        path.write_bytes(text.encode())
        assert load_config(path) == cfg


def test_the_written_configuration_begins_with_its_conventions() -> None:
    assert to_yaml(load_config(None)).startswith("CONVENTIONS: maskrcnn_benchmark\n")


@pytest.mark.parametrize("conventions", ["modern", "maskrcnn_benchmark"])
def test_a_configurations_text_is_what_it_is_in_a_file(conventions: str) -> None:
    cfg = load_config(None, ["CONVENTIONS", conventions, "SOLVER.MAX_ITER", "9"])
    assert parse_config(to_yaml(cfg), source="x.pth") == cfg
    changed = parse_config(difference(cfg), ["SOLVER.MAX_ITER", 8], source="x.pth")
    assert changed == replace(cfg, {"SOLVER.MAX_ITER": 8})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("_BASE_: /etc/hostname", "includes a file"),
        ("{_BASE_: /etc/hostname}", "includes a file"),
        ('"\\x5fBASE_": /etc/hostname', "includes a file"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", "has an alias"),
        ("[" * 5000 + "]" * 5000, "is nested over 100 levels"),
        ("MODEL: [", "is no valid YAML"),
        ("MODEL: {MASKON: True}", "MASKON"),
        ("3", "holds int 3"),
        ("MODEL: 3", "MODEL"),
    ],
)
def test_a_text_that_is_no_configuration_is_told_with_its_source(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"x\.pth.*{message}"):
        parse_config(text, source="x.pth")


def test_difference_names_only_what_is_not_the_default_of_the_conventions() -> None:
    cfg = load_config(
        None, ["CONVENTIONS", "modern", "SOLVER.BASE_LR", "0.02", "SOLVER.MAX_ITER", "9"]
    )
    assert yaml.safe_load(difference(cfg)) == {"CONVENTIONS": "modern", "SOLVER": {"MAX_ITER": 9}}


def test_loading_a_configuration_does_not_import_torch() -> None:
    program = "import sys, detengine.config.load; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_defaults_alone_are_the_predecessors() -> None:
    assert load_config(None) == Config()
