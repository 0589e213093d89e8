import json
import logging
from dataclasses import replace

import hotcoco.mask
import numpy as np
import pytest
import torch

from detengine.config.load import load_config
from detengine.data.cityscapes import load_cityscapes
from detengine.data.cityscapes_labels import CLASS_OF_ID
from detengine.evaluation.build import tasks_of_test_set
from detengine.evaluation.evaluator import Evaluator
from detengine.evaluation.options import ScoringOptions
from detengine.structures.categories import Categories
from detengine.structures.ground_truth import VOID, GroundTruth, IgnoredRegions, PackedBytes
from detengine.structures.prediction import Prediction
from evaluation.cityscapes_cases import HEIGHT, REFERENCE, SEEDS, WIDTH, make_streets, write_truth

RECORDED = json.loads(REFERENCE.read_text())["seeds"]
NAMES = tuple(CLASS_OF_ID.values())
BOTH = ("bbox", "segm")
TASKS = ("cityscapes_bbox", "cityscapes_segm")
# np.dot sums in an order of the processor's: on the one that recorded, there is no difference
ROUNDING = 1e-15


@pytest.fixture
def load(tmp_path):
    """The data set of these streets as detengine's own reader gives it."""

    def read(streets):
        write_truth(tmp_path, streets)
        folders = tmp_path / "leftImg8bit", tmp_path / "gtFine"
        return load_cityscapes(*folders, "val", "streets", mode="mask")

    return read


def rle_of(mask):
    return hotcoco.mask.encode(np.asfortranarray(mask, np.uint8))


def predict(found, size=(HEIGHT, WIDTH)):
    boxes = np.zeros((len(found), 4), np.float32)
    for row, each in enumerate(found):
        y, x = each.mask.nonzero()
        if len(y):
            boxes[row] = x.min(), y.min(), x.max() + 1, y.max() + 1
    labels = [NAMES.index(CLASS_OF_ID[each.label_id]) + 1 for each in found]
    return Prediction(
        boxes_xyxy=torch.from_numpy(boxes),
        scores=torch.tensor([each.score for each in found], dtype=torch.float32),
        labels=torch.tensor(labels, dtype=torch.int64),
        rles=[rle_of(each.mask) for each in found],
        size=size,
    )


def evaluator_of(truth, metrics=("cityscapes",), iou_types=BOTH):
    options = ScoringOptions(metrics=metrics)
    return Evaluator(truth, truth.categories.names, iou_types, options=options)


def score(truth, predictions, **kwargs):
    """predictions: by image id."""
    evaluator = evaluator_of(truth, **kwargs)
    for image_id, prediction in predictions.items():
        evaluator.update(image_id, prediction)
    return evaluator.result()


def predictions_of(streets):
    return {number: predict(each.found) for number, each in enumerate(streets, start=1)}


@pytest.mark.parametrize("seed", SEEDS)
def test_every_number_is_that_of_the_official_script(load, seed):
    streets, recorded = make_streets(seed), RECORDED[str(seed)]
    result = score(load(streets), predictions_of(streets), metrics=("coco", "cityscapes"))
    exactly = {"rel": 0, "abs": ROUNDING}
    expected = {name: recorded[name] for name in ("AP", "AP50", "AP75")}
    assert result.metrics["cityscapes_segm"] == pytest.approx(expected, **exactly)
    classes = {name: -1 if ap is None else ap for name, ap in recorded["classes"].items()}
    assert result.per_class["cityscapes_segm"] == pytest.approx(classes, **exactly)


def test_several_ranks_are_one_in_whatever_order(load):
    streets = make_streets(3)
    truth, predictions = load(streets), predictions_of(streets)
    whole = score(truth, predictions)
    ids = list(predictions)
    for shares in ([ids[::3], ids[1::3], ids[2::3]], [ids[4:], [], ids[:4][::-1]]):
        first, *others = ranks = [evaluator_of(truth) for _ in shares]
        for rank, share in zip(ranks, shares, strict=True):
            for image_id in share:
                rank.update(image_id, predictions[image_id])
        first.merge_notes(each.notes() for each in others)
        for task in first.tasks:
            first.merge_matches(task, (each.matches(task) for each in others))
        assert first.result() == whole


def test_the_order_of_equal_scores_changes_nothing(load):
    streets = make_streets(5)
    turned = [replace_found(street, street.found[::-1]) for street in streets]
    truth = load(streets)
    scores = [each.score for street in streets for each in street.found]
    assert len(set(scores)) < len(scores)
    assert score(truth, predictions_of(streets)) == score(truth, predictions_of(turned))


def replace_found(street, found):
    return street._replace(found=found)


