"""Score predictions against ground truth: two values in, one out."""

from collections.abc import Iterable, Sequence

from detengine.evaluation.detections import Detections
from detengine.evaluation.evaluator import Evaluator
from detengine.evaluation.expected import ExpectedResult, check_expected_results
from detengine.evaluation.image_tally import OnWrongImages
from detengine.evaluation.options import ScoringOptions
from detengine.evaluation.result import EvaluationResult
from detengine.structures.ground_truth import GroundTruth
from detengine.structures.prediction import Prediction


def evaluate(
    ground_truth: GroundTruth,
    predictions: Iterable[tuple[int, Prediction | Detections]],
    class_names: Sequence[str],
    iou_types: Sequence[str] = ("bbox",),
    *,
    options: ScoringOptions | None = None,
    on_wrong_images: OnWrongImages = "error",
    expected_results: Sequence[ExpectedResult] = (),
    expected_results_sigma_tol: float = 4,
) -> EvaluationResult:
    """The scores of (image_id, prediction) pairs, read once and not kept.

    class_names: the names of the labels 1..K. options: by which metrics; None for COCO's. Each
    image must come exactly once; otherwise ValueError, or with on_wrong_images "warn" a warning
    (see Evaluator). Raises ExpectedResultsError if an expected result is missed.
    """
    evaluator = Evaluator(
        ground_truth, class_names, iou_types, options=options, on_wrong_images=on_wrong_images
    )
    for image_id, prediction in predictions:
        evaluator.update(image_id, prediction)
    result = evaluator.result()
    check_expected_results(result, expected_results, expected_results_sigma_tol)
    return result
