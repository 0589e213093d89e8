import torch

from detengine.structures.flat import copy_from_flat, flatten, group_by_kind


def test_tensors_of_any_shape_get_back_what_was_flattened() -> None:
    tensors = [torch.arange(6.0).view(2, 3), torch.tensor(7.0), torch.empty(0), torch.ones(2)]
    kept, flat = [tensor.clone() for tensor in tensors], flatten(tensors)
    for tensor in tensors:
        tensor.zero_()
    copy_from_flat(tensors, flat)
    assert all(torch.equal(one, other) for one, other in zip(tensors, kept, strict=True))


def test_tensors_are_grouped_by_dtype_in_their_order() -> None:
    one, two, three = torch.zeros(1), torch.zeros(2, dtype=torch.int64), torch.zeros(3)
    groups = group_by_kind([one, two, three])
    assert [[len(tensor) for tensor in group] for group in groups] == [[1, 3], [2]]
