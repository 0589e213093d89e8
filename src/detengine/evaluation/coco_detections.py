"""One image's predictions as hotcoco takes them, after the checks that it leaves out."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from detengine.structures.prediction import Prediction

Positions = NDArray[np.int64]


def checked_labels(
    prediction: Prediction, size: tuple[int, int] | None, num_labels: int, where: str
) -> Positions:
    """The labels, int64[N], of a prediction that is well formed and of this image; else ValueError.

    size: the image's (height, width) as the ground truth says it; None if it does not.
    where: the image, for the message.
    """
    if size is not None and prediction.size != size:
        raise ValueError(
            f"{where} is {size[0]} x {size[1]} (height x width) in the ground truth, but its "
            f"prediction is for {prediction.size[0]} x {prediction.size[1]}. Predictions are in "
            "pixels of the stored image: is it another image, or turned by its EXIF tag?"
        )
    if prediction.labels is None:
        raise ValueError(f"{where}: the prediction has no labels; proposals have no class to score")
    _raise_if_boxes_unfit(prediction.boxes_xyxy, prediction.scores, prediction.labels, where)
    wrong = ((prediction.labels < 1) | (prediction.labels > num_labels)).nonzero()[:, 0]
    if len(wrong):
        raise ValueError(
            f"{where}: detection {int(wrong[0])} has the label {int(prediction.labels[wrong[0]])}, "
            f"but the labels of {num_labels} classes are 1..{num_labels} (0 is the background)"
        )
    return prediction.labels.numpy()


def _raise_if_boxes_unfit(boxes: Tensor, scores: Tensor, labels: Tensor, where: str) -> None:
    if boxes.shape != (len(scores), 4) or labels.shape != scores.shape:
        raise ValueError(
            f"{where}: expected boxes_xyxy[N, 4], scores[N] and labels[N], but got "
            f"{list(boxes.shape)}, {list(scores.shape)} and {list(labels.shape)}"
        )
    for what, values in (("score", scores), ("box", boxes)):
        rows = (~values.isfinite()).nonzero()[:, 0]
        if len(rows):
            row = int(rows[0])
            raise ValueError(
                f"{where}: the {what} of detection {row} of {len(scores)} is not a number or is "
                f"infinite: {values[row].tolist()}. Has the training diverged?"
            )
    rows = (boxes[:, 2:] < boxes[:, :2]).nonzero()[:, 0]
    if len(rows):
        raise ValueError(
            f"{where}: the box of detection {int(rows[0])} ends before it begins: "
            f"{boxes[rows[0]].tolist()}. Boxes are x1, y1, x2, y2; was it given as x, y, w, h?"
        )


def raise_if_part_missing(prediction: Prediction, iou_type: str, where: str) -> None:
    """Raise ValueError unless the prediction has what the iou type scores, in the image's size."""
    if iou_type == "segm":
        _raise_if_masks_unfit(prediction, where)
    if iou_type == "keypoints" and prediction.keypoints is None:
        raise ValueError(f"{where}: keypoints are to be scored, but the prediction has none")


def _raise_if_masks_unfit(prediction: Prediction, where: str) -> None:
    if prediction.rles is None or len(prediction.rles) != len(prediction):
        given = "none" if prediction.rles is None else str(len(prediction.rles))
        raise ValueError(
            f"{where}: segm is to be scored and needs a mask (mask_probs or rles) for each of the "
            f"{len(prediction)} detections, but the prediction has {given}"
        )
    for row, rle in enumerate(prediction.rles):
        if tuple(rle["size"]) != prediction.size:
            raise ValueError(
                f"{where}: the mask of detection {row} is of the size {rle['size']}, but the image "
                f"is of {list(prediction.size)} (height, width)"
            )


def _boxes(
    prediction: Prediction, image: int, known: Positions, categories: Positions
) -> NDArray[np.float64]:
    """Rows of image, x, y, w, h, score, category; w and h taken in float32, as by torchvision."""
    boxes = prediction.boxes_xyxy.numpy()[known]
    rows = np.empty((len(known), 7))
    rows[:, 0] = image
    rows[:, 1:3] = boxes[:, :2]
    rows[:, 3:5] = boxes[:, 2:] - boxes[:, :2]
    rows[:, 5] = prediction.scores.numpy()[known]
    rows[:, 6] = categories
    return rows


def _masks(
    prediction: Prediction, image: int, known: Positions, categories: Positions
) -> list[dict[str, Any]]:
    """Without boxes, so that each detection's area is that of its mask."""
    rles = prediction.rles or []
    return [
        {"image_id": image, "category_id": category, "score": score, "segmentation": rles[row]}
        for row, score, category in _rows(prediction, known, categories)
    ]


def _keypoints(
    prediction: Prediction, image: int, known: Positions, categories: Positions
) -> list[dict[str, Any]]:
    points = [] if prediction.keypoints is None else prediction.keypoints.flatten(1).tolist()
    return [
        {"image_id": image, "category_id": category, "score": score, "keypoints": points[row]}
        for row, score, category in _rows(prediction, known, categories)
    ]


def _rows(
    prediction: Prediction, known: Positions, categories: Positions
) -> list[tuple[int, float, int]]:
    scores = prediction.scores.numpy()[known]
    return list(zip(known.tolist(), scores.tolist(), categories.tolist(), strict=True))


DETECTIONS: dict[str, Callable[[Prediction, int, Positions, Positions], Any]] = {
    "bbox": _boxes,
    "segm": _masks,
    "keypoints": _keypoints,
}
"""How each iou type hands over the detections at `known`; their categories come beside them."""
