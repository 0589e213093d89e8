"""Annotations that a reader lets pass, and that are most likely not what was meant."""

from typing import NamedTuple

import torch
from torch import Tensor

from detengine.data.annotations import image_of_annotation, masks_without_a_pixel, sizes_wh
from detengine.structures.finding import LISTED, Finding, Severity, counted
from detengine.structures.ground_truth import GroundTruth

_MOST_PIXELS_BEYOND = 1
"""As in `dataset`: rounding, and formats that count from 0 or 1."""
_MANY = 0.5
"""The share of images without annotations from which on that is worth a warning."""


def check_annotations(
    truth: GroundTruth, name: str, *, with_masks: bool, with_keypoints: bool, for_training: bool
) -> list[Finding]:
    """What is amiss with a data set's annotations. with_masks, with_keypoints: they are asked for.

    for_training: the data set is trained on, where an image without annotations is background.
    """
    checks = _check_boxes(truth)
    if with_masks:
        checks += _check_masks(truth)
    if with_keypoints:
        checks += _check_keypoints(truth)
    findings = [
        Finding(
            each.severity,
            name,
            f"{counted(int(each.culprits.sum()), 'annotation')} "
            f"{_agreeing(each.what, each.culprits)}: {_named(truth, each.culprits)}",
            _agreeing(each.cure, each.culprits),
        )
        for each in checks
        if each.culprits.any()
    ]
    findings += _empty_images(truth, name, for_training=for_training)
    return [*findings, *_set_aside(truth, name)]


class _Check(NamedTuple):
    """culprits: bool[N]. what: follows on "3 annotations"; in braces what depends on the number."""

    culprits: Tensor
    what: str
    cure: str
    severity: Severity = "warning"


def _check_boxes(truth: GroundTruth) -> list[_Check]:
    counts = truth.counting
    return [
        _Check(
            (truth.boxes_xywh[:, 2:] <= 0).any(dim=1) & counts,
            "without width or height, which {are} not trained on",
            "Draw {them} anew, or take {them} out.",
        ),
        _Check(
            (_pixels_beyond(truth) > _MOST_PIXELS_BEYOND) & counts,
            "with a box that reaches out of its image by more than a pixel; it is clipped",
            "Do the boxes belong to the images as they are stored? Look with `detengine show`.",
        ),
        _Check(
            _doubled(truth),
            "that {stand} twice: the same class and box in the same image",
            "Take one of each out: a model is punished for finding the object once.",
        ),
    ]


def _check_masks(truth: GroundTruth) -> list[_Check]:
    if truth.masks is None:
        return []
    empty = (truth.masks.offsets.diff() == 0) & truth.counting
    what = "without a mask, which {are} not trained on (MODEL.MASK_ON)"
    bare = masks_without_a_pixel(truth) & truth.counting
    return [
        _Check(empty, what, "Add the {masks}, or set MODEL.MASK_ON to False."),
        _Check(
            bare,
            "whose mask has no pixel, so that a model learns that there is nothing in the box",
            "Draw {them} anew, or take {them} out.",
        ),
    ]


def _check_keypoints(truth: GroundTruth) -> list[_Check]:
    if truth.num_keypoints is None:
        return []
    bare = (truth.num_keypoints == 0) & truth.counting
    what = "without a labelled keypoint (MODEL.KEYPOINT_ON): only {their} {boxes} {are} trained on"
    return [_Check(bare, what, "", "note"), *_check_visibilities(truth)]


def _check_visibilities(truth: GroundTruth) -> list[_Check]:
    if truth.num_keypoints is None or truth.keypoints is None:
        return []
    flags = truth.keypoints[:, :, 2]
    strange = ~((flags == 0) | (flags == 1) | (flags == 2)).all(dim=1)
    miscounted = (flags > 0).sum(dim=1) != truth.num_keypoints
    return [
        _Check(
            strange & truth.counting,
            "with a visibility that is none of 0, 1 and 2",
            "Any above 0 is taken for labelled; correct {them} if that is not meant.",
        ),
        _Check(
            miscounted & truth.counting,
            "whose num_keypoints is not the number of keypoints with a visibility above 0",
            "Scores leave out the objects that say 0; correct {them}.",
        ),
    ]


def _agreeing(text: str, culprits: Tensor) -> str:
    one = int(culprits.sum()) == 1
    forms = {
        "are": "is",
        "them": "it",
        "stand": "stands",
        "masks": "mask",
        "their": "its",
        "boxes": "box",
    }
    return text.format(**{many: single if one else many for many, single in forms.items()})


def _pixels_beyond(truth: GroundTruth) -> Tensor:
    """float64[N]: how far a box reaches out of its image."""
    corner = truth.boxes_xywh[:, :2]
    far_corner = corner + truth.boxes_xywh[:, 2:]
    return torch.maximum(-corner, far_corner - sizes_wh(truth)).amax(dim=1)


def _doubled(truth: GroundTruth) -> Tensor:
    """bool[N]: the second and further of equal ones."""
    rows = torch.cat(
        [
            image_of_annotation(truth)[:, None].double(),
            truth.category_ids[:, None].double(),
            truth.boxes_xywh,
        ],
        dim=1,
    )
    if not len(rows):
        return torch.zeros(0, dtype=torch.bool)
    _, kind = torch.unique(rows, dim=0, return_inverse=True)
    first = torch.full((int(kind.max()) + 1,), len(rows))
    first.scatter_reduce_(0, kind, torch.arange(len(rows)), "amin")
    return first[kind] != torch.arange(len(rows))


def _named(truth: GroundTruth, culprits: Tensor) -> str:
    """Annotations by id and file: `7 (a.jpg), 9 (b.jpg) and 3 more`."""
    positions = culprits.nonzero()[:, 0]
    image_of = image_of_annotation(truth)
    names = [
        f"{int(truth.annotation_ids[at])} ({truth.file_name(int(image_of[at]))})"
        for at in positions[:LISTED].tolist()
    ]
    rest = len(positions) - LISTED
    return ", ".join(names) + (f" and {rest:,} more" if rest > 0 else "")


def _empty_images(truth: GroundTruth, name: str, *, for_training: bool) -> list[Finding]:
    empty = (truth.offsets.diff() == 0).nonzero()[:, 0]
    if not len(empty):
        return []
    if len(empty) == len(truth):
        cure = "Give the right annotation file."
        return [Finding("error", name, "none of its images has an annotation", cure)]
    names = [truth.file_name(index) for index in empty[:LISTED].tolist()]
    more = f" and {len(empty) - LISTED:,} more" if len(empty) > LISTED else ""
    what = f"{counted(len(empty), 'image')} of {len(truth):,} without annotations: "
    many = len(empty) > _MANY * len(truth)
    meaning = "trained on as background" if for_training else "scored: any detection is a mistake"
    cure = "Make sure that nothing is to be found in them." if many else ""
    them = "It is" if len(empty) == 1 else "They are"
    return [
        Finding(
            "warning" if many else "note",
            name,
            f"{what}{', '.join(names)}{more}. {them} {meaning}.",
            cure,
        )
    ]


def _set_aside(truth: GroundTruth, name: str) -> list[Finding]:
    found = []
    for kind, flags in (("crowd", truth.is_crowd), ("difficult", truth.is_difficult)):
        if flags.any():
            number = int(flags.sum())
            them = "it is" if number == 1 else "they are"
            what = f"{counted(number, 'annotation')} marked as {kind}: {them} not trained on, and "
            found.append(Finding("note", name, f"{what}count neither as a hit nor as a miss"))
    return found
