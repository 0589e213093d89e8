"""COCO's numbers from the curves of precision and recall, by the reference's arithmetic."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import hotcoco
import numpy as np
from numpy.typing import NDArray

from detengine.evaluation.options import ScoringOptions

Floats = NDArray[np.float64]


class Metric(NamedTuple):
    """Which part of the arrays one number is the mean of. iou None: all thresholds."""

    curve: Literal["precision", "recall"]
    iou: float | None = None
    area: str = "all"
    max_detections: int = 100


_LETTER = {"small": "s", "medium": "m", "large": "l"}


def coco_params(iou_type: str, options: ScoringOptions) -> hotcoco.Params:
    """hotcoco's parameters: the reference's own where nothing else is asked for."""
    params = hotcoco.Params(iou_type)
    if options.iou_thresholds is not None:
        params.iou_thrs = list(options.iou_thresholds)
    if options.max_detections is not None:
        params.max_dets = list(options.max_detections)
    if options.area_ranges is not None:
        areas = options.areas()
        params.area_rng = [list(bounds) for bounds in areas.values()]
        params.area_rng_lbl = list(areas)
    if options.keypoint_sigmas is not None and iou_type == "keypoints":
        params.kpt_oks_sigmas = list(options.keypoint_sigmas)
    return params


def metrics_of(iou_type: str, options: ScoringOptions) -> dict[str, Metric]:
    """The metrics by name, in the reference's order.

    AP50 and AP75 are there where those thresholds are. An area of one's own is `AP_name`. The AP
    is taken at the last limit of detections.
    """
    params = coco_params(iou_type, options)
    limits, last = params.max_dets, params.max_dets[-1]
    areas = [area for area in params.area_rng_lbl if area != "all"]
    by_iou = {
        str(round(100 * iou)): iou for iou in (0.5, 0.75) if np.isclose(params.iou_thrs, iou).any()
    }
    kept = {"AP": Metric("precision", max_detections=last)}
    kept |= {f"AP{n}": Metric("precision", iou, "all", last) for n, iou in by_iou.items()}
    kept |= {f"AP{_suffix(each)}": Metric("precision", None, each, last) for each in areas}
    if iou_type == "keypoints":
        kept |= {"AR": Metric("recall", max_detections=last)}
        kept |= {f"AR{n}": Metric("recall", iou, "all", last) for n, iou in by_iou.items()}
    else:
        kept |= {f"AR{n}": Metric("recall", max_detections=n) for n in limits}
    return kept | {f"AR{_suffix(each)}": Metric("recall", None, each, last) for each in areas}


def _suffix(area: str) -> str:
    return _LETTER.get(area, f"_{area}")


def summarize(
    wanted: Mapping[str, Metric], curves: dict[str, Floats], params: Any
) -> tuple[dict[str, float], list[float]]:
    """The metrics by name, and the AP of each category in the order of its id; -1 for nothing.

    curves: "precision", float64[ious, recalls, categories, areas, max_detections], and "recall",
    without the second axis; -1 where there is no ground truth. params: names the axes, as in
    pycocotools.
    """
    metrics = {
        name: mean(_part(curves[metric.curve], metric, params)) for name, metric in wanted.items()
    }
    precision = _part(curves["precision"], wanted["AP"], params)
    return metrics, [mean(precision[:, :, k]) for k in range(precision.shape[2])]


def _part(curve: Floats, metric: Metric, params: Any) -> Floats:
    area = params.area_rng_lbl.index(metric.area)
    limit = params.max_dets.index(metric.max_detections)
    if metric.iou is not None:
        curve = curve[np.isclose(params.iou_thrs, metric.iou)]
    return curve[..., area, limit]


def mean(values: Floats) -> float:
    """The mean of what was measured; -1 if nothing was."""
    measured = values[values > -1]
    return float(np.mean(measured)) if len(measured) else -1.0
