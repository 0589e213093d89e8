from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from detengine.report.draw import draw_prediction, truth_beside_prediction
from detengine.structures.categories import Categories
from detengine.structures.ground_truth import GroundTruth, PackedBytes
from detengine.structures.prediction import Prediction

GREY = torch.full((3, 500, 600), 128, dtype=torch.uint8)
BOXES = torch.tensor([[50.0, 60.0, 150.0, 160.0], [300.0, 200.0, 500.0, 400.0]])
LABELS = torch.tensor([1, 2])
NAMES = ("cat", "dog")


def _masks(size=(500, 600)):
    masks = torch.zeros(2, *size, dtype=torch.uint8)
    masks[0, 60:160, 50:150] = 1
    masks[1, 200:400, 300:500] = 1
    return masks


def _rles(masks):
    return [coco_mask.encode(np.asfortranarray(mask.numpy())) for mask in masks]


def _pixels(picture):
    return np.asarray(picture).astype(int)


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((256, 256), (480, 480)),
        ((20, 30), (480, 720)),
        ((1, 5000), (1, 1600)),
        ((500, 600), (500, 600)),
        ((100, 1000), (160, 1600)),
        ((3000, 4000), (1200, 1600)),
    ],
)
def test_small_images_are_enlarged_and_huge_ones_reduced(size, shown):
    image = torch.zeros(3, *size, dtype=torch.uint8)
    picture = draw_prediction(image, BOXES[:0], LABELS[:0], NAMES)
    assert (picture.height, picture.width) == shown


def test_without_objects_the_image_is_shown_as_it_is():
    image = torch.randint(0, 256, (3, 500, 600), generator=torch.Generator().manual_seed(0))
    image = image.byte()
    for masks in (None, torch.zeros(0, 500, 600)):
        picture = draw_prediction(image, BOXES[:0], LABELS[:0], NAMES, BOXES[:0, 0], masks=masks)
        assert np.array_equal(_pixels(picture), image.permute(1, 2, 0).numpy())


def test_a_mask_tints_its_inside_outlines_it_and_leaves_the_rest_alone():
    pixels = _pixels(draw_prediction(GREY, BOXES, LABELS, ("x",), masks=_masks()))
    inside, outline, outside = pixels[80, 70], pixels[110, 51], pixels[110, 30]
    assert outside.tolist() == [128, 128, 128]
    assert np.ptp(inside) > 20
    assert np.ptp(outline) > np.ptp(inside) + 30
    changed = (pixels != 128).any(axis=2)
    dense = _masks().any(dim=0).numpy()
    assert (changed == dense).mean() > 0.995


def test_boxes_are_drawn_where_there_are_no_masks():
    pixels = _pixels(draw_prediction(GREY, BOXES, LABELS, ("x",)))
    assert pixels[110, 100].tolist() == [128, 128, 128]
    assert np.ptp(pixels[110, 50]) > 60
    assert np.ptp(pixels[300, 300]) > 60


def test_classes_differ_in_colour_and_so_do_the_objects_of_one_class():
    for names, labels, are_equal in (
        (NAMES, torch.tensor([1, 2]), False),
        (NAMES, torch.tensor([2, 2]), True),
        (("cat",), torch.tensor([1, 1]), False),
    ):
        pixels = _pixels(draw_prediction(GREY, BOXES, labels, names, masks=_masks()))
        assert (pixels[75, 65] == pixels[220, 320]).all() == are_equal


def test_masks_as_rles_give_the_same_picture():
    scores = torch.tensor([0.5, 0.75])
    dense, rles = (
        draw_prediction(GREY, BOXES, LABELS, NAMES, scores, masks=masks)
        for masks in (_masks(), _rles(_masks()))
    )
    assert np.array_equal(_pixels(dense), _pixels(rles))


def test_scores_are_written_for_up_to_forty_objects():
    for number, written in ((40, True), (41, False)):
        boxes = torch.tensor([[50.0, 60.0, 150.0, 160.0]]).repeat(number, 1)
        labels = torch.ones(number, dtype=torch.int64)
        with_scores, without = (
            _pixels(draw_prediction(GREY, boxes, labels, ("cat",), scores))
            for scores in (torch.full((number,), 0.5), None)
        )
        assert (with_scores != without).any() == written


def test_objects_over_the_edges_and_without_area_are_drawn():
    boxes = torch.tensor(
        [[-50.0, -20.0, 30.0, 40.0], [590.0, 490.0, 700.0, 600.0], [5, 5, 5, 5], [9, 9, 2, 2]]
    )
    masks = torch.zeros(4, 500, 600, dtype=torch.bool)
    masks[0, :40, :30] = masks[1, 490:, 590:] = True
    labels, scores = torch.tensor([1, 2, 1, 2]), torch.rand(4)
    for each in (None, masks):
        picture = draw_prediction(GREY, boxes, labels, NAMES, scores, masks=each)
        assert np.ptp(_pixels(picture)[495, 590]) > 20


def test_boxes_that_are_smaller_than_their_corners_radius_are_drawn():
    corner = torch.rand(2000, 2, generator=torch.Generator().manual_seed(0)) * 400
    sides = torch.rand(2000, 2, generator=torch.Generator().manual_seed(1)) * 6
    boxes, labels = torch.cat([corner, corner + sides], dim=1), torch.ones(2000, dtype=torch.int64)
    picture = draw_prediction(GREY, boxes, labels, NAMES)
    assert (_pixels(picture) != 128).any()


