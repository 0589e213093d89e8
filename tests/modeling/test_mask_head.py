import torch
from torchvision.models.detection.roi_heads import paste_masks_in_image

from detengine.modeling.mask_head import MaskPixelPredictor, of_own_class, paste_masks


def test_the_pixel_predictor_leaves_maps_as_large_as_they_are() -> None:
    assert MaskPixelPredictor(8, 5)(torch.randn(3, 8, 12, 12)).shape == (3, 5, 12, 12)


def test_each_region_keeps_the_mask_of_its_own_class() -> None:
    logits = torch.arange(24.0).view(2, 3, 2, 2)
    assert torch.equal(of_own_class(logits, torch.tensor([2, 0])), logits[[0, 1], [2, 0]])


def test_masks_are_pasted_where_their_probability_exceeds_the_threshold() -> None:
    probs, boxes = torch.rand(3, 28, 28), torch.tensor([[2.0, 3, 30, 20]]).repeat(3, 1)
    pasted = paste_masks(probs, boxes, (40, 50), 0.3)
    assert pasted.dtype == torch.bool
    assert torch.equal(pasted, paste_masks_in_image(probs[:, None], boxes, (40, 50)) > 0.3)
