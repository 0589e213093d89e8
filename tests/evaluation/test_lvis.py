import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from detengine.evaluation.evaluate import evaluate
from detengine.evaluation.evaluator import Evaluator
from detengine.evaluation.options import ScoringOptions
from detengine.structures.ground_truth import FederatedLabels, PackedIntegers
from detengine.structures.prediction import Prediction

LVIS = ScoringOptions(metrics=("lvis",))
BOTH = ("bbox", "segm")
RECORDED = json.loads((Path(__file__).parent / "lvis_recorded.json").read_text())


def make_federated(case, seed, *, crowded_images=1):
    """The case with negative and not exhaustive classes, and more than 300 detections an image."""
    rng = np.random.default_rng(seed)
    truth = case.ground_truth
    ids = truth.categories.ids
    negative, not_exhaustive = [], []
    for index in range(len(truth)):
        here = set(truth.category_ids[truth.annotations_of(index)].tolist())
        negative.append([id_ for id_ in ids if id_ not in here and rng.random() < 0.4])
        not_exhaustive.append([id_ for id_ in ids if id_ in here and rng.random() < 0.4])
    frequencies = tuple(rng.choice(["r", "c", "f"], len(ids)).tolist())
    nothing = torch.zeros_like(truth.is_crowd)
    case.ground_truth = replace(
        truth,
        is_crowd=nothing,
        is_difficult=nothing,
        federated=FederatedLabels(
            PackedIntegers.from_lists(negative),
            PackedIntegers.from_lists(not_exhaustive),
            frequencies,
        ),
    )
    for image_id in list(case.predictions)[:crowded_images]:
        few = case.predictions[image_id]
        times = 400 // max(len(few), 1)
        scores = torch.from_numpy(rng.random(len(few) * times).round(2)).float()
        case.predictions[image_id] = Prediction(
            boxes_xyxy=few.boxes_xyxy.repeat(times, 1),
            scores=scores,
            labels=few.labels.repeat(times),
            rles=few.rles * times,
            size=few.size,
        )
    return case


@pytest.mark.parametrize("seed", RECORDED["seeds"])
def test_every_number_is_that_of_lvis_api_to_the_last_bit(make_case, seed):
    case = make_federated(make_case(seed, images=10, classes=6), seed)
    pairs = case.predictions.items()
    result = evaluate(case.ground_truth, pairs, case.class_names, BOTH, options=LVIS)
    recorded = RECORDED["results"][str(seed)]
    assert {task: list(result.metrics[task].values()) for task in recorded} == recorded


def test_the_metrics_have_lvis_names_and_are_known_beforehand(make_case):
    case = make_federated(make_case(1), 1)
    evaluator = Evaluator(case.ground_truth, case.class_names, BOTH, options=LVIS)
    assert evaluator.tasks == ("lvis_bbox", "lvis_segm")
    for image_id, prediction in case.predictions.items():
        evaluator.update(image_id, prediction)
    names = list(evaluator.result().metrics["lvis_segm"])
    assert names[:9] == ["AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"]
    assert names[9:] == ["AR@300", "ARs@300", "ARm@300", "ARl@300"]


@pytest.mark.parametrize("seed", [3, 4])
def test_scored_on_several_ranks_and_merged_it_is_scored_in_one_piece(make_case, seed):
    case = make_federated(make_case(seed, images=9, classes=5), seed)
    names = case.class_names
    expected = evaluate(case.ground_truth, case.predictions.items(), names, BOTH, options=LVIS)
    first, *others = [Evaluator(case.ground_truth, names, BOTH, options=LVIS) for _ in range(3)]
    for number, (image_id, prediction) in enumerate(case.predictions.items()):
        [first, *others][number % 3].update(image_id, prediction)
    first.merge_notes(each.notes() for each in others)
    for task in first.tasks:
        first.merge_matches(task, (each.matches(task) for each in others))
    assert first.result() == expected


def test_a_detection_of_a_class_that_nobody_looked_for_counts_for_nothing(make_case):
    case = make_federated(make_case(2, images=6, classes=4), 2, crowded_images=0)
    truth = case.ground_truth
    everything = PackedIntegers.from_lists([truth.categories.ids] * len(truth))
    searched = replace(truth, federated=replace(truth.federated, negative=everything))
    before = evaluate(searched, case.predictions.items(), case.class_names, options=LVIS)
    empty = PackedIntegers.from_lists([[] for _ in range(len(truth))])
    case.ground_truth = replace(truth, federated=replace(truth.federated, negative=empty))
    of_nobody = {
        image_id: {
            label
            for label, id_ in enumerate(truth.categories.ids_of_labels(case.class_names), start=1)
            if id_ not in truth.category_ids[truth.annotations_of(index)].tolist()
        }
        for index, image_id in enumerate(truth.image_ids.tolist())
    }
    fewer = evaluate(case.ground_truth, case.predictions.items(), case.class_names, options=LVIS)
    kept = []
    for image_id, each in case.predictions.items():
        rows = [n for n, k in enumerate(each.labels.tolist()) if k not in of_nobody[image_id]]
        kept.append(
            (
                image_id,
                replace(
                    each,
                    boxes_xyxy=each.boxes_xyxy[rows],
                    scores=each.scores[rows],
                    labels=each.labels[rows],
                    rles=[each.rles[n] for n in rows],
                ),
            )
        )
    assert evaluate(case.ground_truth, kept, case.class_names, options=LVIS) == fewer
    assert fewer != before


def test_a_data_set_that_does_not_say_what_was_looked_for_is_refused(case):
    with pytest.raises(
        ValueError, match=r"define it with FORMAT lvis, or set TEST\.METRICS to coco"
    ):
        Evaluator(case.ground_truth, case.class_names, options=LVIS)
