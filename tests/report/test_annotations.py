"""What is drawn of annotations: boxes, masks, and what is set aside."""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from detengine.report.annotations import Annotations, draw_annotations
from detengine.structures.rle import RLE

GREY = torch.full((3, 500, 600), 128, dtype=torch.uint8)
BOXES = torch.tensor([[50.0, 60.0, 150.0, 160.0], [300.0, 200.0, 500.0, 400.0]])
LABELS = torch.tensor([1, 2])
NAMES = ("cat", "dog")


def draw(annotations: Annotations, image: torch.Tensor = GREY) -> NDArray[np.int64]:
    picture = draw_annotations(image, annotations, NAMES, [0, 1])
    return np.asarray(picture).astype(np.int64)


def is_grey(pixels: NDArray[np.int64]) -> bool:
    return bool((pixels.max(axis=-1) - pixels.min(axis=-1)).max() <= 16)


def test_boxes_are_drawn_where_there_are_no_masks() -> None:
    pixels = draw(Annotations(BOXES, LABELS, ["", ""]))
    assert not is_grey(pixels[200:400, 299:302])
    assert (pixels[250:390, 350:450] == 128).all()


def test_masks_are_drawn_inside_of_their_boxes() -> None:
    masks = torch.zeros(2, 500, 600, dtype=torch.uint8)
    masks[1, 220:380, 320:480] = 1
    pixels = draw(Annotations(BOXES, LABELS, ["", ""], masks))
    assert not is_grey(pixels[250:350, 350:450])
    assert not is_grey(pixels[200:400, 299:302])
    assert (pixels[90:140, 60:140] == 128).all()  # an empty mask


def test_what_is_set_aside_is_hatched_in_grey_and_has_no_colour() -> None:
    pixels = draw(Annotations(BOXES, LABELS, ["", "crowd"]))
    inside = pixels[250:390, 310:490]
    assert is_grey(inside)
    assert inside.std() > 1
    assert not is_grey(pixels[60:160, 49:52])


def test_of_a_crowd_with_a_mask_only_that_is_hatched() -> None:
    rles: list[RLE] = [
        {"size": [500, 600], "counts": b""},
        {"size": [500, 600], "counts": _half_of_the_second_box()},
    ]
    pixels = draw(Annotations(BOXES, LABELS, ["", "crowd"], rles))
    assert (pixels[250:390, 420:490] == 128).all()
    assert (pixels[250:390, 310:390] != 128).any()


def _half_of_the_second_box() -> bytes:
    from pycocotools import mask as coco_mask

    mask = np.zeros((500, 600), dtype=np.uint8, order="F")
    mask[200:400, 300:400] = 1
    return bytes(coco_mask.encode(mask)["counts"])


def test_an_image_without_annotations_is_shown_as_it_is() -> None:
    nothing = Annotations(torch.empty(0, 4), torch.empty(0, dtype=torch.int64), [])
    assert (draw(nothing) == 128).all()


def test_tiny_images_and_boxes_without_area_can_be_drawn() -> None:
    tiny = torch.zeros(3, 2, 3, dtype=torch.uint8)
    boxes = torch.tensor([[0.0, 0.0, 0.0, 2.0], [1.0, 0.0, 3.0, 1.0]])
    picture = draw_annotations(tiny, Annotations(boxes, LABELS, ["", "crowd"]), NAMES, [0, 1])
    assert isinstance(picture, Image.Image)
    assert picture.height == 480
