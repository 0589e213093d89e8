import pytest
import torch
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from detengine.modeling.preprocess import Preprocess

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_the_batch_is_torchvisions_to_the_last_bit(images):
    theirs = GeneralizedRCNNTransform(1, 1, list(MEAN), list(STD))
    normalized = [theirs.normalize(image / 255) for image in images]
    batch, sizes = Preprocess(MEAN, STD, 32)(images)
    assert torch.equal(batch, theirs.batch_images(normalized, 32))
    assert sizes == [(96, 140), (120, 96)]
    assert batch.shape == (2, 3, 128, 160)


def test_it_adds_nothing_to_the_state_dict():
    assert not Preprocess(MEAN, STD, 32).state_dict()


@pytest.mark.parametrize(
    ("image", "given"),
    [
        (torch.rand(3, 8, 8), r"image 1 .* float32\[3, 8, 8\]"),
        (torch.zeros(8, 8, dtype=torch.uint8), r"image 1 .* uint8\[8, 8\]"),
        (torch.zeros(1, 8, 8, dtype=torch.uint8), r"image 1 .* uint8\[1, 8, 8\]"),
        (torch.zeros(3, 0, 8, dtype=torch.uint8), r"image 1 .* uint8\[3, 0, 8\]"),
    ],
)
def test_what_is_not_a_uint8_rgb_image_is_refused(image, given):
    good = torch.zeros(3, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match=given + r".* takes uint8\[3, height, width\]"):
        Preprocess(MEAN, STD, 32)([good, image])
