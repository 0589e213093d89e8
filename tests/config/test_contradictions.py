from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detengine.config.errors import ConfigError
from detengine.config.load import load_config

Write = Callable[[str, str], Path]

FPN = ["MODEL.BACKBONE.CONV_BODY", "R-50-FPN", "MODEL.RPN.USE_FPN", True]
HEADS_FPN = ["MODEL.ROI_HEADS.USE_FPN", True]
LEVELS = ["MODEL.RPN.ANCHOR_STRIDE", (4, 8, 16, 32, 64)]
RETINANET = ["MODEL.RETINANET_ON", True, "MODEL.BACKBONE.CONV_BODY", "R-50-FPN-RETINANET"]
BOX_HEAD = "MODEL.ROI_BOX_HEAD"
XCONV = [f"{BOX_HEAD}.FEATURE_EXTRACTOR", "FPNXconv1fcFeatureExtractor"]
TWO_SCALES = (0.25, 0.125)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["SOLVER.IMS_PER_BATCH", 6, "SOLVER.ACCUMULATE", 4],
            "SOLVER.IMS_PER_BATCH is 6, which SOLVER.ACCUMULATE, 4, does not divide; expected a mu",
        ),
        (["SOLVER.STEPS", (20, 10)], "SOLVER.STEPS is (20, 10); expected ascending iterations"),
        (
            ["INPUT.TO_BGR255", False],
            "INPUT.PIXEL_MEAN is (102.9801, 115.9465, 122.7717) and INPUT.TO_BGR255 is False; "
            "expected the mean of RGB in [0, 1]",
        ),
        (
            ["INPUT.MIN_SIZE_TRAIN", (600, 1400)],
            "INPUT.MIN_SIZE_TRAIN is (600, 1400) and INPUT.MAX_SIZE_TRAIN is 1333; expected a sh",
        ),
        (
            ["INPUT.MAX_SIZE_TEST", 500],
            "INPUT.MIN_SIZE_TEST is 800 and INPUT.MAX_SIZE_TEST is 500; expected a shorter side",
        ),
        (
            ["TEST.BBOX_AUG", {"ENABLED": True, "SCALES": (400, 900), "MAX_SIZE": 800}],
            "TEST.BBOX_AUG.SCALES is (400, 900) and TEST.BBOX_AUG.MAX_SIZE is 800; expected shor",
        ),
        (
            ["SOLVER.BEST_METRIC", "loss/loss", "SOLVER.TEST_PERIOD", 5, "DATASETS.TEST", ["a"]],
            "SOLVER.BEST_METRIC is 'loss/loss' and TEST.LOSS is False; expected TEST.LOSS True, wh",
        ),
        (
            ["SOLVER.EARLY_STOPPING", 3, "SOLVER.TEST_PERIOD", 5],
            "SOLVER.EARLY_STOPPING is 3 and SOLVER.BEST_METRIC is None and SOLVER.TEST_PERIOD is 5;"
            " expected a metric that is measured on the way; set both, or EARLY_STOPPING None",
        ),
        (["DATASETS.CLASSES", ["cell", "cell"]], "DATASETS.CLASSES has 'cell' twice; expected"),
        (
            ["DATASETS.DEFINE.a", {"FORMAT": "voc", "ROOT": "", "SPLIT": "", "CLASSES": "[x, x]"}],
            "DATASETS.DEFINE.a.CLASSES has 'x' twice; expected each class once",
        ),
        (
            ["DATASETS.DEFINE.a", {"FORMAT": "yolo", "IMAGES": "", "CLASSES": "[x, x]"}],
            "DATASETS.DEFINE.a.CLASSES has 'x' twice; expected each class once",
        ),
        (
            ["MODEL.MASK_ON", True, "MODEL.RPN_ONLY", True],
            "MODEL.MASK_ON is True and MODEL.RPN_ONLY is True; expected one of them: this detect",
        ),
        (
            ["MODEL.KEYPOINT_ON", True, "MODEL.RPN_ONLY", True],
            "MODEL.KEYPOINT_ON is True and MODEL.RPN_ONLY is True; expected one of them",
        ),
        (
            ["MODEL.MASK_ON", True, *RETINANET],
            "MODEL.MASK_ON is True and MODEL.RETINANET_ON is True; expected one of them",
        ),
        (
            ["MODEL.KEYPOINT_ON", True, *RETINANET, "MODEL.RPN_ONLY", True],
            "MODEL.KEYPOINT_ON is True and MODEL.RETINANET_ON is True; expected one of them",
        ),
        (
            ["MODEL.BACKBONE.CONV_BODY", "R-101-FPN"],
            "MODEL.BACKBONE.CONV_BODY is 'R-101-FPN' and MODEL.RPN.USE_FPN is False; expected "
            "USE_FPN True with this body",
        ),
        (
            ["MODEL.RPN.USE_FPN", True, *HEADS_FPN, *LEVELS],
            "MODEL.BACKBONE.CONV_BODY is 'R-50-C4' and MODEL.RPN.USE_FPN is True; expected USE_F",
        ),
        (
            [*FPN, *LEVELS],
            "MODEL.RPN.USE_FPN is True and MODEL.ROI_HEADS.USE_FPN is False; expected the same",
        ),
        (
            [*FPN, *HEADS_FPN],
            "MODEL.RPN.ANCHOR_STRIDE is (16,) and MODEL.RPN.ANCHOR_SIZES is (32, 64, 128, 256, 512"
            "); expected one of each for every level",
        ),
        (
            LEVELS,
            "MODEL.RPN.ANCHOR_STRIDE is (4, 8, 16, 32, 64) and MODEL.RPN.USE_FPN is False; expec",
        ),
        (
            ["MODEL.ROI_BOX_HEAD.POOLER_SCALES", TWO_SCALES],
            "MODEL.ROI_BOX_HEAD.POOLER_SCALES is (0.25, 0.125) and MODEL.RPN.USE_FPN is False; ex",
        ),
        (
            ["MODEL.MASK_ON", True, "MODEL.ROI_MASK_HEAD.POOLER_SCALES", TWO_SCALES],
            "MODEL.ROI_MASK_HEAD.POOLER_SCALES is (0.25, 0.125) and MODEL.RPN.USE_FPN is False; e",
        ),
        (
            ["MODEL.RETINANET_ON", True],
            "MODEL.BACKBONE.CONV_BODY is 'R-50-C4' and MODEL.RETINANET_ON is True; expected a bod",
        ),
        (
            ["MODEL.BACKBONE.CONV_BODY", "R-50-FPN-RETINANET"],
            "MODEL.BACKBONE.CONV_BODY is 'R-50-FPN-RETINANET' and MODEL.RETINANET_ON is False; ex",
        ),
        (
            [*RETINANET, "MODEL.RETINANET.ANCHOR_SIZES", (32, 64)],
            "MODEL.RETINANET.ANCHOR_SIZES is (32, 64) and MODEL.RETINANET.ANCHOR_STRIDES is (8, 1",
        ),
        *(
            (
                [f"MODEL.{section}.BG_IOU_THRESHOLD", 0.9],
                f"MODEL.{section}.BG_IOU_THRESHOLD is 0.9 and MODEL.{section}.FG_IOU_THRESHOLD is",
            )
            for section in ("RPN", "ROI_HEADS", "RETINANET")
        ),
        (
            ["MODEL.MASK_ON", True, "MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR", "FBNet.roi_head"],
            "MODEL.ROI_MASK_HEAD.SHARE_BOX_FEATURE_EXTRACTOR is True and MODEL.ROI_BOX_HEAD.FEATU"
            "RE_EXTRACTOR is 'FBNet.roi_head' and MODEL.ROI_MASK_HEAD.FEATURE_EXTRACTOR is 'ResNe",
        ),
        (
            ["MODEL.KEYPOINT_ON", True],
            "MODEL.ROI_KEYPOINT_HEAD.SHARE_BOX_FEATURE_EXTRACTOR is True and MODEL.ROI_BOX_HEAD.F",
        ),
        *(
            (
                ["MODEL.GROUP_NORM.DIM_PER_GP", dim, "MODEL.GROUP_NORM.NUM_GROUPS", groups],
                f"MODEL.GROUP_NORM.DIM_PER_GP is {dim} and MODEL.GROUP_NORM.NUM_GROUPS is {groups}"
                "; expected -1 for one of them and a positive number for the other",
            )
            for dim, groups in ((8, 32), (-1, -1), (0, 32), (-1, 0))
        ),
        (
            ["MODEL.RPN.RPN_HEAD", "FBNet.rpn_head", "MODEL.RPN.NUM_CONVS", 2],
            "MODEL.RPN.NUM_CONVS is 2 and MODEL.RPN.RPN_HEAD is 'FBNet.rpn_head'; expected Singl",
        ),
        (
            ["MODEL.FPN.USE_GN", True, "MODEL.FPN.NORM", "BN"],
            "MODEL.FPN.NORM is 'BN' and MODEL.FPN.USE_GN is True; expected one norm: USE_GN Fals",
        ),
        (
            [f"{BOX_HEAD}.USE_GN", True, f"{BOX_HEAD}.NORM", "FrozenBN", *XCONV],
            f"{BOX_HEAD}.NORM is 'FrozenBN' and {BOX_HEAD}.USE_GN is True; expected one norm",
        ),
        (
            [f"{BOX_HEAD}.NORM", "BN", f"{BOX_HEAD}.FEATURE_EXTRACTOR", "FPN2MLPFeatureExtractor"],
            f"{BOX_HEAD}.NORM is 'BN' and {BOX_HEAD}.FEATURE_EXTRACTOR is 'FPN2MLPFeatureExtracto"
            "r'; expected None or GN, or an extractor of convolutions",
        ),
        (
            [f"{BOX_HEAD}.NORM", "GN"],
            f"{BOX_HEAD}.NORM is 'GN' and {BOX_HEAD}.FEATURE_EXTRACTOR is 'ResNet50Conv5ROIFeatur"
            "eExtractor'; expected None, or an extractor of convolutions",
        ),
        (
            ["MODEL.MASK_ON", True, "MODEL.ROI_MASK_HEAD.NORM", "BN"],
            "MODEL.ROI_MASK_HEAD.NORM is 'BN' and MODEL.ROI_MASK_HEAD.FEATURE_EXTRACTOR is 'ResNe",
        ),
    ],
)
def test_values_that_do_not_fit_together_are_refused(overrides: list[Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(None, overrides)
    assert f"command line: {message}" in str(error.value)


def test_the_givers_of_both_values_are_named(write: Write) -> None:
    path = write("run.yaml", "MODEL: {MASK_ON: true, BACKBONE: {CONV_BODY: R-50-C4}}\n")
    with pytest.raises(ConfigError, match=r"run\.yaml and command line: MODEL\.MASK_ON is True"):
        load_config(path, ["MODEL.RPN_ONLY", "True"])


def test_every_contradiction_has_its_line(write: Write) -> None:
    path = write("run.yaml", "SOLVER: {STEPS: [20, 10]}\nMODEL: {RPN: {BG_IOU_THRESHOLD: 0.9}}\n")
    with pytest.raises(ConfigError) as error:
        load_config(path)
    lines = str(error.value).splitlines()
    assert [line.split("run.yaml: ")[1].split(" is ")[0] for line in lines] == [
        "SOLVER.STEPS",
        "MODEL.RPN.BG_IOU_THRESHOLD",
    ]


@pytest.mark.parametrize("name", ["../elsewhere", "/elsewhere", "a/../../elsewhere"])
def test_no_data_set_is_named_after_a_folder_outside_of_the_output(write: Write, name: str) -> None:
    define = f"{{{name}: {{FORMAT: coco, IMAGES: a, ANNOTATIONS: a.json}}}}"
    path = write("run.yaml", f"DATASETS: {{DEFINE: {define}}}\n")
    with pytest.raises(ConfigError, match=f"a data set called '{name}'.*leads out of no folder"):
        load_config(path)


def test_a_model_of_ones_own_is_not_held_to_the_options_of_ours() -> None:
    cfg = load_config(None, ["MODEL.BUILDER", "package.module:function", "MODEL.KEYPOINT_ON", True])
    assert cfg.MODEL.KEYPOINT_ON


def test_group_norm_by_channels_of_a_group_is_one_of_the_two_ways() -> None:
    pairs = ["MODEL.GROUP_NORM.DIM_PER_GP", 8, "MODEL.GROUP_NORM.NUM_GROUPS", -1]
    assert load_config(None, pairs).MODEL.GROUP_NORM.DIM_PER_GP == 8
