from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from detengine.checkpoint.catalog import find_source
from detengine.checkpoint.checkpointer import Checkpointer, DetectronCheckpointer
from detengine.checkpoint.conventions import raise_if_conventions_differ
from detengine.checkpoint.conversion import Conventions
from detengine.checkpoint.files import save_file
from detengine.config.load import load_config, to_yaml
from detengine.modeling.build import build_detection_model

SHARED = Path(__file__).parents[2] / "../shared"
PREDECESSORS = sorted((SHARED / "golden/configs").rglob("*.yaml"))
BGR, RGB = [102.9801, 115.9465, 122.7717], [0.485, 0.456, 0.406]
CAFFE2, TORCHVISION = Conventions(True, True), Conventions(False, False)


def config(bgr255: bool, mean: list[float], std: list[float], *, stride: bool, **model: Any) -> str:
    """A run's configuration, as far as conventions go."""
    values = {"TO_BGR255": bgr255, "PIXEL_MEAN": mean, "PIXEL_STD": std}
    return yaml.safe_dump(
        {"INPUT": values, "MODEL": {"RESNETS": {"STRIDE_IN_1X1": stride}, **model}}
    )


MSRA = config(True, BGR, [1, 1, 1], stride=True)
MODERN = config(False, RGB, [0.229, 0.224, 0.225], stride=False)


def compare(
    known: Conventions | None, ours: str, theirs: str = "", has_bottlenecks: bool = True
) -> None:
    raise_if_conventions_differ(
        "x.pkl", [known], file_config=theirs, config=ours, has_bottlenecks=has_bottlenecks
    )


@pytest.mark.parametrize(
    ("known", "ours"),
    [
        (CAFFE2, MSRA),
        (TORCHVISION, MODERN),
        (None, MODERN),
        (Conventions(), MSRA),
        (Conventions(True, False), config(True, BGR, [57.375, 57.12, 58.395], stride=False)),
        (CAFFE2, config(True, [103.94, 116.78, 123.68], [1, 1, 1], stride=True)),
        (CAFFE2, config(True, [120, 120, 120], [1, 1, 1], stride=True)),
        (TORCHVISION, config(False, [0.5, 0.5, 0.5], [0.5, 0.5, 0.5], stride=False)),
    ],
)
def test_weights_and_a_configuration_of_like_conventions_pass(
    known: Conventions | None, ours: str
) -> None:
    compare(known, ours)


@pytest.mark.parametrize(
    ("known", "ours", "keys"),
    [
        (CAFFE2, MODERN, ["TO_BGR255", "PIXEL_MEAN", "PIXEL_STD", "STRIDE_IN_1X1"]),
        (TORCHVISION, MSRA, ["TO_BGR255", "PIXEL_MEAN", "PIXEL_STD", "STRIDE_IN_1X1"]),
        (CAFFE2, config(True, BGR, [1, 1, 1], stride=False), ["STRIDE_IN_1X1"]),
        (CAFFE2, config(True, BGR[::-1], [1, 1, 1], stride=True), ["PIXEL_MEAN"]),
        (CAFFE2, config(True, RGB, [1, 1, 1], stride=True), ["PIXEL_MEAN"]),
        (CAFFE2, config(True, BGR, [0.229, 0.224, 0.225], stride=True), ["PIXEL_STD"]),
        (
            TORCHVISION,
            config(False, RGB[::-1], [0.229, 0.224, 0.225], stride=False),
            ["PIXEL_MEAN"],
        ),
        (TORCHVISION, config(False, RGB, [58.0, 57.0, 57.0], stride=False), ["PIXEL_STD"]),
    ],
)
def test_what_differs_is_named_by_its_key_and_nothing_else_is(
    known: Conventions, ours: str, keys: list[str]
) -> None:
    with pytest.raises(ValueError, match=r"x\.pkl were trained by other conventions") as error:
        compare(known, ours)
    lines = str(error.value).splitlines()[1:-1]
    assert [line.split()[0].rsplit(".", 1)[-1] for line in lines] == keys


def test_the_error_says_what_is_there_what_is_wanted_and_what_to_set() -> None:
    ours = config(False, BGR, [1, 1, 1], stride=False)
    with pytest.raises(ValueError, match="other conventions") as error:
        compare(CAFFE2, ours)
    assert str(error.value).splitlines() == [
        "the weights in x.pkl were trained by other conventions than the configuration's:",
        "  INPUT.TO_BGR255 is False, but the weights want True (True: images are BGR in 0..255; "
        "False: RGB in 0..1)",
        "  MODEL.RESNETS.STRIDE_IN_1X1 is False, but the weights want True (True: a bottleneck "
        "halves the map in its first convolution; False: in its 3x3)",
        "Set INPUT.TO_BGR255 and MODEL.RESNETS.STRIDE_IN_1X1 so, or take weights that fit the "
        "configuration.",
    ]