def test_what_is_kept_of_a_detection_is_at_most_fifty_bytes(load):
    streets = make_streets(2)
    evaluator = evaluator_of(load(streets))
    for image_id, prediction in predictions_of(streets).items():
        evaluator.update(image_id, prediction)
    detections = sum(len(street.found) for street in streets)
    images = 8 + 16 * len(streets)
    for task in TASKS:
        assert len(evaluator.matches(task)) <= images + 50 * detections


def test_without_detections_ap_is_zero_and_without_objects_there_is_none(load):
    streets = make_streets(4)
    truth = load(streets)
    nothing = {image_id: predict([]) for image_id in range(1, len(streets) + 1)}
    result = score(truth, nothing)
    recorded = RECORDED["4"]["classes"]
    for task in TASKS:
        assert result.metrics[task] == {"AP": 0, "AP50": 0, "AP75": 0}
        assert result.reasons[task].startswith("AP is 0")
    assert result.per_class["cityscapes_segm"] == {
        name: -1 if ap is None else 0 for name, ap in recorded.items()
    }
    road = [street._replace(ids=np.full_like(street.ids, 7)) for street in streets]
    bare = score(load(road), predictions_of(streets))
    assert bare.metrics["cityscapes_segm"] == {"AP": -1, "AP50": -1, "AP75": -1}


def truth_of(masks, names=("car", "bus"), *, regions=None, crowds=()):
    """One image with objects of the first class. regions: its ignored regions."""
    size = masks[0].shape
    positions = [mask.nonzero() for mask in masks]
    boxes = [[x.min(), y.min(), x.max() + 1 - x.min(), y.max() + 1 - y.min()] for y, x in positions]
    return GroundTruth(
        categories=Categories(tuple(names), tuple(range(7, 7 + len(names)))),
        image_ids=torch.tensor([5]),
        image_sizes=torch.tensor([size]),
        file_names=PackedBytes.from_list([b"a.png"]),
        offsets=torch.tensor([0, len(masks)]),
        annotation_ids=torch.arange(len(masks)),
        category_ids=torch.full((len(masks),), 7),
        boxes_xywh=torch.tensor(boxes, dtype=torch.float64),
        areas=torch.tensor([mask.sum() for mask in masks], dtype=torch.float64),
        is_crowd=torch.tensor([row in crowds for row in range(len(masks))]),
        is_difficult=torch.zeros(len(masks), dtype=torch.bool),
        masks=PackedBytes.from_list([rle_of(mask)["counts"] for mask in masks]),
        ignored_regions=None if regions is None else IgnoredRegions.from_lists([regions]),
    )


def rectangle(top, left, height, width):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def found_as(masks, scores, label=1):
    boxes = []
    for mask in masks:
        y, x = mask.nonzero()
        boxes.append([x.min(), y.min(), x.max() + 1, y.max() + 1])
    return Prediction(
        boxes_xyxy=torch.tensor(boxes, dtype=torch.float32),
        scores=torch.tensor(scores),
        labels=torch.full((len(masks),), label),
        rles=[rle_of(mask) for mask in masks],
        size=(HEIGHT, WIDTH),
    )


@pytest.mark.parametrize("seed", range(10))
def test_boxes_are_scored_as_their_filled_masks(seed):
    rng = np.random.RandomState(seed)
    objects = [rectangle(*rng.randint(3, 40, 2), *rng.randint(5, 40, 2)) for _ in range(8)]
    moved = [np.roll(each, rng.randint(-3, 4, 2), axis=(0, 1)) for each in objects for _ in "ab"]
    others = [rectangle(*rng.randint(0, 40, 2), *rng.randint(5, 40, 2)) for _ in range(4)]
    scores = rng.randint(1, 9, 20) / 8
    result = score(
        truth_of(objects, crowds=(0, 3), regions=[]),
        {5: found_as(moved + others, scores.astype(np.float32).tolist())},
    )
    bbox, segm = (result.metrics[task] for task in TASKS)
    assert bbox == segm
    assert 0 < bbox["AP"] < 1


def test_a_box_between_pixels_is_scored_as_it_is():
    truth = truth_of([rectangle(0, 0, 10, 10)], regions=[])
    half = replace(
        found_as([rectangle(0, 0, 10, 10)], [0.9]), boxes_xyxy=torch.tensor([[0, 0, 10, 7.75]])
    )
    # an IoU of 0.775 is above the first six thresholds; cut to whole pixels it is not above 0.75
    assert score(truth, {5: half}).metrics["cityscapes_bbox"] == pytest.approx(
        {"AP": 0.6, "AP50": 1, "AP75": 1}
    )


def is_mistake(truth, mask):
    """Whether this mask is one, told from the AP50 of a hit with a lower score beside it."""
    there = rectangle(0, 0, 20, 20)
    prediction = found_as([mask, there], [0.9, 0.8])
    result = score(truth, {5: prediction})
    ap50 = result.metrics["cityscapes_segm"]["AP50"]
    assert ap50 in (0.25, 1)
    return ap50 == 0.25


