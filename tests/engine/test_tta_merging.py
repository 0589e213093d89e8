"""Views seen by a model that gives detections and nothing before them: which ones stay, and how."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from detengine.config.load import load_config
from detengine.config.schema import Config
from detengine.data.keypoints import COCO_PERSON_MIRROR
from detengine.engine.build import build_test_time_augmentation
from detengine.engine.predictor import Predictor
from detengine.engine.tta_merging import TORCHVISION_LIMITS, DetectionMerging, WayBack
from detengine.modeling.boxes import ContinuousBoxes

PLAIN = ["INPUT.MIN_SIZE_TEST", "40", "INPUT.RESIZE", "torch"]
MIRRORED = [*PLAIN, "TEST.BBOX_AUG.ENABLED", "True", "TEST.BBOX_AUG.H_FLIP", "True"]
MANY = [*MIRRORED, "TEST.BBOX_AUG.SCALES", "(80, 120)", "TEST.BBOX_AUG.SCALE_H_FLIP", "True"]
SIDES = (1, 0)
FIELDS = ("boxes_xyxy", "scores", "labels", "mask_probs", "keypoints", "keypoint_scores")


class TwoColours(nn.Module):
    """Finds what is bright: its box, its red part as the mask, and its first and last pixel.

    These are two keypoints, the one on the picture's left called left, and a red one is certain. It
    is surest of large images, and of those with red on the right.
    """

    takes_uint8 = True

    def __init__(self, *, inclusive_pixels: bool = False) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.beyond = 0 if inclusive_pixels else 1

    def forward(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        return [self._found(image > 127) for image in images]

    def _found(self, bright: Tensor) -> dict[str, Tensor]:
        any_colour = bright.any(0)
        if not any_colour.any():
            return {name: each[:0] for name, each in self._found(~bright).items()}
        rows, columns = (any_colour.any(axis).nonzero()[:, 0].tolist() for axis in (1, 0))
        (top, *_, bottom), (left, *_, right) = rows, columns
        is_red = bright[0, (top + bottom) // 2, torch.linspace(left, right, 4).long()].float()
        box = [left, top, right + self.beyond, bottom + self.beyond]
        return {
            "boxes": torch.tensor([box], dtype=torch.float32),
            "scores": bright.shape[2] / 1000 + is_red[-1:] / 100,
            "labels": torch.tensor([1]),
            "mask_probs": is_red.expand(1, 4, 4),
            "keypoints": torch.tensor([[[left, top, 1.0], [right, top, 1.0]]]),
            "keypoints_scores": is_red[None, [0, -1]],
            "of_its_own": torch.zeros(1, 7),
        }


def _picture() -> NDArray[np.uint8]:
    """60 x 40; a rectangle from (8, 10) up to (24, 36), its left half red, its right half green."""
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[10:36, 8:16, 0] = 255
    picture[10:36, 16:24, 1] = 255
    return picture


def _config(options: Sequence[str], *, inclusive_pixels: bool = False) -> Config:
    arithmetic = ["MODEL.ARITHMETIC.INCLUSIVE_PIXELS", str(inclusive_pixels)]
    return load_config(None, ["CONVENTIONS", "modern", *options, *arithmetic])


def _fields(found: Any) -> dict[str, Tensor]:
    return {name: getattr(found, name) for name in FIELDS}


def test_the_image_itself_as_the_only_view_gives_what_the_model_gives() -> None:
    pictures = [_picture(), _picture()[:, ::-1], np.zeros_like(_picture())]
    plain = Predictor(_config(PLAIN), TwoColours())(pictures)
    views = Predictor(_config([*PLAIN, "TEST.BBOX_AUG.ENABLED", "True"]), TwoColours())(pictures)
    assert [len(each) for each in views] == [1, 1, 0]
    for one, other in zip(plain, views, strict=True):
        for name, values in _fields(one).items():
            assert torch.equal(values, getattr(other, name)), name


@pytest.mark.parametrize("inclusive_pixels", [False, True])
def test_what_is_found_in_the_mirror_is_given_as_if_it_were_found_without(
    inclusive_pixels: bool,
) -> None:
    model = TwoColours(inclusive_pixels=inclusive_pixels)
    (plain,) = Predictor(_config(PLAIN), model)([_picture()])
    cfg = _config(MIRRORED, inclusive_pixels=inclusive_pixels)
    (found,) = Predictor(cfg, model, keypoint_flip=SIDES)([_picture()])
    assert found.scores.tolist() == pytest.approx([0.07])  # red is on the right: the mirror's
    assert plain.scores.tolist() == pytest.approx([0.06])
    for name, values in _fields(plain).items():
        assert name == "scores" or torch.equal(values, getattr(found, name)), name
    assert found.mask_probs is not None
    assert found.mask_probs[0, 0].tolist() == [1, 1, 0, 0]


def test_of_one_object_in_many_views_the_best_stays_with_its_own_mask_and_points() -> None:
    (found,) = Predictor(_config(MANY), TwoColours(), keypoint_flip=SIDES)([_picture()])
    assert found.scores.tolist() == pytest.approx([0.18 + 0.01])  # 180 pixels wide, mirrored
    expected = {"boxes_xyxy": [[8, 10, 24, 36]], "keypoints": [[[8, 10, 1], [23, 10, 1]]]}
    for name, values in expected.items():
        assert (getattr(found, name) - torch.tensor(values)).abs().max() <= 0.7
    assert found.mask_probs is not None
    assert found.mask_probs[0, 0].tolist() == [1, 1, 0, 0]
    assert found.keypoint_scores is not None
    assert found.keypoint_scores.tolist() == [[1, 0]]


def test_views_without_detections_take_none_from_the_others() -> None:
    class OnlyLarge(TwoColours):
        def forward(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
            return super().forward([image * (image.shape[2] > 150) for image in images])

    black = np.zeros_like(_picture())
    some, none = Predictor(_config(MANY), OnlyLarge(), keypoint_flip=SIDES)([_picture(), black])
    assert len(some) == 1
    assert len(none) == 0
    assert none.mask_probs is not None
    assert none.mask_probs.shape == (0, 4, 4)


# What stays, by the configuration


class ThreeBoxes(nn.Module):
    """The same three in every view: two of one class with an IoU of 0.6, one of another class."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 6], [0, 0, 10, 10]])
        scores, labels = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([1, 1, 2])
        return [{"boxes": boxes, "scores": scores, "labels": labels} for _ in images]


