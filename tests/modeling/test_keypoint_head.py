from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models.detection.roi_heads import heatmaps_to_keypoints, keypointrcnn_loss

from detengine.modeling.keypoint_head import decode_heatmaps, keypoint_loss
from detengine.modeling.matching import RoISamples

RECORDED = Path(__file__).parents[2] / "../shared/golden/small/keypoints.npz"


def random_boxes(count: int) -> torch.Tensor:
    corner = torch.rand(count, 2) * 50
    return torch.cat([corner, corner + 0.3 + torch.rand(count, 2) * 60], dim=1)


def make_samples(boxes: torch.Tensor) -> RoISamples:
    """Every box of one image is a positive, and stands for the object of its own place."""
    rois = torch.cat([torch.zeros(len(boxes), 1), boxes], dim=1)
    labels = torch.ones(len(boxes), dtype=torch.int64)
    return RoISamples(rois, labels, boxes, [torch.arange(len(boxes))])


def make_target(boxes: torch.Tensor, joints: int) -> dict[str, torch.Tensor]:
    """Keypoints inside of their boxes, about half of them visible, at least one of each object."""
    inside = boxes[:, None, :2] + torch.rand(len(boxes), joints, 2) * (
        boxes[:, None, 2:] - boxes[:, None, :2]
    )
    visible = (torch.rand(len(boxes), joints, 1) < 0.5).float() * 2
    visible[:, 0] = 2
    return {"boxes": boxes, "keypoints": torch.cat([inside, visible], dim=2)}


@pytest.mark.skipif(not RECORDED.exists(), reason="../shared is absent")
def test_heatmaps_are_decoded_as_the_predecessor_decoded_them() -> None:
    stored = np.load(RECORDED)
    heatmaps = torch.from_numpy(stored["heatmaps_f16"].astype(np.float32))
    points, heights = decode_heatmaps(heatmaps, torch.from_numpy(stored["rois"]))
    assert torch.allclose(points, torch.from_numpy(stored["keypoints_xyv"]), rtol=0, atol=1e-4)
    assert torch.allclose(heights, torch.from_numpy(stored["keypoint_scores"]), rtol=0, atol=1e-5)


def test_heatmaps_are_decoded_as_torchvision_decodes_them() -> None:
    torch.manual_seed(0)
    heatmaps, boxes = torch.randn(9, 5, 14, 14), random_boxes(9)
    points, heights = decode_heatmaps(heatmaps, boxes)
    their_points, their_heights = heatmaps_to_keypoints(heatmaps, boxes)
    assert torch.allclose(points, their_points, rtol=0, atol=1e-5)
    assert torch.equal(heights, their_heights)


def test_no_boxes_have_no_keypoints() -> None:
    points, heights = decode_heatmaps(torch.zeros(0, 5, 14, 14), torch.zeros(0, 4))
    assert points.shape == (0, 5, 3)
    assert heights.shape == (0, 5)


def test_the_loss_is_torchvisions() -> None:
    torch.manual_seed(0)
    boxes = random_boxes(6)
    target, heatmaps = make_target(boxes, 4), torch.randn(6, 4, 14, 14)
    ours = keypoint_loss(heatmaps, make_samples(boxes), [target])
    theirs = keypointrcnn_loss(heatmaps, [boxes], [target["keypoints"]], [torch.arange(6)])
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)


def test_an_object_whose_visible_keypoints_all_lie_outside_of_its_box_teaches_nothing() -> None:
    torch.manual_seed(0)
    boxes = random_boxes(2)
    target, heatmaps = make_target(boxes, 4), torch.randn(2, 4, 14, 14)
    alone = keypoint_loss(heatmaps[:1], make_samples(boxes[:1]), [make_first(target)])
    target["keypoints"][1, :, :2] = boxes[1, 2:] + 10
    assert torch.equal(keypoint_loss(heatmaps, make_samples(boxes), [target]), alone)


def make_first(target: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: values[:1] for name, values in target.items()}


def test_without_a_positive_the_loss_is_zero_and_has_a_gradient() -> None:
    heatmaps = torch.randn(0, 4, 14, 14, requires_grad=True)
    loss = keypoint_loss(
        heatmaps, make_samples(torch.zeros(0, 4)), [make_target(torch.zeros(0, 4), 4)]
    )
    loss.backward()
    assert loss.item() == 0
    assert heatmaps.grad is not None


def test_an_image_of_a_data_set_without_any_object_teaches_nothing() -> None:
    boxes = torch.zeros(0, 4)
    without = {"boxes": boxes, "keypoints": torch.zeros(0, 0, 3)}
    loss = keypoint_loss(torch.zeros(0, 4, 14, 14), make_samples(boxes), [without])
    assert loss.item() == 0


def test_targets_without_keypoints_or_with_another_number_of_them_are_an_error() -> None:
    samples, heatmaps = make_samples(random_boxes(1)), torch.zeros(1, 4, 14, 14)
    with pytest.raises(ValueError, match=r"the targets have no keypoints.*KEYPOINT_ON False"):
        keypoint_loss(heatmaps, samples, [{"boxes": torch.zeros(1, 4)}])
    with pytest.raises(ValueError, match=r"3 keypoints each.*predicts 4.*NUM_CLASSES to 3"):
        keypoint_loss(heatmaps, samples, [make_target(random_boxes(1), 3)])