@pytest.mark.parametrize("width", [10, 11])
@pytest.mark.parametrize("kind", ["void", "group", "another class's group", "crowd", "small"])
def test_a_detection_is_excused_by_more_than_half_of_it(kind, width):
    """The region covers a half of the detection, and with a width of 11 more."""
    there, ignored = rectangle(0, 0, 20, 20), rectangle(40, 40, 20, width)
    masks, crowds, regions = [there], (), []
    if kind == "small":
        ignored = rectangle(40, 40, 9, width)
    if kind in ("crowd", "small"):
        masks.append(ignored)
        crowds = (1,) if kind == "crowd" else ()
    else:
        category_id = {"void": VOID, "group": 7}.get(kind, 8)
        regions = [(category_id, rle_of(ignored)["counts"])]
    height = 9 if kind == "small" else 20
    truth = truth_of(masks, crowds=crowds, regions=regions)
    is_excused = width == 11 and kind != "another class's group"
    assert is_mistake(truth, rectangle(40, 40, height, 20)) != is_excused


def test_the_pixels_of_a_small_group_count_twice_as_in_the_official_script():
    there, group = rectangle(0, 0, 20, 20), rectangle(40, 40, 9, 9)
    truth = truth_of([there], regions=[(7, rle_of(group)["counts"])])
    assert not is_mistake(truth, rectangle(40, 40, 9, 35))
    assert is_mistake(truth, rectangle(40, 40, 9, 36))


def test_an_iou_of_the_threshold_is_no_hit():
    truth = truth_of([rectangle(0, 0, 20, 20)], regions=[])
    halves = found_as([rectangle(0, 0, 20, 10)], [0.9])
    assert score(truth, {5: halves}).metrics["cityscapes_segm"]["AP50"] == 0


def test_where_every_detection_is_excused_ap_is_zero():
    """The official script ends with an IndexError."""
    void = rectangle(40, 40, 20, 20)
    truth = truth_of([rectangle(0, 0, 20, 20)], regions=[(VOID, rle_of(void)["counts"])])
    result = score(truth, {5: found_as([void], [0.9])})
    assert result.metrics["cityscapes_segm"]["AP"] == 0


def test_all_classes_are_scored_but_caravans_and_trailers():
    truth = truth_of([rectangle(0, 0, 20, 20)], ("forklift", "caravan", "car"), regions=[])
    prediction = found_as([rectangle(0, 0, 20, 20)], [0.9])
    result = score(truth, {5: prediction})
    assert result.per_class["cityscapes_segm"] == {"forklift": 1, "car": -1}
    assert result.metrics["cityscapes_segm"]["AP"] == 1


def test_a_data_set_with_no_class_that_is_scored_is_refused():
    truth = truth_of([rectangle(0, 0, 20, 20)], ("trailer",), regions=[])
    with pytest.raises(ValueError, match=r"share are trailer, and caravan and trailer are not sco"):
        evaluator_of(truth)


def test_boxes_are_scored_only_where_asked_for():
    truth = truth_of([rectangle(0, 0, 20, 20)], regions=[])
    assert evaluator_of(truth, iou_types=("segm",)).tasks == ("cityscapes_segm",)
    with pytest.raises(ValueError, match=r"cityscapes score nothing of the iou types keypoints"):
        evaluator_of(truth, iou_types=("keypoints",))


def test_masks_are_scored_only_where_asked_for():
    truth = replace(truth_of([rectangle(0, 0, 20, 20)], regions=[]), masks=None)
    assert evaluator_of(truth, iou_types=("bbox",)).tasks == ("cityscapes_bbox",)
    with pytest.raises(ValueError, match=r"cityscapes_segm was asked for, but .* has no masks"):
        evaluator_of(truth)


def test_a_data_set_that_does_not_know_its_void_is_scored_with_a_warning(caplog):
    truth = truth_of([rectangle(0, 0, 20, 20)])
    with caplog.at_level(logging.WARNING, "detengine.inference"):
        evaluator_of(truth, iou_types=("bbox",))
        assert not caplog.messages
        evaluator_of(truth)
    assert "does not say where void and groups are" in caplog.text


def test_a_test_set_of_the_format_has_these_numbers_beside_cocos(tmp_path):
    write_truth(tmp_path / "cityscapes", make_streets(0, images=1))
    cfg = load_config(None, ["DATASETS.ROOT", tmp_path, "MODEL.MASK_ON", True])
    tasks = tasks_of_test_set(cfg, "cityscapes_mask_instance_val")
    assert tuple(tasks) == (*BOTH, *TASKS)
    assert [tasks[task] for task in TASKS] == [("AP", "AP50", "AP75")] * 2
