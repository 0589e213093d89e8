"""Which keypoint takes whose place in a mirror."""

from collections.abc import Sequence

from detengine.structures.ground_truth import GroundTruth

COCO_PERSON_KEYPOINTS = (
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)


def mirror_of_keypoints(truth: GroundTruth) -> tuple[int, ...] | None:
    """For each keypoint the index of its mirror image, itself for one in the middle.

    By the names in the annotation file, COCO's where 17 keypoints have none; None if there is
    neither, so that sides are not known.
    """
    names = truth.keypoint_names
    if not names and truth.keypoints is not None:
        names = COCO_PERSON_KEYPOINTS if truth.keypoints.shape[1] == 17 else ()
    if not names:
        return None
    return _mirror_of_names(names)


def _mirror_of_names(names: Sequence[str]) -> tuple[int, ...]:
    index_of = {name: index for index, name in enumerate(names)}
    mirrored = [_other_side(name) for name in names]
    return tuple(index_of.get(other, index) for index, other in enumerate(mirrored))


def _other_side(name: str) -> str:
    if "left" in name:
        return name.replace("left", "right")
    return name.replace("right", "left")


COCO_PERSON_MIRROR = _mirror_of_names(COCO_PERSON_KEYPOINTS)
"""As `mirror_of_keypoints` gives it."""

COCO_PERSON_SKELETON = (
    *((0, 1), (0, 2), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6)),  # the head, down to the shoulders
    *((5, 6), (5, 7), (7, 9), (6, 8), (8, 10)),  # the arms
    *((5, 11), (6, 12), (11, 12)),  # the trunk
    *((11, 13), (13, 15), (12, 14), (14, 16)),  # the legs
)
"""Which keypoints a line connects: the `skeleton` of COCO's person category, counted from 0."""


def skeleton_of(num_keypoints: int) -> tuple[tuple[int, int], ...]:
    """Which of an object's keypoints a line connects: known of COCO's person, of others none."""
    return COCO_PERSON_SKELETON if num_keypoints == len(COCO_PERSON_KEYPOINTS) else ()
