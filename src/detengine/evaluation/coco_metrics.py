"""COCO's numbers from the curves of precision and recall, by the reference's arithmetic."""

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Metric(NamedTuple):
    """Which part of the arrays one number is the mean of. iou None: all thresholds."""

    curve: Literal["precision", "recall"]
    iou: float | None = None
    area: str = "all"
    max_detections: int = 100


_BOXES_AND_MASKS = {
    "AP": Metric("precision"),
    "AP50": Metric("precision", iou=0.5),
    "AP75": Metric("precision", iou=0.75),
    "APs": Metric("precision", area="small"),
    "APm": Metric("precision", area="medium"),
    "APl": Metric("precision", area="large"),
    "AR1": Metric("recall", max_detections=1),
    "AR10": Metric("recall", max_detections=10),
    "AR100": Metric("recall"),
    "ARs": Metric("recall", area="small"),
    "ARm": Metric("recall", area="medium"),
    "ARl": Metric("recall", area="large"),
}
_KEYPOINTS = {
    "AP": Metric("precision", max_detections=20),
    "AP50": Metric("precision", iou=0.5, max_detections=20),
    "AP75": Metric("precision", iou=0.75, max_detections=20),
    "APm": Metric("precision", area="medium", max_detections=20),
    "APl": Metric("precision", area="large", max_detections=20),
    "AR": Metric("recall", max_detections=20),
    "AR50": Metric("recall", iou=0.5, max_detections=20),
    "AR75": Metric("recall", iou=0.75, max_detections=20),
    "ARm": Metric("recall", area="medium", max_detections=20),
    "ARl": Metric("recall", area="large", max_detections=20),
}
METRICS = {"bbox": _BOXES_AND_MASKS, "segm": _BOXES_AND_MASKS, "keypoints": _KEYPOINTS}


def summarize(
    iou_type: str, curves: dict[str, Floats], params: Any
) -> tuple[dict[str, float], list[float]]:
    """The metrics by name, and the AP of each category in the order of its id; -1 for nothing.

    curves: "precision", float64[ious, recalls, categories, areas, max_detections], and "recall",
    without the second axis; -1 where there is no ground truth. params: names the axes, as in
    pycocotools.
    """
    metrics = {
        name: _mean(_part(curves[metric.curve], metric, params))
        for name, metric in METRICS[iou_type].items()
    }
    precision = _part(curves["precision"], METRICS[iou_type]["AP"], params)
    return metrics, [_mean(precision[:, :, k]) for k in range(precision.shape[2])]


def _part(curve: Floats, metric: Metric, params: Any) -> Floats:
    area = params.area_rng_lbl.index(metric.area)
    limit = params.max_dets.index(metric.max_detections)
    if metric.iou is not None:
        curve = curve[np.isclose(params.iou_thrs, metric.iou)]
    return curve[..., area, limit]


def _mean(values: Floats) -> float:
    measured = values[values > -1]
    return float(np.mean(measured)) if len(measured) else -1.0
