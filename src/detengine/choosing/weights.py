"""The weights that a training starts from, and what they ask of the configuration."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from detengine.checkpoint import caffe2
from detengine.checkpoint.catalog import find_kept, find_weights
from detengine.checkpoint.published import TORCHVISION
from detengine.checkpoint.readers import read_file
from detengine.config.conventions import defaults
from detengine.config.load import flattened
from detengine.config.yaml_files import parse_mapping

_BLOCKS = re.compile(r"(?:layer3\.|res4[_.])(\d+)[._]")
_BOTTLENECK = re.compile(r"(?:layer1\.0\.conv3|res2_0_branch2c|res2\.0\.conv3)")
_DETECTOR = re.compile(r"(?:^|\.)(?:rpn|roi_heads|proposal_generator)\.|^(?:conv_rpn|rpn_)")
_DEPTHS = {(2, False): 18, (6, False): 34, (6, True): 50, (23, True): 101, (36, True): 152}
"""By the blocks of the third stage, and whether they are bottlenecks."""
_V2 = {
    "MODEL.FPN.NORM": "FrozenBN",
    "MODEL.RPN.NUM_CONVS": 2,
    "MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR": "FPNXconv1fcFeatureExtractor",
    "MODEL.ROI_BOX_HEAD.NORM": "FrozenBN",
    "MODEL.ROI_MASK_HEAD.NORM": "FrozenBN",
}
"""The architecture of torchvision's v2 detectors, with the statistics that they were trained to:
a batch for a few images has none that are worth having."""
_V2_MARK = "roi_heads.box_head.0.0.weight"
_CAFFE2 = {
    "INPUT.TO_BGR255": True,
    "INPUT.PIXEL_MEAN": [103.939, 116.779, 123.68],
    "INPUT.PIXEL_STD": [1.0, 1.0, 1.0],
    "MODEL.RESNETS.STRIDE_IN_1X1": True,
}
_BUILDER = "MODEL.BUILDER"
_OF_OWN_RUN = ("MODEL.", "INPUT.TO_BGR255", "INPUT.PIXEL_MEAN", "INPUT.PIXEL_STD")
_NOT_OF_THE_MODEL = (
    *("MODEL.WEIGHT", "MODEL.DEVICE", "MODEL.MASK_ON", "MODEL.KEYPOINT_ON"),
    *("MODEL.ROI_BOX_HEAD.NUM_CLASSES", "MODEL.RETINANET.NUM_CLASSES"),
)
"""What the data says, or the machine."""


@dataclass(frozen=True)
class Start:
    """weights: as MODEL.WEIGHT, empty for none. depth: of its ResNet, None where a file has its
    own configuration. is_detector: more than a trunk. keys: what the weights ask for, by dotted
    key. why: what they are."""

    weights: str
    depth: int | None
    is_detector: bool
    keys: Mapping[str, Any]
    why: str


FROM_SCRATCH = Start("", None, False, {}, "")


def named_start(name: str) -> Start:
    """The weights of that name, fetched if need be. Raises as `find_weights`, and ValueError for
    weights of an unknown kind of network."""
    path = find_weights(name)
    if not path.is_file():
        raise FileNotFoundError(
            f"--weights {name}: there is no such file. Give a file, an address, or a name such as "
            f"{TORCHVISION}resnet50."
        )
    return _start_of(name, path)


def default_start(name: str, *, may_download: bool) -> tuple[Start | None, str]:
    """The weights of that name, or None and the reason why they are not to be had."""
    try:
        path = find_weights(name) if may_download else find_kept(name)
    except (OSError, ValueError) as error:
        return None, str(error)
    if path is None:
        return None, f"{name} is not on this machine"
    return _start_of(name, path), ""


def _start_of(name: str, path: Path) -> Start:
    entries = read_file(path)
    config = entries.get("config")
    if isinstance(config, str) and config:
        own = _keys_of_own_run(name, parse_mapping(config, name, trusted=False))
        return Start(name, None, True, own, "of a run of detengine, whose model is taken")
    loaded: Mapping[str, Tensor] = entries["model"]
    depth = _depth_of(name, loaded)
    is_detector = any(_DETECTOR.search(each) for each in loaded)
    keys: dict[str, Any] = {}
    if caffe2.recognise(loaded):
        keys |= _CAFFE2
    elif _V2_MARK in loaded:
        keys |= _V2
    kind = "a detector with" if is_detector else "an ImageNet classifier,"
    return Start(name, depth, is_detector, keys, f"of {kind} a ResNet-{depth}")


def _depth_of(name: str, loaded: Mapping[str, Tensor]) -> int:
    blocks = {int(match[1]) for each in loaded if (match := _BLOCKS.search(each))}
    has_bottlenecks = any(_BOTTLENECK.search(each) for each in loaded)
    depth = _DEPTHS.get((len(blocks), has_bottlenecks))
    if depth is None:
        raise ValueError(
            f"--weights {name}: these are of no ResNet of 18, 34, 50, 101 or 152 layers, so that "
            "the model cannot be chosen for them. Write a configuration file with the model's "
            "MODEL section and MODEL.WEIGHT, and give it by -c."
        )
    return depth


def _keys_of_own_run(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Of a checkpoint's configuration, what the weights are tied to and the defaults have not.

    Raises ValueError if it names a program that builds the model, which no weights may ask for.
    """
    values, usual = flattened(config), flattened(defaults("modern"))
    if values.get(_BUILDER) is not None:
        raise ValueError(
            f"--weights {name}: these are of a model that code of its own built ({_BUILDER}: "
            f"{values[_BUILDER]}), and no checkpoint says which code is run. Write a configuration "
            "that names it, if you trust it, with MODEL.WEIGHT, and give it by -c."
        )
    return {
        key: value
        for key, value in values.items()
        if key.startswith(_OF_OWN_RUN)
        and key not in _NOT_OF_THE_MODEL
        and value != _as_list(usual.get(key))
    }


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
