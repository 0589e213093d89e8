"""The whole model, against torchvision's and against its contract."""

import pytest
import torch
from torch import nn
from torchvision.models import resnet18
from torchvision.models.detection import MaskRCNN, roi_heads
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor, resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import (
    FastRCNNConvFCHead,
    FastRCNNPredictor,
    TwoMLPHead,
)
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead

from detengine.modeling.build import build_detection_model

V2 = {
    "MODEL.BACKBONE.NORM": "BN",
    "MODEL.FPN.NORM": "BN",
    "MODEL.RPN.NUM_CONVS": "2",
    "MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR": "FPNXconv1fcFeatureExtractor",
    "MODEL.ROI_BOX_HEAD.NUM_STACKED_CONVS": "2",
    "MODEL.ROI_BOX_HEAD.CONV_HEAD_DIM": "32",
    "MODEL.ROI_BOX_HEAD.NORM": "BN",
    "MODEL.ROI_MASK_HEAD.NORM": "BN",
}


@pytest.fixture(params=["v1", "v2"])
def version(request):
    """Of torchvision's model: maskrcnn_resnet50_fpn or maskrcnn_resnet50_fpn_v2."""
    return request.param


def parts_of_version(version):
    """What torchvision builds a model of, its convolutions few: backbone and heads."""
    if version == "v1":
        return {
            "backbone": resnet_fpn_backbone(
                backbone_name="resnet18", weights=None, trainable_layers=5
            ),
            "box_head": TwoMLPHead(256 * 7 * 7, 64),
            "mask_head": MaskRCNNHeads(256, (32,), 1),
        }
    batch_norm = nn.BatchNorm2d
    return {
        "backbone": _resnet_fpn_extractor(resnet18(weights=None), 5, norm_layer=batch_norm),
        "rpn_head": RPNHead(256, 3, conv_depth=2),
        "box_head": FastRCNNConvFCHead((256, 7, 7), [32, 32], [64], norm_layer=batch_norm),
        "mask_head": MaskRCNNHeads(256, [32], 1, norm_layer=batch_norm),
    }


@pytest.fixture
def torchvision_model(version, calibrate):
    """torchvision's own Mask R-CNN of the `small_heads` configuration, with random weights."""
    torch.manual_seed(0)
    model = MaskRCNN(
        **parts_of_version(version),
        rpn_post_nms_top_n_train=200,
        rpn_post_nms_top_n_test=100,
        box_predictor=FastRCNNPredictor(64, 4),
        mask_predictor=MaskRCNNPredictor(32, 32, 4),
        min_size=96,
        max_size=200,
    )
    calibrate(model)
    return model


@pytest.fixture
def our_model(make_config, small_heads, version, torchvision_model):
    overrides = small_heads | (V2 if version == "v2" else {})
    model = build_detection_model(make_config(overrides))
    model.load_state_dict(torchvision_model.state_dict())
    return model


def test_detections_are_those_of_torchvisions_mask_rcnn(
    torchvision_model, our_model, images, monkeypatch
):
    square_masks = []
    monkeypatch.setattr(
        "torchvision.models.detection.transform.paste_masks_in_image",
        lambda masks, boxes, size: square_masks.append(masks[:, 0]) or masks,
    )
    with torch.no_grad():
        theirs = torchvision_model.eval()([image / 255 for image in images])
        ours = our_model.eval()(images)
    for their, masks, our in zip(theirs, square_masks, ours, strict=True):
        assert len(our["scores"]) > 20
        assert torch.equal(our["labels"], their["labels"])
        torch.testing.assert_close(our["boxes"], their["boxes"], rtol=0, atol=1e-3)
        torch.testing.assert_close(our["scores"], their["scores"], rtol=0, atol=1e-5)
        torch.testing.assert_close(our["mask_probs"], masks, rtol=0, atol=1e-5)


def test_losses_are_those_of_torchvisions_mask_rcnn_on_the_same_draw(
    torchvision_model, our_model, images, make_targets, monkeypatch
):
    targets = make_targets(images, [5, 0])
    monkeypatch.setattr(
        roi_heads,
        "project_masks_on_boxes",
        lambda masks, boxes, index, side: masks.crop_and_resize(index, boxes, side),
    )
    # Training draws a scale first, which would move the generator; the images have theirs already.
    monkeypatch.setattr(
        torchvision_model.transform, "resize", lambda image, target: (image, target)
    )
    torch.manual_seed(7)
    theirs = torchvision_model([image / 255 for image in images], targets)
    torch.manual_seed(7)
    ours = our_model(images, targets)
    assert set(ours) == set(theirs)
    for name, loss in theirs.items():
        torch.testing.assert_close(ours[name], loss, rtol=1e-5, atol=1e-6, msg=name)
    of_theirs = dict(torchvision_model.named_buffers())
    for name, buffer in our_model.named_buffers():  # batch norm's statistics, after the step
        if name in of_theirs:
            torch.testing.assert_close(buffer, of_theirs[name], rtol=1e-5, atol=1e-6, msg=name)


