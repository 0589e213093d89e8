import pytest

from detengine.evaluation.evaluate import evaluate
from detengine.evaluation.evaluator import Evaluator
from detengine.evaluation.expected import ExpectedResultsError


def test_predictions_are_read_once_and_scored_as_by_the_evaluator(case):
    evaluator = Evaluator(case.ground_truth, case.class_names, ("bbox", "segm"))
    for image_id, prediction in case.predictions.items():
        evaluator.update(image_id, prediction)
    pairs = iter(case.predictions.items())
    result = evaluate(case.ground_truth, pairs, case.class_names, ("bbox", "segm"))
    assert result == evaluator.result()
    assert result.num_images == 8


def test_a_missed_expectation_raises(case):
    with pytest.raises(ExpectedResultsError, match="bbox > AP50"):
        evaluate(
            case.ground_truth,
            case.predictions.items(),
            case.class_names,
            expected_results=[("bbox", "AP50", (2.0, 0.1))],
        )
