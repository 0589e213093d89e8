import pickle
from dataclasses import replace
from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from detengine.structures.categories import Categories
from detengine.structures.ground_truth import (
    VOID,
    FederatedLabels,
    GroundTruth,
    IgnoredRegions,
    PackedBytes,
    PackedIntegers,
)


@given(st.lists(st.binary(max_size=9), min_size=1), st.lists(st.integers(0, 99), max_size=9))
def test_chosen_strings_are_joined_in_their_order(strings: list[bytes], chosen: list[int]) -> None:
    positions = [each % len(strings) for each in chosen]
    data, bounds = PackedBytes.from_list(strings).joined(torch.tensor(positions, dtype=torch.int64))
    joined, stops = data.numpy().tobytes(), bounds.tolist()
    assert data.dtype == torch.uint8
    assert [joined[a:b] for a, b in pairwise(stops)] == [strings[each] for each in positions]


@given(st.lists(st.binary(max_size=9)))
def test_packed_strings_come_out_as_they_went_in(strings: list[bytes]) -> None:
    packed = PackedBytes.from_list(strings)
    assert [packed[i] for i in range(len(packed))] == strings
    assert packed.data.dtype == torch.uint8
    assert packed.offsets.tolist()[-1] == sum(map(len, strings))
    for first in range(len(strings) + 1):
        for stop in range(first, len(strings) + 1):
            assert packed.between(first, stop) == strings[first:stop]


@given(st.lists(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5)))
def test_packed_integers_come_out_as_they_went_in(lists: list[list[int]]) -> None:
    packed = PackedIntegers.from_lists(lists)
    assert [packed[i] for i in range(len(packed))] == lists
    assert packed.data.dtype == packed.offsets.dtype == torch.int64


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
        *(
            replace(truth, ignored_regions=IgnoredRegions.from_lists(regions))
            for regions in ([[], [], []], [[(3, b"x")], [], []], [[], [(3, b"x")], []])
        ),
        replace(truth, ignored_regions=IgnoredRegions.from_lists([[(VOID, b"x")], [], []])),
        replace(truth, ignored_regions=IgnoredRegions.from_lists([[(3, b"y")], [], []])),
    ]
    assert same.digest() == truth.digest()
    assert len({each.digest() for each in [truth, *others]}) == 11


def _federated(
    negative: list[list[int]], not_exhaustive: list[list[int]], frequencies: tuple[str, ...]
) -> FederatedLabels:
    return FederatedLabels(
        PackedIntegers.from_lists(negative), PackedIntegers.from_lists(not_exhaustive), frequencies
    )


def test_federated_labels_are_found_by_image() -> None:
    labels = pickle.loads(pickle.dumps(_federated([[7, 3], [], [5]], [[], [3], [7, 5]], ("r",))))
    assert [labels.negative_ids(i) for i in range(3)] == [[7, 3], [], [5]]
    assert [labels.not_exhaustive_ids(i) for i in range(3)] == [[], [3], [7, 5]]


def test_the_digest_covers_the_federated_labels_and_is_as_ever_without() -> None:
    torch.manual_seed(0)
    truth = _truth()
    labels = [
        _federated([[3], [], []], [[], [], []], ("r",)),
        _federated([[], [3], []], [[], [], []], ("r",)),
        _federated([[], [], []], [[3], [], []], ("r",)),
        _federated([[3], [], []], [[], [], []], ("c",)),
    ]
    digests = [replace(truth, federated=each).digest() for each in labels]
    assert len({truth.digest(), *digests}) == 5
    assert (
        replace(truth, federated=_federated([[3], [], []], [[], [], []], ("r",))).digest()
        == (digests[0])
    )
    fixed = replace(truth, boxes_xywh=torch.ones(3, 4).double(), areas=torch.ones(3).double())
    assert fixed.digest() == "a0325825e1d69b7c89749f9f309161a02c570a3310c71d08e14a6f9f3037d846"


def test_the_digest_is_that_of_before_where_there_are_no_ignored_regions() -> None:
    truth = replace(
        _truth(),
        boxes_xywh=torch.arange(12, dtype=torch.float64).view(3, 4),
        areas=torch.arange(3, dtype=torch.float64),
    )
    assert truth.digest() == "a3d02956961424e32d23e8c2bdeb37b216710f7db22d340ebf2a848de5f78939"


def test_ignored_regions_are_found_by_image() -> None:
    regions = [[(3, b"ab"), (VOID, b"c")], [], [(VOID, b"def")]]
    packed = IgnoredRegions.from_lists(regions)
    assert [packed.of_image(index) for index in range(3)] == regions
    assert packed.category_ids.dtype == torch.int64
    assert IgnoredRegions.from_lists([[], []]).of_image(1) == []
