"""What every `GroundTruth` that a reader gives must be."""

from collections.abc import Callable

import torch
from driver import outcome, raise_if_unclear

from detengine.structures.finding import Problem
from detengine.structures.ground_truth import GroundTruth
from detengine.structures.rle import decode_counts


def raise_if_impossible(truth: GroundTruth) -> None:
    """Raise AssertionError for one that no data set can be."""
    images, objects = len(truth), len(truth.annotation_ids)
    assert len(truth.file_names) == len(truth.image_sizes) == images
    assert len(set(truth.image_ids.tolist())) == images
    assert bool((truth.image_sizes > 0).all())
    assert all(isinstance(truth.file_name(index), str) for index in range(images))
    assert truth.offsets.tolist()[0] == 0
    assert truth.offsets.tolist()[-1] == objects
    assert bool((truth.offsets.diff() >= 0).all())
    assert len(set(truth.annotation_ids.tolist())) == objects
    assert set(truth.category_ids.tolist()) <= set(truth.categories.ids)
    assert bool(truth.boxes_xywh.isfinite().all()), "a box that is not finite"
    assert bool((truth.boxes_xywh[:, 2:] >= 0).all())
    assert bool(truth.areas.isfinite().all()), "an area that is not finite"
    for index in range(images):
        height, width = truth.image_sizes[index].tolist()
        for row in range(*truth.annotations_of(index).indices(objects)):
            mask = b"" if truth.masks is None else truth.masks[row]
            assert not mask or int(decode_counts(mask).sum()) == height * width
    if truth.keypoints is not None:
        assert truth.keypoints.shape[0] == objects
        assert bool(truth.keypoints.isfinite().all()), "a keypoint that is not finite"
        assert truth.num_keypoints is not None
        assert len(truth.num_keypoints) == objects
        names = len(truth.keypoint_names)
        assert names in (0, truth.keypoints.shape[1])
    assert torch.equal(truth.offsets, truth.offsets.sort().values)
    assert truth.digest()


def check_salvage(
    read: GroundTruth | None,
    salvage: Callable[[list[Problem]], GroundTruth],
    named: str,
    is_excused: Callable[[GroundTruth], bool] = lambda _: False,
) -> None:
    """What the reader refuses is named, and what it does not is there, all of it.

    is_excused: whether what is left may lack what the reader missed, and nothing be said of it.
    """
    problems: list[Problem] = []
    left = outcome(lambda: salvage(problems), named)
    for each in problems:
        raise_if_unclear(each.message, named)
    if left is not None:
        raise_if_impossible(left)
    if read is None:
        assert left is None or problems or is_excused(left), "refused, but salvage finds nothing"
        return
    assert not problems, f"accepted, but salvage has {problems}"
    assert left is not None, "accepted, but salvage refuses it"
    assert left.digest() == read.digest(), "salvage reads something else"
