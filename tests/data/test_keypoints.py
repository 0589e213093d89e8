import json
from pathlib import Path

import torch

from detengine.data.keypoints import COCO_PERSON_KEYPOINTS, mirror_of_keypoints
from detengine.structures.categories import Categories
from detengine.structures.ground_truth import GroundTruth, PackedBytes


def _truth(joints: int, names: tuple[str, ...] = ()) -> GroundTruth:
    nothing = torch.empty(0, dtype=torch.int64)
    return GroundTruth(
        Categories((), ()), nothing, torch.empty(0, 2), PackedBytes.from_list([]),
        torch.zeros(1, dtype=torch.int64), nothing, nothing, torch.empty(0, 4), torch.empty(0),
        torch.empty(0).bool(), torch.empty(0).bool(), keypoints=torch.empty(0, joints, 3),
        keypoint_names=names,
    )  # fmt: skip


def test_sides_change_by_their_names() -> None:
    names = ("tip", "left_wing", "right_wing", "left_foot")
    assert mirror_of_keypoints(_truth(4, names)) == (0, 2, 1, 3)


def test_17_keypoints_without_names_are_cocos() -> None:
    mirror = mirror_of_keypoints(_truth(17))
    assert mirror is not None
    assert [mirror[i] for i in mirror] == list(range(17))
    assert COCO_PERSON_KEYPOINTS[mirror[9]] == "right_wrist"


def test_other_keypoints_without_names_have_no_known_sides() -> None:
    assert mirror_of_keypoints(_truth(5)) is None


def test_names_and_pairs_are_the_predecessors(shared: Path) -> None:
    recorded = json.loads((shared / "golden/small/keypoint_names.json").read_text())
    assert list(COCO_PERSON_KEYPOINTS) == recorded["names"]
    mirror = mirror_of_keypoints(_truth(17)) or ()
    for left, right in recorded["flip_map"].items():
        assert COCO_PERSON_KEYPOINTS[mirror[COCO_PERSON_KEYPOINTS.index(left)]] == right