def _truth(masks, names=NAMES):
    boxes_xywh = torch.cat([BOXES[:, :2], BOXES[:, 2:] - BOXES[:, :2]], dim=1).double()
    return GroundTruth(
        categories=Categories(names, tuple(range(7, 7 + len(names)))),
        image_ids=torch.tensor([3, 5]),
        image_sizes=torch.tensor([[500, 600], [500, 600]]),
        file_names=PackedBytes.from_list([b"a.png", b"b.png"]),
        offsets=torch.tensor([0, 0, 2]),
        annotation_ids=torch.tensor([1, 2]),
        category_ids=torch.tensor([7, 7 + len(names) - 1]),
        boxes_xywh=boxes_xywh,
        areas=boxes_xywh[:, 2] * boxes_xywh[:, 3],
        is_crowd=torch.tensor([False, False]),
        is_difficult=torch.tensor([False, False]),
        masks=None if masks is None else PackedBytes.from_list([r["counts"] for r in masks]),
    )


def _prediction(order=(0, 1), masks=True):
    rles = _rles(_masks())
    return Prediction(
        boxes_xyxy=BOXES[list(order)],
        scores=torch.tensor([0.9, 0.6]),
        size=(500, 600),
        labels=LABELS[list(order)],
        rles=[rles[n] for n in order] if masks else None,
    )


def _panels(picture):
    """The two images on the sheet, without captions and margins."""
    pixels = _pixels(picture)
    gap = (pixels.shape[1] - 2 * 600) // 3
    rows = slice(pixels.shape[0] - gap - 500, pixels.shape[0] - gap)
    return pixels[rows, gap : gap + 600], pixels[rows, 2 * gap + 600 : 2 * gap + 1200]


@pytest.mark.parametrize("masks", [True, False])
def test_truth_and_prediction_stand_side_by_side_under_captions(masks):
    truth = _truth(_rles(_masks()) if masks else None)
    prediction = replace(_prediction(masks=masks), scores=torch.tensor([0.9, 0.4]))
    picture = truth_beside_prediction(GREY, truth, 1, prediction, NAMES)
    assert isinstance(picture, Image.Image)
    left, right = _panels(picture)
    expected = draw_prediction(GREY, BOXES, LABELS, NAMES, masks=truth.masks and _masks())
    assert np.array_equal(left, _pixels(expected))
    expected = draw_prediction(
        GREY,
        BOXES[:1],
        LABELS[:1],
        NAMES,
        torch.tensor([0.9]),
        masks=_masks()[:1] if masks else None,
    )
    assert np.array_equal(right, _pixels(expected))
    assert (_pixels(picture)[:60] < 100).any()  # the captions


def test_of_one_class_a_detection_has_the_colour_of_its_object():
    truth = _truth(_rles(_masks()), names=("cell",))
    prediction = replace(_prediction(order=(1, 0)), labels=torch.tensor([1, 1]))
    left, right = _panels(truth_beside_prediction(GREY, truth, 1, prediction, ("cell",)))
    assert np.array_equal(left[75, 65], right[75, 65])
    assert np.array_equal(left[220, 320], right[220, 320])


def test_an_image_with_nothing_true_or_nothing_found_is_drawn():
    nothing = Prediction(BOXES[:0], torch.empty(0), (500, 600), LABELS[:0], rles=[])
    for names in (NAMES, ("cell",)):
        truth = _truth(_rles(_masks()), names)
        prediction = replace(_prediction(), labels=torch.tensor([1, 1]))
        left, right = _panels(truth_beside_prediction(GREY, truth, 0, prediction, names))
        assert (left == 128).all()
        assert (right != 128).any()
        left, right = _panels(truth_beside_prediction(GREY, truth, 1, nothing, names))
        assert (left != 128).any()
        assert (right == 128).all()


def test_crowds_and_classes_that_are_not_asked_for_are_left_out():
    truth = replace(_truth(_rles(_masks())), is_crowd=torch.tensor([True, False]))
    left, _ = _panels(truth_beside_prediction(GREY, truth, 1, _prediction(), NAMES))
    assert (left[50:170, 40:160] == 128).all()
    left, _ = _panels(truth_beside_prediction(GREY, truth, 1, _prediction(), (*NAMES, "cow")))
    assert (left[250, 350] != 128).any()
    truth = replace(truth, is_crowd=torch.tensor([False, False]))
    one = replace(_prediction(), labels=torch.tensor([1, 1]))
    left, _ = _panels(truth_beside_prediction(GREY, truth, 1, one, ("cat", "cow")))
    assert (left[190:410, 290:510] == 128).all()


def test_an_annotation_without_a_mask_among_others_is_left_undrawn():
    rles = _rles(_masks())
    truth = _truth([{**rles[0], "counts": b""}, rles[1]], names=("cell",))
    prediction = replace(_prediction(), labels=torch.tensor([1, 1]))
    left, _ = _panels(truth_beside_prediction(GREY, truth, 1, prediction, ("cell",)))
    assert (left[50:170, 40:160] == 128).all()
    assert (left[250, 350] != 128).any()


def test_beside_predicted_boxes_the_truth_is_boxes_too():
    truth, prediction = _truth(_rles(_masks())), _prediction(masks=False)
    left, _ = _panels(truth_beside_prediction(GREY, truth, 1, prediction, NAMES))
    expected = draw_prediction(GREY, BOXES, LABELS, NAMES)
    assert np.array_equal(left, _pixels(expected))