@pytest.mark.parametrize(
    ("options", "labels"),
    [
        ([], [1, 2]),
        (["MODEL.ROI_HEADS.NMS", "0.61"], [1, 1, 2]),
        (["MODEL.ROI_HEADS.NMS", "0.61", "MODEL.ROI_HEADS.DETECTIONS_PER_IMG", "2"], [1, 1]),
        (["MODEL.RETINANET.NMS_TH", "0.61"], [1, 2]),
        (["MODEL.RETINANET_ON", "True", "MODEL.RETINANET.NMS_TH", "0.61"], [1, 1, 2]),
        (["MODEL.RETINANET_ON", "True", "TEST.DETECTIONS_PER_IMG", "1"], [1]),
    ],
)
def test_the_models_own_keys_say_what_suppresses_and_how_many_stay(
    options: list[str], labels: list[int]
) -> None:
    same_twice = ["TEST.BBOX_AUG.SCALES", "(40,)", "TEST.BBOX_AUG.ENABLED", "True"]
    cfg = _config([*PLAIN, "MODEL.BUILDER", "users:model", *same_twice, *options])
    (found,) = Predictor(cfg, ThreeBoxes())([_picture()])
    assert found.labels is not None
    assert found.labels.tolist() == labels


def test_a_single_view_has_no_duplicates_and_nothing_of_it_is_left_out() -> None:
    for one_view in (PLAIN, [*PLAIN, "TEST.BBOX_AUG.ENABLED", "True"]):
        cfg = _config([*one_view, "MODEL.ROI_HEADS.DETECTIONS_PER_IMG", "2"])
        assert len(Predictor(cfg, ThreeBoxes())([_picture()])[0]) == 3


