import torch

from detengine.data.collate import collate
from detengine.structures.batch import Sample


def test_images_of_any_size_stay_side_by_side_and_are_not_padded() -> None:
    samples = [Sample(torch.zeros(3, n, 4, dtype=torch.uint8), {"n": n}, 10 * n) for n in (2, 5)]
    batch = collate(samples)
    assert batch.images[0] is samples[0].image
    assert batch.images[1] is samples[1].image
    assert batch.targets == [{"n": 2}, {"n": 5}]
    assert batch.image_ids == [20, 50]
