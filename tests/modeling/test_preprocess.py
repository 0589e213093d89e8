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


@pytest.mark.parametrize("to_bgr255", [False, True])
def test_the_memory_format_of_images_and_batch_changes_no_bit(images, to_bgr255):
    mean, std = ((103.5, 116.3, 123.7), (57.0, 1.0, 58.4)) if to_bgr255 else (MEAN, STD)
    by_plane = Preprocess(mean, std, 32, to_bgr255=to_bgr255)
    by_pixel = Preprocess(mean, std, 32, to_bgr255=to_bgr255, channels_last=True)
    expected, sizes = by_plane(images)
    assert expected.is_contiguous()
    turned = [image.permute(1, 2, 0).contiguous().permute(2, 0, 1) for image in images]
    for given in (images, turned):
        batch, own_sizes = by_pixel(given)
        assert torch.equal(batch, expected)
        assert batch.is_contiguous(memory_format=torch.channels_last)
        assert own_sizes == sizes
        assert torch.equal(by_plane(given)[0], expected)


@pytest.mark.parametrize("channels_last", [False, True])
def test_an_image_larger_than_the_cache_is_torchvisions_to_the_last_bit(channels_last):
    generator = torch.Generator().manual_seed(1)
    sizes = [(701, 467), (613, 800)]
    images = [
        torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator) for size in sizes
    ]
    theirs = GeneralizedRCNNTransform(1, 1, list(MEAN), list(STD))
    normalized = [theirs.normalize(image / 255) for image in images]
    batch, _ = Preprocess(MEAN, STD, 32, channels_last=channels_last)(images)
    assert torch.equal(batch, theirs.batch_images(normalized, 32))


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
