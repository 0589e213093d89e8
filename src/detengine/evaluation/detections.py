"""One image's detections as the scorers take them, after the checks that hotcoco leaves out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from detengine.structures.prediction import Prediction
from detengine.structures.rle import RLE

Floats = NDArray[np.float64]
Positions = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Detections:
    """D detections of one image, all of a class that is scored; in pixels of the stored image.

    - image: the image's position in the ground truth; where: the image, for messages; size:
      (height, width).
    - boxes_xyxy, boxes_xywh: float64[D, 4], the same boxes, each to the last bit as it was given.
    - scores: float64[D]. categories: int64[D], positions in `Truth.categories`; 0 for proposals.
    - rles: D masks of the whole image; keypoints: float64[D, J, 3]. None if there are none.
    """

    image: int
    where: str
    size: tuple[int, int]
    boxes_xyxy: Floats
    boxes_xywh: Floats
    scores: Floats
    categories: Positions
    rles: Sequence[RLE] | None = None
    keypoints: Floats | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def at(self, rows: Positions) -> "Detections":
        """Those in these rows, in their order."""
        rles, keypoints = self.rles, self.keypoints
        return replace(
            self,
            boxes_xyxy=self.boxes_xyxy[rows],
            boxes_xywh=self.boxes_xywh[rows],
            scores=self.scores[rows],
            categories=self.categories[rows],
            rles=None if rles is None else [rles[row] for row in rows.tolist()],
            keypoints=None if keypoints is None else keypoints[rows],
        )


def no_detections(image: int, where: str, size: tuple[int, int], num_keypoints: int) -> Detections:
    """Those of an image in which nothing was found."""
    nothing = np.zeros((0, 4))
    keypoints = np.zeros((0, num_keypoints, 3))
    scores, categories = np.zeros(0), np.zeros(0, np.int64)
    return Detections(
        image, where, size, nothing, nothing, scores, categories, rles=[], keypoints=keypoints
    )


def detections_of(
    prediction: Prediction, image: int, where: str, known: Positions, categories: Positions
) -> Detections:
    """The detections at `known`, whose categories are these.

    Width and height are taken in the boxes' own precision, float32, as by torchvision.
    """
    boxes = prediction.boxes_xyxy.numpy()[known]
    boxes_xywh = boxes.copy()
    boxes_xywh[:, 2:] -= boxes[:, :2]
    rles, keypoints = prediction.rles, prediction.keypoints
    return Detections(
        image,
        where,
        prediction.size,
        boxes_xyxy=boxes.astype(np.float64),
        boxes_xywh=boxes_xywh.astype(np.float64),
        scores=prediction.scores.numpy()[known].astype(np.float64),
        categories=categories,
        rles=None if rles is None else [rles[row] for row in known.tolist()],
        keypoints=None if keypoints is None else keypoints.numpy()[known].astype(np.float64),
    )


def raise_if_size_differs(given: tuple[int, int], size: tuple[int, int] | None, where: str) -> None:
    """size: the image's (height, width) as the ground truth says it; None if it does not."""
    if size is not None and given != size:
        raise ValueError(
            f"{where} is {size[0]} x {size[1]} (height x width) in the ground truth, but its "
            f"prediction is for {given[0]} x {given[1]}. Predictions are in "
            "pixels of the stored image: is it another image, or turned by its EXIF tag?"
        )


def checked_labels(prediction: Prediction, num_labels: int, where: str) -> Positions:
    """The labels, int64[N], of a prediction that is well formed; else ValueError.

    where: the image, for the message.
    """
    if prediction.labels is None:
        raise ValueError(f"{where}: the prediction has no labels; proposals have no class to score")
    if prediction.labels.shape != prediction.scores.shape:
        raise ValueError(
            f"{where}: expected boxes_xyxy[N, 4], scores[N] and labels[N], but got "
            f"{list(prediction.boxes_xyxy.shape)}, {list(prediction.scores.shape)} and "
            f"{list(prediction.labels.shape)}"
        )
    labels = prediction.labels.numpy()
    wrong = np.flatnonzero((labels < 1) | (labels > num_labels))
    if len(wrong):
        raise ValueError(
            f"{where}: detection {wrong[0]} has the label {labels[wrong[0]]}, "
            f"but the labels of {num_labels} classes are 1..{num_labels} (0 is the background)"
        )
    return labels


def raise_if_boxes_unfit(boxes: Tensor, scores: Tensor, where: str) -> None:
    """boxes: float[N, 4], xyxy; scores: float[N]. In NumPy, which is faster with few numbers."""
    if boxes.shape != (scores.numel(), 4):
        raise ValueError(
            f"{where}: expected boxes_xyxy[N, 4] and scores[N], but got "
            f"{list(boxes.shape)} and {list(scores.shape)}"
        )
    corners = boxes.numpy()
    for what, values in (("score", scores.numpy()), ("box", corners)):
        finite = np.isfinite(values)
        if not finite.all():
            row = int(np.argwhere(~finite)[0, 0])
            raise ValueError(
                f"{where}: the {what} of detection {row} of {len(values)} is not a number or is "
                f"infinite: {values[row].tolist()}. Has the training diverged?"
            )
    inverted = corners[:, 2:] < corners[:, :2]
    if inverted.any():
        row = int(inverted.any(axis=1).argmax())
        raise ValueError(
            f"{where}: the box of detection {row} ends before it begins: "
            f"{corners[row].tolist()}. Boxes are x1, y1, x2, y2; was it given as x, y, w, h?"
        )


def raise_if_masks_unfit(prediction: Prediction, where: str) -> None:
    """Raise ValueError unless there is a mask of the image's size for each detection."""
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


def raise_if_keypoints_unfit(prediction: Prediction, num_keypoints: int, where: str) -> None:
    """Raise ValueError unless each detection has the ground truth's number of finite keypoints."""
    keypoints = prediction.keypoints
    if keypoints is None:
        raise ValueError(f"{where}: keypoints are to be scored, but the prediction has none")
    if keypoints.shape != (len(prediction), num_keypoints, 3):
        raise ValueError(
            f"{where}: the objects of the ground truth have {num_keypoints} keypoints, so that "
            f"keypoints[{len(prediction)}, {num_keypoints}, 3] were expected, but got "
            f"{list(keypoints.shape)}"
        )
    if not bool(keypoints.isfinite().all()):
        raise ValueError(
            f"{where}: a keypoint is not a number or is infinite. Has the training diverged?"
        )
