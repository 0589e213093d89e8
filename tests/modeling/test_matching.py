import pytest
import torch
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, Matcher
from torchvision.ops import box_iou

from detengine.modeling.boxes import ContinuousBoxes, pairwise_iou
from detengine.modeling.matching import (
    BACKGROUND,
    match_boxes,
    sample_balanced,
    sample_rois,
)


def test_without_ground_truth_every_box_is_background():
    matched = match_boxes(torch.rand(5, 4), torch.empty(0, 4), Matcher(0.5, 0.5), ContinuousBoxes())
    assert matched.tolist() == [BACKGROUND] * 5


@pytest.mark.parametrize(
    ("positives", "ignored", "negatives"), [(50, 9, 80), (3, 0, 200), (0, 0, 5)]
)
def test_a_seed_draws_the_samples_of_torchvisions_sampler(positives, ignored, negatives):
    matched = torch.tensor([4] * positives + [-2] * ignored + [BACKGROUND] * negatives)
    matched = matched[torch.randperm(len(matched))]
    labels = torch.where(matched >= 0, 1, torch.where(matched == BACKGROUND, 0, -1))
    torch.manual_seed(3)
    theirs = BalancedPositiveNegativeSampler(64, 0.25)([labels])
    torch.manual_seed(3)
    ours = sample_balanced(matched, 64, 0.25)
    for index, (mask,) in zip(ours, theirs, strict=True):
        assert index.sort().values.tolist() == mask.nonzero()[:, 0].tolist()


def test_samples_put_the_positives_of_all_images_first():
    truth = torch.tensor([[0.0, 0, 10, 10], [20.0, 20, 40, 40]])
    far = torch.tensor([[60.0, 60, 70, 70]])
    targets = [
        {"boxes": truth[:1], "labels": torch.tensor([3])},
        {"boxes": truth, "labels": torch.tensor([1, 2])},
    ]
    samples = sample_rois(
        [far, far],
        targets,
        Matcher(0.5, 0.5),
        ContinuousBoxes(),
        samples_per_image=8,
        positive_fraction=0.5,
    )
    order = samples.rois[:3, 0].tolist()
    assert order == [0, 1, 1]
    assert samples.rois[3:, 0].tolist() == [0, 1]
    assert samples.labels[0] == 3
    assert sorted(samples.labels[1:3].tolist()) == [1, 2]
    assert samples.labels[3:].tolist() == [0, 0]
    assert torch.equal(samples.rois[:3, 1:], samples.matched_boxes)
    assert torch.equal(truth[samples.matched_index[1]], samples.matched_boxes[1:])


def test_pairwise_iou_is_torchvisions_to_the_last_bit():
    torch.manual_seed(0)
    corners = torch.rand(60, 2, 2) * 100
    boxes = torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)
    boxes[17, 2:] = boxes[17, :2]  # without area
    assert torch.equal(pairwise_iou(boxes[:20], boxes[18:]), box_iou(boxes[:20], boxes[18:]))