def test_the_stride_matters_only_where_there_are_bottlenecks() -> None:
    compare(CAFFE2, config(True, BGR, [1, 1, 1], stride=False), has_bottlenecks=False)


def test_weights_with_a_configuration_want_what_it_says() -> None:
    compare(None, MSRA, theirs=MSRA)
    with pytest.raises(ValueError, match=r"INPUT\.PIXEL_STD is \[1, 1, 1\], but .* want \[57"):
        compare(None, MSRA, theirs=config(True, BGR, [57.4, 57.1, 58.4], stride=True))
    with pytest.raises(ValueError, match=r"STRIDE_IN_1X1 is True, but the weights want False"):
        compare(None, MSRA, theirs=config(True, BGR, [1, 1, 1], stride=False))


def test_of_a_builders_model_nothing_is_known() -> None:
    compare(CAFFE2, config(False, RGB, [1, 1, 1], stride=False, BUILDER="a:b"))
    compare(None, MODERN, theirs=config(True, BGR, [1, 1, 1], stride=True, BUILDER="a:b"))


@pytest.mark.parametrize("theirs", ["", "3", "[1, 2]", "INPUT: 3", "INPUT: {PIXEL_MEAN: [a, 1]}"])
def test_what_a_file_does_not_say_is_not_compared(theirs: str) -> None:
    compare(None, MODERN, theirs=theirs)
    compare(CAFFE2, "", theirs=theirs)
    compare(CAFFE2, "SEED: 3")


def test_a_file_whose_configuration_is_no_yaml_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"the configuration in x\.pkl is no YAML"):
        compare(None, MODERN, theirs="{a: [")


def test_a_checkpoint_of_other_conventions_is_refused_and_the_model_unchanged(
    tmp_path: Path,
) -> None:
    other = nn.Linear(2, 3)
    save_file(tmp_path / "x.pth", {"format": 1, "model": other.state_dict(), "config": MSRA})
    cfg = load_config(None, ["CONVENTIONS", "modern"])
    run = DetectronCheckpointer(cfg, nn.Linear(2, 3))
    before = run.model.weight.clone()
    for strict in (True, False):
        with pytest.raises(ValueError, match=r"INPUT\.TO_BGR255 is False"):
            run.load(tmp_path / "x.pth", strict=strict)
    assert torch.equal(run.model.weight, before)
    Checkpointer(run.model).load(tmp_path / "x.pth")
    assert torch.equal(run.model.weight, other.weight)


def test_a_published_models_address_tells_its_conventions() -> None:
    """Its names are ours, and tell nothing."""
    source = find_source("torchvision://maskrcnn_resnet50_fpn_v2")
    assert source is not None
    with pytest.raises(ValueError, match=r"TO_BGR255 is True, but the weights want False"):
        compare(source.conventions, MSRA)


def _conventions_in_the_predecessor(weights: str) -> Conventions:
    """MSRA's ResNets have the stride in the first convolution, all others in the 3 x 3 one."""
    name = weights.replace("-", "_")
    return Conventions(True, not ("X_1" in name or "R_50_GN" in name or "R_101_GN" in name))


@pytest.mark.skipif(not PREDECESSORS, reason="../shared is absent")
@pytest.mark.parametrize("path", PREDECESSORS, ids=lambda path: path.stem)
def test_the_predecessors_configurations_fit_the_weights_they_name(path: Path) -> None:
    cfg = load_config(path)
    if cfg.MODEL.WEIGHT:
        compare(_conventions_in_the_predecessor(cfg.MODEL.WEIGHT), to_yaml(cfg))


@pytest.mark.parametrize("origin", ["nobody", "detengine", "torchvision"])
def test_a_retinanet_of_unknown_origin_is_taken_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, origin: str
) -> None:
    options = ["CONVENTIONS", "modern", "MODEL.RETINANET_ON", True]
    options += ["MODEL.RETINANET.NUM_CLASSES", 3]
    cfg = load_config(None, [*options, "MODEL.BACKBONE.CONV_BODY", "R-50-FPN-RETINANET"])
    run = DetectronCheckpointer(cfg, build_detection_model(cfg))
    whole = dict(run.model.state_dict())
    config = to_yaml(cfg) if origin == "detengine" else ""
    state: Any = OrderedDict(whole)
    if origin == "torchvision":
        state.__dict__["_metadata"] = OrderedDict({"": {}, "transform": {}})
    torch.save({"format": 1, "model": state, "config": config}, tmp_path / "x.pth")
    run.load(tmp_path / "x.pth", strict=False)
    said = "does not say what program its RetinaNet is of" in caplog.text
    assert said == (origin == "nobody")
