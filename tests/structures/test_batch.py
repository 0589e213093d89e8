import torch

from detengine.structures.batch import Batch
from detengine.structures.masks import RunLengthMasks


def _batch() -> Batch:
    target = {
        "boxes": torch.rand(2, 4),
        "labels": torch.tensor([1, 2]),
        "masks": RunLengthMasks.from_counts([torch.tensor([4]), torch.tensor([0, 4])], (2, 2)),
        "image_size": torch.tensor([2, 2]),
        "original_size": torch.tensor([2, 2]),
    }
    return Batch([torch.zeros(3, 2, 2, dtype=torch.uint8)], [target], [5])


def test_a_batch_unpacks_as_the_predecessors() -> None:
    images, targets, image_ids = _batch()
    assert len(images) == len(targets) == len(image_ids) == 1


def test_what_else_a_target_holds_is_passed_on_as_it_is() -> None:
    target = {"boxes": torch.rand(1, 4), "image_id": 7, "file_name": "a.jpg"}
    (moved,) = Batch([], [target], [7]).to(torch.device("meta")).targets
    assert (moved["image_id"], moved["file_name"]) == (7, "a.jpg")
    assert moved["boxes"].device.type == "meta"


def test_moving_takes_everything_along_but_the_sizes() -> None:
    moved = _batch().to(torch.device("meta"))
    assert moved.image_ids == [5]
    assert moved.images[0].device.type == "meta"
    on_meta = {key: value.device.type == "meta" for key, value in moved.targets[0].items()
               if isinstance(value, torch.Tensor)}  # fmt: skip
    assert on_meta == {
        "boxes": True, "labels": True, "image_size": False, "original_size": False,
    }  # fmt: skip
    masks = moved.targets[0]["masks"]
    assert masks.run_ends.device.type == masks.offsets.device.type == "meta"
    assert masks.size == (2, 2)
