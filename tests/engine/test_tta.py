"""Several views of an image: where each one's boxes land, and which models can merge them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detengine.config.load import load_config
from detengine.data.transforms import make_resize
from detengine.engine import tta
from detengine.engine.build import build_test_time_augmentation, make_views
from detengine.engine.predictor import Predictor

GOLDEN = Path(__file__).parents[2] / "../shared/golden"


class Found(NamedTuple):
    """As `modeling.roi_heads.ClassBoxes`."""

    boxes: Tensor
    scores: Tensor


class BrightBox(nn.Module):
    """Finds the bright pixels of an image: their box, surer of it the larger the image is."""

    def __init__(self, *, inclusive_pixels: bool = False) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.beyond = 0 if inclusive_pixels else 1

    def forward(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        return self.finish(*self.predict_class_boxes(images))

    def predict_class_boxes(self, images: Sequence[Tensor]) -> tuple[list[int], list[Found]]:
        return [image.shape[2] for image in images], [self._found(image) for image in images]

    def _found(self, image: Tensor) -> Found:
        bright = image[0] > 127
        rows, columns = bright.any(1).nonzero()[:, 0], bright.any(0).nonzero()[:, 0]
        box = [columns[0], rows[0], columns[-1] + self.beyond, rows[-1] + self.beyond]
        score = image.shape[2] / 1000
        boxes = torch.tensor(box, dtype=torch.float32).expand(1, 2, 4)
        return Found(boxes, torch.tensor([[1 - score, score]]))

    def finish(self, features: list[int], class_boxes: Sequence[Found]) -> list[dict[str, Tensor]]:
        return [
            {
                "boxes": each.boxes[:, 1],
                "scores": each.scores[:, 1],
                "labels": torch.ones(len(each.scores), dtype=torch.int64),
                "keypoints": torch.tensor([[[float(width), 4.0, 1.0]]] * len(each.scores)),
            }
            for width, each in zip(features, class_boxes, strict=True)
        ]


def _image(height: int = 40, width: int = 60) -> Tensor:
    """A bright rectangle from (8, 10) up to (24, 36)."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[:, 10:36, 8:24] = 255
    return image


def _view(min_size: int, *, mirrored: bool = False) -> tta.View:
    return tta.View(make_resize("torch", (min_size,), 1000), mirrored)


def _augmented(model: nn.Module, *views: tta.View, **options: Any) -> nn.Module:
    return tta.TestTimeAugmentation(model, views, **options).eval()


def test_the_image_itself_as_the_only_view_gives_what_the_model_gives() -> None:
    options = ["CONVENTIONS", "modern", "INPUT.MIN_SIZE_TEST", "70"]
    pictures = [_image(*size).permute(1, 2, 0).numpy() for size in ((40, 60), (55, 37))]
    plain = Predictor(load_config(None, options), BrightBox())(pictures)
    views = Predictor(load_config(None, [*options, "TEST.BBOX_AUG.ENABLED", "True"]), BrightBox())(
        pictures
    )
    for one, other in zip(plain, views, strict=True):
        assert torch.equal(one.boxes_xyxy, other.boxes_xyxy)
        assert torch.equal(one.scores, other.scores)
        assert one.keypoints is not None
        assert other.keypoints is not None
        assert torch.equal(one.keypoints, other.keypoints)
        assert one.size == other.size


@pytest.mark.parametrize("inclusive_pixels", [False, True])
def test_a_mirrored_view_finds_the_same_box(inclusive_pixels: bool) -> None:
    model = BrightBox(inclusive_pixels=inclusive_pixels)
    views = (_view(40), _view(40, mirrored=True))
    (found,) = _augmented(model, *views, inclusive_pixels=inclusive_pixels)([_image()])
    expected = [8, 10, 23, 35] if inclusive_pixels else [8, 10, 24, 36]
    assert found["boxes"].tolist() == [expected, expected]


def test_boxes_of_all_sizes_meet_in_the_pixels_of_the_stored_image() -> None:
    views = [_view(size, mirrored=mirrored) for size in (80, 120, 400) for mirrored in (0, 1)]
    images = [_image(), _image(50, 50), _image(90, 38)]
    found = _augmented(BrightBox(), *views)(images)
    for each in found:
        assert each["boxes"].shape == (6, 4)
        assert (each["boxes"] - torch.tensor([8.0, 10.0, 24.0, 36.0])).abs().max() <= 0.5
    assert found[0]["scores"].tolist() == pytest.approx([0.12, 0.12, 0.18, 0.18, 0.6, 0.6])


def test_masks_and_keypoints_are_those_of_the_first_view() -> None:
    (found,) = _augmented(BrightBox(), _view(80), _view(400))([_image()])
    assert (
        found["keypoints"][:, 0].tolist() == [[60.0, 2.0, 1.0]] * 2
    )  # its width, in stored pixels


def test_the_views_of_the_predecessors_file_are_all_there() -> None:
    name = GOLDEN / "configs/test_time_aug/e2e_mask_rcnn_R_50_FPN_1x.yaml"
    if not name.exists():
        pytest.skip("../shared/golden is absent")
    views = make_views(load_config(name))
    assert len(views) == 2 + 2 * 8
    assert [view.mirrored for view in views] == [False, True] * 9
    widths = [view.of(torch.zeros(3, 48, 64, dtype=torch.uint8)).shape[2] for view in views]
    assert widths[::2] == widths[1::2] == [1066, 533, 666, 800, 933, 1200, 1333, 1466, 1600]
    long = views[-1].of(torch.zeros(3, 10, 40, dtype=torch.uint8))
    assert long.shape[1:] == (500, 2000)


def test_without_it_the_model_itself_is_used() -> None:
    model = BrightBox()
    assert build_test_time_augmentation(load_config(None), model) is model


def test_a_model_that_cannot_merge_boxes_is_refused_with_the_key(detector: nn.Module) -> None:
    cfg = load_config(None, ["TEST.BBOX_AUG.ENABLED", "True"])
    with pytest.raises(ValueError, match=r"BBOX_AUG.ENABLED is True, but ToyDetector cannot merge"):
        build_test_time_augmentation(cfg, detector)
    with pytest.raises(ValueError, match=r"Set TEST\.BBOX_AUG\.ENABLED to False"):
        Predictor(cfg, detector)


def test_training_through_the_views_is_refused() -> None:
    augmented = tta.TestTimeAugmentation(BrightBox(), [_view(40)])
    with pytest.raises(ValueError, match="does not train"):
        augmented([_image()])


def test_the_weights_are_the_models_own() -> None:
    model = BrightBox()
    assert list(_augmented(model, _view(40)).parameters()) == list(model.parameters())


def test_pictures_of_any_layout_are_seen_in_all_views() -> None:
    options = ["TEST.BBOX_AUG.ENABLED", "True", "TEST.BBOX_AUG.H_FLIP", "True",
               "TEST.BBOX_AUG.SCALES", "(50,)", "INPUT.MIN_SIZE_TEST", "40"]  # fmt: skip
    picture = np.ascontiguousarray(_image().permute(1, 2, 0).numpy())[:, ::-1]
    (found,) = Predictor(load_config(None, options), BrightBox(inclusive_pixels=True))([picture])
    assert found.boxes_xyxy[:2].tolist() == [[36, 10, 51, 35]] * 2
    assert len(found) == 3
