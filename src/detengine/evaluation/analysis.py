"""Why a score is what it is: hotcoco's analyses, of the detections that the score counts."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import hotcoco
import numpy as np
from numpy.typing import NDArray

from detengine.evaluation.analysis_result import (
    Analysis,
    Calibration,
    CalibrationBin,
    Confusion,
    Curve,
    ErrorBreakdown,
    ErrorKind,
    ImageErrors,
)
from detengine.evaluation.coco_metrics import coco_params, mean
from detengine.evaluation.collected import Collected, Flags, collect
from detengine.evaluation.detections import Detections
from detengine.evaluation.image_tally import OnWrongImages
from detengine.evaluation.options import COCO_AREAS, ScoringOptions
from detengine.structures.ground_truth import GroundTruth
from detengine.structures.prediction import Prediction

_KINDS = {
    "classification": "Cls",
    "localisation": "Loc",
    "both": "Both",
    "duplicate": "Dupe",
    "background": "Bkg",
    "missed": "Miss",
}
"""Our names for hotcoco's."""

_BETWEEN_CLASSES = (
    "between classes hotcoco measures overlaps by boxes, which keypoints' detections do not have: "
    "an object of the wrong class would count as background"
)


def analyze(
    ground_truth: GroundTruth,
    predictions: Iterable[tuple[int, Prediction | Detections]],
    class_names: Sequence[str],
    iou_type: str = "bbox",
    *,
    options: ScoringOptions | None = None,
    on_wrong_images: OnWrongImages = "error",
    iou_threshold: float = 0.5,
    background_threshold: float = 0.1,
    score_threshold: float = 0.5,
    num_images: int = 20,
) -> Analysis:
    """What costs the predictions of one iou type their AP. See `Analysis` for what is in it.

    class_names, options, on_wrong_images: as for `evaluate`, whose checks and scores these are.
    iou_threshold: from which overlap on (keypoints: similarity) a detection finds an object;
    background_threshold: below which it lies on none. score_threshold: of the detections in the
    confusion matrix and among the worst images, of which there are at most num_images.
    Raises ValueError for what `evaluate` refuses, and for thresholds that mean nothing.
    """
    _raise_if_meaningless(background_threshold, iou_threshold, score_threshold)
    collected, scores = collect(
        ground_truth,
        predictions,
        class_names,
        iou_type,
        options=options,
        on_wrong_images=on_wrong_images,
    )
    params = _params_at(collected, iou_threshold)
    matched = collected.evaluation(params)
    reasons: dict[str, str] = {}
    counted = _counted(matched, len(collected.detection_scores))
    errors, confusion = None, None
    if iou_type == "keypoints":
        reasons |= dict.fromkeys(("errors", "confusion"), _BETWEEN_CLASSES)
    else:
        clear = collected.evaluation(params, kept=counted, with_ignored=False)
        confusion = _confusion(clear, iou_threshold, score_threshold, collected)
        class_names = collected.truth.categories.names
        errors = _errors(clear, iou_threshold, background_threshold, class_names)
        if errors is None:
            reasons["errors"] = "no object is to be found, so that there is no AP"
    calibration = None
    if why := _why_uncalibrated(collected.detection_scores[counted]):
        reasons["calibration"] = why
    else:
        calibration = _calibration(matched, iou_threshold, collected.truth.categories.names)
    worst, best = _extreme_images(collected, params, score_threshold, num_images)
    return Analysis(
        iou_type=iou_type,
        iou_threshold=iou_threshold,
        score_threshold=score_threshold,
        scores=scores,
        errors=errors,
        confusion=confusion,
        curves=_curves(collected),
        worst_images=worst,
        best_images=best,
        calibration=calibration,
        reasons=reasons,
    )


def _raise_if_meaningless(
    background_threshold: float, iou_threshold: float, score_threshold: float
) -> None:
    if not 0 < background_threshold < iou_threshold <= 1:
        raise ValueError(
            f"the thresholds are {background_threshold} (background) and {iou_threshold} (IoU), "
            "but must be ascending, in (0, 1]"
        )
    if not math.isfinite(score_threshold):
        raise ValueError(f"the score threshold is {score_threshold}, but must be a score")


def _params_at(collected: Collected, iou_threshold: float) -> hotcoco.Params:
    """Those of the scores, but of one threshold: hotcoco takes the nearest there is, and is silent.

    Of objects of all sizes, and with the last limit of detections, as AP is.
    """
    params = coco_params(collected.iou_type, collected.options)
    params.iou_thrs = [iou_threshold]
    params.max_dets = [params.max_dets[-1]]
    params.area_rng, params.area_rng_lbl = [list(COCO_AREAS["all"])], ["all"]
    return params


def _counted(matched: hotcoco.COCOeval, number: int) -> Flags:
    """bool[D]: the detections that are hits or false positives in the scores.

    The others are beyond the limit of an image and class, or lie on a crowd or a difficult object
    of their class. hotcoco's breakdown and confusion matrix would count these; without them, and
    without what they lie on, all other matches stay what they are.
    """
    counted = np.zeros(number, np.bool_)
    counted[
        [each - 1 for each in matched.image_diagnostics(matched.params.iou_thrs[0])["dt_status"]]
    ] = True
    return counted


