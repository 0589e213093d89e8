import pytest
import torch

from detengine.structures.mask_encoding import encode_mask_probs
from detengine.structures.prediction import Prediction


def _output(**more):
    boxes = torch.tensor([[10.0, 20.0, 30.0, 60.0]])
    return {"boxes": boxes, "scores": torch.tensor([0.5]), "labels": torch.tensor([2]), **more}


def test_boxes_and_keypoints_are_rescaled_to_the_original_image():
    keypoints = torch.tensor([[[10.0, 20.0, 1.0]]])
    output = _output(keypoints=keypoints, keypoints_scores=torch.tensor([[3.0]]))
    prediction = Prediction.from_output(output, image_size=(100, 200), original_size=(50, 600))
    assert prediction.boxes_xyxy.tolist() == [[30.0, 10.0, 90.0, 30.0]]
    assert prediction.keypoints is not None
    assert prediction.keypoints.tolist() == [[[30.0, 10.0, 1.0]]]
    assert prediction.size == (50, 600)
    assert len(prediction) == 1


def test_what_the_model_says_besides_is_left_out():
    output = _output(features=[1, 2], masks=torch.ones(1, 1, 100, 200))
    prediction = Prediction.from_output(output, (100, 200), (100, 200))
    assert prediction.boxes_xyxy.tolist() == output["boxes"].tolist()
    assert prediction.mask_probs is None
    assert prediction.encoded() is prediction


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_output_is_rescaled_in_single_precision(dtype):
    output = {k: v.to(dtype) if k != "labels" else v for k, v in _output().items()}
    output["keypoints"] = torch.tensor([[[10.0, 20.0, 1.0]]], dtype=dtype)
    prediction = Prediction.from_output(output, image_size=(300, 300), original_size=(301, 301))
    scale = torch.tensor(301 / 300)
    assert prediction.boxes_xyxy.dtype == prediction.scores.dtype == torch.float32
    assert torch.equal(prediction.boxes_xyxy, torch.tensor([[10.0, 20.0, 30.0, 60.0]]) * scale)
    assert prediction.keypoints is not None
    assert prediction.keypoints[0, 0, 0] == 10 * scale


def test_encoding_replaces_the_mask_probabilities_by_masks_of_the_original_image():
    mask_probs = torch.rand(1, 28, 28, generator=torch.Generator().manual_seed(0))
    prediction = Prediction.from_output(_output(mask_probs=mask_probs), (100, 200), (50, 600))
    encoded = prediction.encoded()
    assert encoded.mask_probs is None
    assert encoded.rles == encode_mask_probs(mask_probs, prediction.boxes_xyxy, (50, 600))


def test_inclusive_boxes_are_opened_by_a_pixel_and_their_masks_stay():
    mask_probs = torch.rand(1, 28, 28, generator=torch.Generator().manual_seed(0))
    prediction = Prediction.from_output(_output(mask_probs=mask_probs), (100, 200), (50, 600))
    opened = prediction.opened()
    expected = prediction.boxes_xyxy + torch.tensor([0.0, 0.0, 1.0, 1.0])
    assert torch.equal(opened.boxes_xyxy, expected)
    assert opened.rles == prediction.encoded().rles
    assert opened.mask_probs is None


def test_an_inclusive_box_of_less_than_a_pixel_is_opened_to_nothing_and_never_inside_out():
    """At twice the size a width of 0.25 is x2 - x1 = -0.75, which is -1.5 in the original."""
    output = {"boxes": torch.tensor([[10.0, 20.0, 9.25, 24.0]]), "scores": torch.ones(1)}
    opened = Prediction.from_output(output, (50, 50), (100, 100)).opened()
    assert opened.boxes_xyxy.tolist() == [[20.0, 40.0, 20.0, 49.0]]
