import copy

import pytest
import torch
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.roi_heads import paste_masks_in_image

from detengine.modeling.adapters import adapt, read_masks_back
from detengine.modeling.build import build_detection_model


@pytest.fixture
def stock_model(calibrate):
    torch.manual_seed(0)
    model = MaskRCNN(
        resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=5),
        num_classes=4,
        rpn_post_nms_top_n_train=100,
        rpn_post_nms_top_n_test=50,
        min_size=96,
        max_size=200,
    )
    calibrate(model)
    return model


def test_a_stock_model_trains_on_our_images_and_targets(stock_model, images, make_targets):
    targets = make_targets(images, [3, 0])
    dense = [
        {"boxes": t["boxes"], "labels": t["labels"], "masks": t["masks"].dense()} for t in targets
    ]
    torch.manual_seed(1)
    theirs = copy.deepcopy(stock_model)([image / 255 for image in images], dense)
    torch.manual_seed(1)
    ours = adapt(stock_model)(images, targets=targets)
    assert ours == theirs
    assert "image_size" in targets[0]


def test_a_stock_models_detections_come_with_square_masks(stock_model, images):
    with torch.no_grad():
        theirs = copy.deepcopy(stock_model).eval()([image / 255 for image in images])
        ours = adapt(stock_model).eval()(images)
    for their, our in zip(theirs, ours, strict=True):
        assert set(our) == {"boxes", "scores", "labels", "mask_probs"}
        assert torch.equal(our["boxes"], their["boxes"])
        assert our["mask_probs"].shape == (len(our["boxes"]), 28, 28)
        assert len(our["boxes"]) > 5


def test_the_parameters_keep_their_names_and_a_model_is_adapted_once(stock_model):
    names = list(stock_model.state_dict())
    adapted = adapt(adapt(stock_model))
    assert list(adapted.state_dict()) == names
    assert len(adapted._forward_hooks) == 1


def test_our_own_models_are_left_alone(make_config, narrow):
    assert not adapt(build_detection_model(make_config(narrow)))._forward_hooks


def iou(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    inside, others = first >= 0.5, second >= 0.5
    return (inside & others).sum((1, 2, 3)) / (inside | others).sum((1, 2, 3))


@pytest.mark.parametrize(("side", "least"), [(10, 0.85), (30, 0.95), (200, 0.99)])
def test_masks_read_back_and_pasted_again_are_the_same(side, least):
    torch.manual_seed(0)
    size, count = (260, 300), 40
    extent = side * (1 + 0.5 * torch.rand(count, 2)).clamp(max=250 / side)
    corner = torch.rand(count, 2) * (torch.tensor([300, 260]) - extent)
    boxes = torch.cat([corner, corner + extent], dim=1)
    axis = torch.linspace(-1, 1, 28)
    blob = 4 - 5 * (axis[:, None] ** 2 + axis[None, :] ** 2)
    bumps = torch.nn.functional.interpolate(torch.randn(count, 1, 5, 5), size=28, mode="bicubic")
    pasted = paste_masks_in_image((blob + 2 * bumps).sigmoid(), boxes, size)
    again = paste_masks_in_image(read_masks_back(pasted, boxes)[:, None], boxes, size)
    assert iou(pasted, again).min() > least


def test_no_masks_are_read_back_as_none():
    assert read_masks_back(torch.empty(0, 1, 20, 20), torch.empty(0, 4)).shape == (0, 28, 28)
