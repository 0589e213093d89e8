"""The dearest batch is the dearest of all that could be drawn."""

from itertools import combinations

import torch

from detengine.data.largest_batch import dearest_batches, padded_area


def test_no_batch_has_a_larger_padded_area_nor_more_objects() -> None:
    generator = torch.Generator().manual_seed(0)
    for trial in range(20):
        sizes = torch.randint(1, 100, (7, 2), generator=generator)
        objects = torch.randint(0, 9, (7,), generator=generator)
        by_shape, number = trial % 2 == 0, 1 + trial % 4
        found = dearest_batches(sizes, objects, number, by_shape=by_shape)
        upright = sizes[:, 0] >= sizes[:, 1]
        drawn = [
            list(batch)
            for batch in combinations(range(7), number)
            if not by_shape or len(set(upright[list(batch)].tolist())) == 1
        ]
        if drawn:
            largest = max(padded_area(sizes[batch]) for batch in drawn)
            assert padded_area(sizes[found[0].indices]) == largest
            most = max(int(objects[batch].sum()) for batch in drawn)
            assert int(objects[found[-1].indices].sum()) == most
        assert all(len(each.indices) == number for each in found)


def test_the_largest_image_is_that_with_the_most_objects_among_equals() -> None:
    sizes = torch.tensor([[50, 50]] * 4)
    [found] = dearest_batches(sizes, torch.tensor([1, 5, 0, 3]), 2, by_shape=True)
    assert sorted(found.indices) == [1, 3]


def test_fewer_images_than_a_batch_fill_it_several_times() -> None:
    [found] = dearest_batches(torch.tensor([[5, 9]]), torch.tensor([2]), 3, by_shape=True)
    assert found.indices == [0, 0, 0]