def test_ties_are_kept_beyond_the_limit_where_the_configuration_says_so() -> None:
    options = [*MIRRORED, "MODEL.ROI_HEADS.NMS", "0.99", "MODEL.ROI_HEADS.DETECTIONS_PER_IMG", "1"]
    for keep_ties, count in (("True", 2), ("False", 1)):
        cfg = _config([*options, "MODEL.ARITHMETIC.KEEP_TIES", keep_ties])
        (found,) = Predictor(cfg, ThreeBoxes())([_picture()])
        assert len(found) == count  # the mirror's boxes are elsewhere


# What cannot be merged


def test_keypoints_whose_sides_are_not_known_are_refused_in_a_mirror_only() -> None:
    scales = [*PLAIN, "TEST.BBOX_AUG.ENABLED", "True", "TEST.BBOX_AUG.SCALES", "(80,)"]
    assert len(Predictor(_config(scales), TwoColours())([_picture()])[0]) == 1
    with pytest.raises(ValueError, match=r"the model's 2 keypoints are left and right is not know"):
        Predictor(_config(MIRRORED), TwoColours())([_picture()])


def test_a_data_set_that_names_no_sides_is_refused_before_anything_is_seen() -> None:
    cfg = _config([*MIRRORED, "MODEL.KEYPOINT_ON", "True", "MODEL.BUILDER", "users:model"])
    with pytest.raises(
        ValueError, match=r"data set's keypoints are left .*BBOX_AUG\.H_FLIP and .* False"
    ):
        build_test_time_augmentation(cfg, TwoColours(), keypoint_flip=None)


def test_detections_without_classes_are_refused_with_the_key() -> None:
    class Proposals(ThreeBoxes):
        def forward(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
            kept = ("boxes", "scores")
            return [{name: each[name] for name in kept} for each in super().forward(images)]

    with pytest.raises(
        ValueError, match=r"of Proposals have no labels \(only boxes, scores\).*Set TEST\.BBOX_AUG"
    ):
        Predictor(_config(MIRRORED), Proposals())([_picture()])


# One step of it


@pytest.mark.parametrize("inclusive_pixels", [False, True])
def test_mirrored_twice_is_as_before(inclusive_pixels: bool) -> None:
    way = WayBack(True, (40, 60), (40, 60), (40, 60), inclusive_pixels)
    merging = DetectionMerging(
        nn.Module(), ContinuousBoxes(), TORCHVISION_LIMITS, COCO_PERSON_MIRROR
    )
    generator = torch.Generator().manual_seed(0)
    found = {
        "boxes": torch.randint(0, 40, (5, 4), generator=generator).float(),
        "mask_probs": torch.rand(5, 28, 28, generator=generator),
        "keypoints": torch.randint(0, 40, (5, 17, 3), generator=generator).float(),
        "keypoints_scores": torch.rand(5, 17, generator=generator),
    }
    once = merging.bring_back(found, way)
    twice = merging.bring_back(once, way)
    for name, values in found.items():
        assert not torch.equal(once[name], values)
        assert torch.equal(twice[name], values)


def test_a_mirrored_keypoint_is_where_training_mirrors_it() -> None:
    """A pixel of the stored image, 60 wide, seen at twice its size."""
    at_pixel = torch.tensor([[[2 * 8.0, 5.0, 1.0]]])
    continuous = WayBack(True, (80, 120), (40, 60), (40, 60), inclusive_pixels=False)
    assert continuous.keypoints(at_pixel).tolist() == [[[59 - 8, 2.5, 1.0]]]
    inclusive = WayBack(True, (80, 120), (80, 120), (40, 60), inclusive_pixels=True)
    assert inclusive.keypoints(at_pixel).tolist() == [[[119 - 16, 5.0, 1.0]]]