def _errors(
    clear: hotcoco.COCOeval,
    iou_threshold: float,
    background_threshold: float,
    class_names: Sequence[str],
) -> ErrorBreakdown | None:
    clear.accumulate()
    curves = clear.eval or {}
    ap = mean(curves["precision"])
    if ap < 0:
        return None
    found = clear.tide_errors(iou_threshold, background_threshold)
    costs, counts = found["delta_ap"], found["counts"]
    return ErrorBreakdown(
        ap=ap,
        background_threshold=background_threshold,
        kinds={name: ErrorKind(counts[key], costs[key]) for name, key in _KINDS.items()},
        false_positives_cost=costs["FP"],
        missed_cost=costs["FN"],
        classes_not_found=tuple(
            class_names[k] for k in np.flatnonzero(curves["recall"][0, :, 0, 0] == 0).tolist()
        ),
    )


def _confusion(
    clear: hotcoco.COCOeval, iou_threshold: float, score_threshold: float, collected: Collected
) -> Confusion:
    # the limit is of an image here, not of an image and class: what the scores count is no more
    limit = max(1, len(collected.detection_scores))
    found = clear.confusion_matrix(iou_threshold, limit, score_threshold)
    return Confusion(
        class_names=collected.truth.categories.names,
        counts=tuple(tuple(row) for row in found["matrix"].tolist()),
    )


def _why_uncalibrated(scores: NDArray[np.float64]) -> str | None:
    if not len(scores):
        return "no detection is counted"
    if scores.min() < 0 or scores.max() > 1:
        return f"the scores are no probabilities: they are {scores.min():g} to {scores.max():g}"
    return None


def _calibration(
    matched: hotcoco.COCOeval, iou_threshold: float, class_names: Sequence[str]
) -> Calibration:
    found = matched.calibration(iou_threshold=iou_threshold)
    return Calibration(
        expected_error=found["ece"],
        largest_error=found["mce"],
        bins=tuple(
            CalibrationBin(
                low=each["bin_lower"],
                high=each["bin_upper"],
                count=each["count"],
                mean_score=each["avg_confidence"] if each["count"] else None,
                precision=each["avg_accuracy"] if each["count"] else None,
            )
            for each in found["bins"]
        ),
        per_class={name: found["per_category"].get(str(k)) for k, name in enumerate(class_names)},
    )


def _curves(collected: Collected) -> tuple[Curve, ...]:
    """The mean's, then each class's, at 0.50, 0.75 and averaged, as far as there are any."""
    params = coco_params(collected.iou_type, collected.options)
    area = params.area_rng_lbl.index("all")
    precision, scores = (collected.curves[key][..., area, -1] for key in ("precision", "scores"))
    places: dict[float | None, Any] = {
        iou: np.flatnonzero(np.isclose(params.iou_thrs, iou)) for iou in (0.5, 0.75)
    }
    places = {iou: found for iou, found in places.items() if len(found)} | {None: slice(None)}
    with_objects = np.flatnonzero((precision > -1).any(axis=(0, 1)))
    if not len(with_objects):
        return ()
    curves = [
        Curve(None, iou, tuple(precision[at][:, :, with_objects].mean(axis=(0, 2)).tolist()))
        for iou, at in places.items()
    ]
    for k in with_objects.tolist():
        name = collected.truth.categories.names[k]
        for iou, at in places.items():
            own = tuple(precision[at][:, :, k].mean(axis=0).tolist())
            curves.append(Curve(name, iou, own, _scores_of(own, scores[at][0, :, k], iou)))
    return tuple(curves)


def _scores_of(
    precision: Sequence[float], scores: NDArray[np.float64], iou: float | None
) -> tuple[float | None, ...] | None:
    if iou is None:
        return None
    return tuple(
        score if reached > 0 else None
        for reached, score in zip(precision, scores.tolist(), strict=True)
    )


def _extreme_images(
    collected: Collected, params: hotcoco.Params, score_threshold: float, num_images: int
) -> tuple[tuple[ImageErrors, ...], tuple[ImageErrors, ...]]:
    """Those with most errors, and those with the best F1, of equal ones with most objects."""
    images = _images(collected, params, score_threshold)
    worst = sorted(
        (each for each in images if each.missed or each.false_positives),
        key=lambda each: (-each.missed - each.false_positives, each.f1, each.image_id),
    )
    best = sorted(
        (each for each in images if each.found),
        key=lambda each: (-each.f1, -each.found, each.image_id),
    )
    return tuple(worst[:num_images]), tuple(best[:num_images])


def _images(
    collected: Collected, params: hotcoco.Params, score_threshold: float
) -> list[ImageErrors]:
    evaluation = collected.evaluation(params, kept=collected.detection_scores >= score_threshold)
    found = evaluation.image_diagnostics(params.iou_thrs[0], score_threshold)
    suspects: dict[str, dict[int, int]] = {"wrong_label": {}, "missing_annotation": {}}
    for each in found["label_errors"]:
        of_kind = suspects[each["type"]]
        of_kind[each["image_id"]] = of_kind.get(each["image_id"], 0) + 1
    has_boxes = collected.iou_type != "keypoints"
    truth = collected.truth
    return [
        ImageErrors(
            image_id=truth.ids_of([image])[0],
            file_name=truth.columns.file_name(truth.index_of(image)),
            found=each["tp"],
            missed=each["fn"],
            false_positives=each["fp"],
            other_class=suspects["wrong_label"].get(image, 0) if has_boxes else None,
            on_nothing=suspects["missing_annotation"].get(image, 0) if has_boxes else None,
            f1=each["f1"],
            ap=each["ap"],
        )
        for image, each in found["img_summary"].items()
    ]
