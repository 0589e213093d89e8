import pickle
from dataclasses import replace

import torch
from hypothesis import given
from hypothesis import strategies as st

from detengine.structures.categories import Categories
from detengine.structures.ground_truth import GroundTruth, PackedBytes


@given(st.lists(st.binary(max_size=9)))
def test_packed_strings_come_out_as_they_went_in(strings: list[bytes]) -> None:
    packed = PackedBytes.from_list(strings)
    assert [packed[i] for i in range(len(packed))] == strings
    assert packed.data.dtype == torch.uint8
    assert packed.offsets.tolist()[-1] == sum(map(len, strings))


def test_packed_strings_own_their_memory() -> None:
    source = bytearray(b"ab")
    packed = PackedBytes.from_list([bytes(source)])
    packed.data[0] = ord("x")
    assert (packed[0], bytes(source)) == (b"xb", b"ab")


def _truth() -> GroundTruth:
    return GroundTruth(
        categories=Categories(("a",), (3,)),
        image_ids=torch.tensor([5, 2, 9]),
        image_sizes=torch.tensor([[4, 6]] * 3),
        file_names=PackedBytes.from_list([b"b.png", "ü/a.png".encode(), b"c.png"]),
        offsets=torch.tensor([0, 2, 2, 3]),
        annotation_ids=torch.tensor([1, 2, 3]),
        category_ids=torch.tensor([3, 3, 3]),
        boxes_xywh=torch.rand(3, 4, dtype=torch.float64),
        areas=torch.rand(3, dtype=torch.float64),
        is_crowd=torch.zeros(3, dtype=torch.bool),
        is_difficult=torch.zeros(3, dtype=torch.bool),
    )


def test_annotations_are_found_by_image() -> None:
    truth = _truth()
    assert len(truth) == 3
    found = [truth.annotation_ids[truth.annotations_of(i)].tolist() for i in range(3)]
    assert found == [[1, 2], [], [3]]
    assert truth.file_name(1) == "ü/a.png"


def test_it_survives_pickling_for_workers_that_are_not_forked() -> None:
    truth = _truth()
    copy = pickle.loads(pickle.dumps(truth))
    assert torch.equal(copy.boxes_xywh, truth.boxes_xywh)
    assert copy.file_name(1) == truth.file_name(1)


def test_the_digest_is_the_same_for_the_same_data_and_another_for_any_change() -> None:
    torch.manual_seed(0)
    truth = _truth()
    same = replace(truth, boxes_xywh=truth.boxes_xywh.clone())
    others = [
        replace(truth, boxes_xywh=truth.boxes_xywh + 1e-9),
        replace(truth, file_names=PackedBytes.from_list([b"b.pn", "gü/a.png".encode(), b"c.png"])),
        replace(truth, categories=Categories(("b",), (3,))),
        replace(truth, image_ids=truth.image_ids.flip(0)),
        replace(truth, masks=PackedBytes.from_list([b"", b"x", b""])),
    ]
    assert same.digest() == truth.digest()
    assert len({each.digest() for each in [truth, *others]}) == 6
