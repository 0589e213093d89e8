"""Values that are right one by one, and impossible together.

Here stands what the configuration alone tells; what needs the model or the data is checked where
those are built.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from detengine.config.schema import Config


class Contradiction(NamedTuple):
    """keys: those that do not fit together. message: their values, what was expected, the cure."""

    keys: tuple[str, ...]
    message: str


def find_contradictions(cfg: "Config") -> list[Contradiction]:
    """All of them, in the order of the file's sections. Without a BUILDER the model's, too."""
    checks: list[Callable[[Config], Iterator[Contradiction]]] = [_in_input, _in_data, _in_solver]
    if cfg.MODEL.BUILDER is None:
        checks += [
            _in_family,
            _in_static_shapes,
            _in_pyramid,
            _in_rpn,
            _in_retinanet,
            _in_thresholds,
        ]
        checks += [_in_heads, _in_group_norm, _in_norms]
    return list(chain.from_iterable(check(cfg) for check in checks))


def _value(cfg: "Config", key: str) -> Any:
    value: Any = cfg
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _contradiction(cfg: "Config", *keys: str, expected: str) -> Contradiction:
    """What the keys are, as "A is 1 and B is 2", and what was expected instead."""
    values = " and ".join(f"{key} is {_value(cfg, key)!r}" for key in keys)
    return Contradiction(keys, f"{values}; expected {expected}")


def _in_input(cfg: "Config") -> Iterator[Contradiction]:
    if not cfg.INPUT.TO_BGR255 and max(cfg.INPUT.PIXEL_MEAN) > 1:
        yield _contradiction(
            cfg, "INPUT.PIXEL_MEAN", "INPUT.TO_BGR255", expected="the mean of RGB in [0, 1]"
        )
    for which, shortest in (
        ("TRAIN", max(cfg.INPUT.MIN_SIZE_TRAIN)),
        ("TEST", cfg.INPUT.MIN_SIZE_TEST),
    ):
        if shortest > _value(cfg, f"INPUT.MAX_SIZE_{which}"):
            yield _contradiction(
                cfg,
                f"INPUT.MIN_SIZE_{which}",
                f"INPUT.MAX_SIZE_{which}",
                expected="a shorter side no longer than the longer side's limit; raise MAX_SIZE",
            )
    views = cfg.TEST.BBOX_AUG
    if views.ENABLED and max(views.SCALES, default=0) > views.MAX_SIZE:
        yield _contradiction(
            cfg,
            "TEST.BBOX_AUG.SCALES",
            "TEST.BBOX_AUG.MAX_SIZE",
            expected="shorter sides no longer than the longer side's limit; raise MAX_SIZE",
        )


def _in_data(cfg: "Config") -> Iterator[Contradiction]:
    lists = {"DATASETS.CLASSES": cfg.DATASETS.CLASSES} | {
        f"DATASETS.DEFINE.{name}.CLASSES": definition.CLASSES
        for name, definition in cfg.DATASETS.DEFINE.items()
        if definition.FORMAT in ("voc", "yolo")
    }
    for key, names in lists.items():
        doubled = [name for name, count in Counter(names).items() if count > 1]
        if doubled:
            yield Contradiction((key,), f"{key} has {doubled[0]!r} twice; expected each class once")
    for name, definition in cfg.DATASETS.DEFINE.items():
        if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
            yield Contradiction(
                ("DATASETS.DEFINE",),
                f"DATASETS.DEFINE has a data set called {name!r}, after which a folder in "
                "OUTPUT_DIR is named; expected a name that leads out of no folder",
            )
        if definition.PART is not None and definition.PART[0] >= definition.PART[1]:
            key = f"DATASETS.DEFINE.{name}.PART"
            yield Contradiction(
                (key,),
                f"{key} is {list(definition.PART)}; expected (from, to) with from below to, such "
                "as [0.2, 1.0]",
            )


def _in_solver(cfg: "Config") -> Iterator[Contradiction]:
    solver = cfg.SOLVER
    if solver.IMS_PER_BATCH % solver.ACCUMULATE:
        yield Contradiction(
            ("SOLVER.IMS_PER_BATCH", "SOLVER.ACCUMULATE"),
            f"SOLVER.IMS_PER_BATCH is {solver.IMS_PER_BATCH}, which SOLVER.ACCUMULATE, "
            f"{solver.ACCUMULATE}, does not divide; expected a multiple of it",
        )
    if list(solver.STEPS) != sorted(solver.STEPS):
        yield _contradiction(cfg, "SOLVER.STEPS", expected="ascending iterations")
    if solver.BEST_METRIC is not None and not (solver.TEST_PERIOD and cfg.DATASETS.TEST):
        yield _contradiction(
            cfg,
            "SOLVER.BEST_METRIC",
            "SOLVER.TEST_PERIOD",
            "DATASETS.TEST",
            expected="a test set that is scored on the way; set both, or BEST_METRIC None",
        )
    if solver.EARLY_STOPPING is not None and not (solver.BEST_METRIC and solver.TEST_PERIOD):
        yield _contradiction(
            cfg,
            "SOLVER.EARLY_STOPPING",
            "SOLVER.BEST_METRIC",
            "SOLVER.TEST_PERIOD",
            expected="a metric that is measured on the way; set both, or EARLY_STOPPING None",
        )
    if (solver.BEST_METRIC or "").startswith("loss/") and not cfg.TEST.LOSS:
        yield _contradiction(
            cfg, "SOLVER.BEST_METRIC", "TEST.LOSS", expected="TEST.LOSS True, which measures it"
        )


def _in_family(cfg: "Config") -> Iterator[Contradiction]:
    without_heads = "MODEL.RETINANET_ON" if cfg.MODEL.RETINANET_ON else "MODEL.RPN_ONLY"
    for head in ("MODEL.MASK_ON", "MODEL.KEYPOINT_ON"):
        if _has_no_heads(cfg) and _value(cfg, head):
            yield _contradiction(
                cfg,
                head,
                without_heads,
                expected="one of them: this detector has no regions for such a head; set "
                f"{head} False, or build an R-CNN",
            )


def _has_no_heads(cfg: "Config") -> bool:
    return cfg.MODEL.RETINANET_ON or cfg.MODEL.RPN_ONLY


def _in_static_shapes(cfg: "Config") -> Iterator[Contradiction]:
    model = cfg.MODEL
    against = {
        "MODEL.RETINANET_ON": model.RETINANET_ON,
        "MODEL.ARITHMETIC.INCLUSIVE_PIXELS": model.ARITHMETIC.INCLUSIVE_PIXELS,
        "MODEL.ARITHMETIC.ANCHORS": model.ARITHMETIC.ANCHORS == "detectron",
        "MODEL.RPN.FPN_POST_NMS_PER_BATCH": model.RPN.USE_FPN and model.RPN.FPN_POST_NMS_PER_BATCH,
    }
    found = [key for key, is_against in against.items() if is_against]
    if model.STATIC_SHAPES and found:
        yield _contradiction(
            cfg,
            "MODEL.STATIC_SHAPES",
            *found,
            expected="an R-CNN with continuous boxes and proposals limited by image, as under "
            "CONVENTIONS modern; set STATIC_SHAPES False",
        )


def _in_pyramid(cfg: "Config") -> Iterator[Contradiction]:
    if cfg.MODEL.RETINANET_ON:
        return
    rpn, body = cfg.MODEL.RPN, cfg.MODEL.BACKBONE.CONV_BODY
    kind = "timm" if body.startswith("timm:") else body.split("-")[-1]
    is_pyramid = {"FPN": True, "C4": False, "C5": False, "FBNet": False}.get(kind)
    if is_pyramid is not None and is_pyramid != rpn.USE_FPN:
        yield _contradiction(
            cfg,
            "MODEL.BACKBONE.CONV_BODY",
            "MODEL.RPN.USE_FPN",
            expected=f"USE_FPN {is_pyramid} with this body, of RPN and of ROI_HEADS",
        )
        return  # the rest would follow from this
    if not cfg.MODEL.RPN_ONLY and rpn.USE_FPN != cfg.MODEL.ROI_HEADS.USE_FPN:
        yield _contradiction(
            cfg,
            "MODEL.RPN.USE_FPN",
            "MODEL.ROI_HEADS.USE_FPN",
            expected="the same of both: they see the same features",
        )
    if rpn.USE_FPN and len(rpn.ANCHOR_STRIDE) != len(rpn.ANCHOR_SIZES):
        yield _contradiction(
            cfg,
            "MODEL.RPN.ANCHOR_STRIDE",
            "MODEL.RPN.ANCHOR_SIZES",
            expected="one of each for every level of the pyramid, such as ANCHOR_STRIDE "
            "(4, 8, 16, 32, 64); or MODEL.RPN.USE_FPN False",
        )
    if not rpn.USE_FPN and len(rpn.ANCHOR_STRIDE) != 1:
        yield _contradiction(
            cfg,
            "MODEL.RPN.ANCHOR_STRIDE",
            "MODEL.RPN.USE_FPN",
            expected="one stride, such as (16,), where the features are no pyramid; or "
            "USE_FPN True",
        )
    if not rpn.USE_FPN:
        yield from _in_scales(cfg)


def _in_scales(cfg: "Config") -> Iterator[Contradiction]:
    """Without a pyramid there is one level to pool from."""
    for head in _heads_of(cfg):
        key = f"MODEL.{head}.POOLER_SCALES"
        if len(_value(cfg, key)) != 1:
            yield _contradiction(
                cfg,
                key,
                "MODEL.RPN.USE_FPN",
                expected="one scale, such as (0.0625,), where the features are no pyramid; or "
                "USE_FPN True, of RPN and of ROI_HEADS",
            )


def _heads_of(cfg: "Config") -> list[str]:
    if _has_no_heads(cfg):
        return []
    switches = {"ROI_MASK_HEAD": cfg.MODEL.MASK_ON, "ROI_KEYPOINT_HEAD": cfg.MODEL.KEYPOINT_ON}
    return ["ROI_BOX_HEAD", *(head for head, is_on in switches.items() if is_on)]


def _in_rpn(cfg: "Config") -> Iterator[Contradiction]:
    rpn = cfg.MODEL.RPN
    if not cfg.MODEL.RETINANET_ON and rpn.RPN_HEAD == "FBNet.rpn_head" and rpn.NUM_CONVS != 1:
        yield _contradiction(
            cfg,
            "MODEL.RPN.NUM_CONVS",
            "MODEL.RPN.RPN_HEAD",
            expected="SingleConvRPNHead, whose convolutions NUM_CONVS counts, or NUM_CONVS 1",
        )


def _in_retinanet(cfg: "Config") -> Iterator[Contradiction]:
    body = cfg.MODEL.BACKBONE.CONV_BODY
    has_its_body = body.endswith("-FPN-RETINANET")
    if has_its_body != cfg.MODEL.RETINANET_ON and not body.startswith("timm:"):
        yield _contradiction(
            cfg,
            "MODEL.BACKBONE.CONV_BODY",
            "MODEL.RETINANET_ON",
            expected="a body such as R-50-FPN-RETINANET, whose levels are P3 to P7, for a "
            "RetinaNet, and for no other detector",
        )
    retinanet = cfg.MODEL.RETINANET
    if cfg.MODEL.RETINANET_ON and len(retinanet.ANCHOR_SIZES) != len(retinanet.ANCHOR_STRIDES):
        yield _contradiction(
            cfg,
            "MODEL.RETINANET.ANCHOR_SIZES",
            "MODEL.RETINANET.ANCHOR_STRIDES",
            expected="one of each for every level of the pyramid",
        )


def _in_thresholds(cfg: "Config") -> Iterator[Contradiction]:
    for section in ("RPN", "ROI_HEADS", "RETINANET"):
        lower, upper = (f"MODEL.{section}.{kind}_IOU_THRESHOLD" for kind in ("BG", "FG"))
        if _value(cfg, lower) > _value(cfg, upper):
            yield _contradiction(
                cfg,
                lower,
                upper,
                expected="BG no higher than FG: what lies between is neither positive nor negative",
            )


_SHARING = {
    ("ResNet50Conv5ROIFeatureExtractor", "ResNet50Conv5ROIFeatureExtractor"),
    ("FBNet.roi_head", "FBNet.roi_head_mask"),
    ("FBNet.roi_head", "FBNet.roi_head_keypoints"),
}
"""Box extractors that give a map, and the extractors of the head that can do with the same map."""


def _in_heads(cfg: "Config") -> Iterator[Contradiction]:
    for head in _heads_of(cfg)[1:]:
        shared = f"MODEL.{head}.SHARE_BOX_FEATURE_EXTRACTOR"
        keys = ("MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR", f"MODEL.{head}.FEATURE_EXTRACTOR")
        extractors = (_value(cfg, keys[0]), _value(cfg, keys[1]))
        if _value(cfg, shared) and extractors not in _SHARING:
            yield _contradiction(
                cfg,
                shared,
                *keys,
                expected=f"{shared} False, or extractors that can be one and the same",
            )


def _in_group_norm(cfg: "Config") -> Iterator[Contradiction]:
    options = cfg.MODEL.GROUP_NORM
    unused, used = sorted((options.DIM_PER_GP, options.NUM_GROUPS))
    if unused != -1 or used < 1:
        yield _contradiction(
            cfg,
            "MODEL.GROUP_NORM.DIM_PER_GP",
            "MODEL.GROUP_NORM.NUM_GROUPS",
            expected="-1 for one of them and a positive number for the other",
        )


_NORMS = {
    "FPN2MLPFeatureExtractor": (None, "GN"),
    "FPNXconv1fcFeatureExtractor": (None, "FrozenBN", "BN", "GN"),
    "MaskRCNNFPNFeatureExtractor": (None, "FrozenBN", "BN", "GN"),
}
"""What NORM may be, by the extractor: batch norm is of maps; those left out have their own."""


def _in_norms(cfg: "Config") -> Iterator[Contradiction]:
    heads = [head for head in _heads_of(cfg) if head != "ROI_KEYPOINT_HEAD"]
    for section in ("FPN", *heads):
        key, switch = f"MODEL.{section}.NORM", f"MODEL.{section}.USE_GN"
        if _value(cfg, switch) and _value(cfg, key) not in (None, "GN"):
            yield _contradiction(
                cfg, key, switch, expected="one norm: USE_GN False, or NORM None or GN"
            )
    for head in heads:
        key, extractor = f"MODEL.{head}.NORM", f"MODEL.{head}.FEATURE_EXTRACTOR"
        possible = _NORMS.get(_value(cfg, extractor), (None,))
        if _value(cfg, key) not in possible:
            choices = " or ".join(map(str, possible))
            yield _contradiction(
                cfg, key, extractor, expected=f"{choices}, or an extractor of convolutions"
            )