def gradients(model: nn.Module) -> dict[str, torch.Tensor | None]:
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("counts", [[4, 3], [4, 0], [0, 0]])
def test_every_parameter_gets_a_finite_gradient_even_from_images_without_objects(
    make_config, narrow, images, make_targets, counts
):
    model = build_detection_model(make_config(narrow))
    losses = model(images, make_targets(images, counts))
    assert set(losses) == {
        "loss_objectness",
        "loss_rpn_box_reg",
        "loss_classifier",
        "loss_box_reg",
        "loss_mask",
    }
    sum(losses.values()).backward()
    for name, gradient in gradients(model).items():
        assert gradient is not None, name
        assert gradient.isfinite().all(), name


def test_without_objects_the_mask_loss_and_the_box_losses_are_zero(
    make_config, narrow, images, make_targets
):
    losses = build_detection_model(make_config(narrow))(images, make_targets(images, [0, 0]))
    assert losses["loss_mask"] == losses["loss_box_reg"] == losses["loss_rpn_box_reg"] == 0
    assert losses["loss_classifier"] > 0


def test_a_narrow_group_norm_model_learns_in_a_few_steps(make_config, narrow, images, make_targets):
    torch.manual_seed(0)
    model = build_detection_model(make_config(narrow))
    targets = make_targets(images, [4, 3])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    totals = []
    for _ in range(6):
        loss = sum(model(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        totals.append(loss.item())
    assert totals[-1] < 0.8 * totals[0]


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (33, 2)])
def test_an_image_may_be_smaller_than_a_stride_and_alone(make_config, narrow, size):
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    model = build_detection_model(make_config(narrow))
    with torch.no_grad():
        (detections,) = model.eval()([image])
    boxes = detections["boxes"]
    assert (boxes >= 0).all()
    assert (boxes[:, 2] <= size[1]).all()
    assert (boxes[:, 3] <= size[0]).all()
    assert detections["mask_probs"].shape == (len(boxes), 28, 28)


def test_a_model_without_mask_head_gives_no_masks(make_config, narrow, images, make_targets):
    model = build_detection_model(make_config(narrow | {"MODEL.MASK_ON": "False"}))
    targets = [{k: t[k] for k in ("boxes", "labels")} for t in make_targets(images, [2, 1])]
    assert "loss_mask" not in model(images, targets)
    with torch.no_grad():
        assert set(model.eval()(images)[0]) == {"boxes", "scores", "labels"}


def test_losses_and_detections_are_float32_under_autocast(
    make_config, narrow, images, make_targets
):
    model = build_detection_model(make_config(narrow))
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(images, make_targets(images, [3, 2]))
        with torch.no_grad():
            (first, _) = model.eval()(images)
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    sum(losses.values()).backward()
    assert {first[key].dtype for key in ("boxes", "scores", "mask_probs")} == {torch.float32}


def test_training_without_targets_says_so(make_config, narrow, images):
    model = build_detection_model(make_config(narrow))
    with pytest.raises(ValueError, match=r"training mode but got no targets.*model\.eval"):
        model(images)


def test_proposals_have_no_class_boxes_and_say_so(make_config, narrow, images):
    alone = {"MODEL.MASK_ON": "False", "MODEL.RPN_ONLY": "True"}
    model = build_detection_model(make_config(narrow | alone)).eval()
    with torch.no_grad(), pytest.raises(ValueError, match=r"MODEL\.RPN_ONLY True.*RPN_ONLY False"):
        model.predict_class_boxes(images)


def test_a_mask_head_without_masks_to_learn_from_says_so(make_config, narrow, images, make_targets):
    targets = [{k: t[k] for k in ("boxes", "labels")} for t in make_targets(images, [2, 1])]
    with pytest.raises(ValueError, match=r"targets have no masks.*MODEL\.MASK_ON False"):
        build_detection_model(make_config(narrow))(images, targets)


def test_masks_may_be_dense_as_torchvisions_are(make_config, narrow, images, make_targets):
    model = build_detection_model(make_config(narrow))
    targets = make_targets(images, [3, 2])
    dense = [target | {"masks": target["masks"].dense()} for target in targets]
    losses = []
    for given in (targets, dense):
        torch.manual_seed(0)
        losses.append(model(images, given)["loss_mask"])
    assert torch.equal(*losses)
