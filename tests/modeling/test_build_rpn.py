from typing import NamedTuple

import pytest

from detengine.config.load import load_config
from detengine.modeling.build_rpn import build_rpn


class Maps(NamedTuple):
    """What `build_rpn` reads of a backbone."""

    strides: tuple[int, ...]
    out_channels: int = 16


@pytest.mark.parametrize("conventions", ["modern", "maskrcnn_benchmark"])
def test_one_level_has_all_sizes_and_is_not_cut_twice(conventions):
    overrides = {
        "CONVENTIONS": conventions,
        "MODEL.BACKBONE.CONV_BODY": "R-50-C4",
        "MODEL.RPN.USE_FPN": "False",
        "MODEL.ROI_HEADS.USE_FPN": "False",
        "MODEL.RPN.ANCHOR_STRIDE": "(16,)",
        "MODEL.ROI_BOX_HEAD.POOLER_SCALES": "(0.0625,)",
        "MODEL.ROI_MASK_HEAD.POOLER_SCALES": "(0.0625,)",
        "MODEL.ROI_KEYPOINT_HEAD.POOLER_SCALES": "(0.0625,)",
    }
    rpn = build_rpn(
        load_config(None, [part for pair in overrides.items() for part in pair]), Maps((16,))
    )
    assert rpn.anchor_generator.anchors_per_cell == 15
    assert rpn.head.cls_logits.out_channels == 15
    for limits in (rpn.train_limits, rpn.test_limits):
        assert (limits.of_image, limits.of_batch) == (None, None)


@pytest.mark.parametrize(
    ("overrides", "train", "test"),
    [
        (["CONVENTIONS", "modern"], (2000, 2000, 2000, None), (1000, 1000, 1000, None)),
        ([], (12000, 2000, None, 2000), (6000, 1000, 2000, None)),
        (
            ["MODEL.RPN.FPN_POST_NMS_PER_BATCH", "False", "MODEL.RPN.POST_NMS_TOP_N_TRAIN", "9"],
            (12000, 9, 2000, None),
            (6000, 1000, 2000, None),
        ),
    ],
)
def test_the_keys_of_the_limits_mean_what_they_meant(overrides, train, test):
    strides = (4, 8, 16, 32, 64)
    rpn = build_rpn(load_config(None, [*pyramid(strides), *overrides]), Maps(strides))
    assert tuple(rpn.train_limits) == train
    assert tuple(rpn.test_limits) == test


def pyramid(strides: tuple[int, ...]) -> list[str]:
    overrides = {
        "MODEL.BACKBONE.CONV_BODY": "R-50-FPN",
        "MODEL.RPN.USE_FPN": "True",
        "MODEL.ROI_HEADS.USE_FPN": "True",
        "MODEL.RPN.ANCHOR_STRIDE": str(strides),
        "MODEL.RPN.ANCHOR_SIZES": str(tuple(8 * stride for stride in strides)),
    }
    return [part for pair in overrides.items() for part in pair]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_head_has_as_many_convolutions_as_asked_for(count: int) -> None:
    strides = (4, 8, 16, 32, 64)
    overrides = ["MODEL.RPN.NUM_CONVS", str(count)]
    head = build_rpn(load_config(None, [*pyramid(strides), *overrides]), Maps(strides)).head
    assert len(head.conv) == count


def test_strides_that_are_not_the_backbones_are_refused() -> None:
    cfg = load_config(None, pyramid((4, 8, 16, 32, 64)))
    with pytest.raises(
        ValueError, match=r"\[4, 8, 16, 32, 64\], but.*R-50-FPN have.*\[4, 8\]; give"
    ):
        build_rpn(cfg, Maps((4, 8)))
