import gc
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from detengine.data.collate import collate
from detengine.data.shared_batches import SharedBatches
from detengine.structures.batch import Batch, Sample
from detengine.structures.masks import RunLengthMasks

SIZE = (70, 90)


def _sample(number: int) -> Sample:
    generator = torch.Generator().manual_seed(number)
    pixels = torch.randint(0, 256, (*SIZE, 3), dtype=torch.uint8, generator=generator)
    dense = torch.randint(0, 2, (number % 3, *SIZE), dtype=torch.uint8, generator=generator)
    target = {
        "boxes": torch.rand(number % 3, 4, generator=generator),
        "masks": RunLengthMasks.from_dense(dense),
        "dense": dense,
        "image_size": torch.tensor(SIZE),
        "weights": torch.rand(8, 2000, generator=generator).to(torch.bfloat16).t(),
        "kept": torch.rand(20000, generator=generator) < 0.5,
        "name": f"sample {number}",
    }
    return Sample(pixels.permute(2, 0, 1), target, number)


class Samples(Dataset[Sample]):
    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> Sample:
        return _sample(index)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, RunLengthMasks):
        yield from (value.run_ends, value.offsets)
    elif isinstance(value, dict):
        yield from (part for each in value.values() for part in _tensors(each))
    elif isinstance(value, tuple | list):
        yield from (part for each in value for part in _tensors(each))


def _assert_same(batch: Batch, other: Batch) -> None:
    assert type(batch) is type(other) is Batch
    assert batch.image_ids == other.image_ids
    assert [t["name"] for t in batch.targets] == [t["name"] for t in other.targets]
    for one, two in zip(_tensors(batch), _tensors(other), strict=True):
        assert one.dtype == two.dtype
        assert one.stride() == two.stride() or one.numel() <= 1 or one.nbytes <= 16384
        assert torch.equal(one, two)


def _loader(workers: int, **options: Any) -> DataLoader[Any]:
    return DataLoader(
        Samples(), batch_size=2, num_workers=workers, collate_fn=SharedBatches(), **options
    )


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_batches_are_those_of_collate_however_they_travel(method: str) -> None:
    loader = _loader(2, multiprocessing_context=method, persistent_workers=True)
    for _ in range(2):
        for number, batch in enumerate(loader):
            _assert_same(batch, collate([_sample(2 * number), _sample(2 * number + 1)]))


def test_in_the_main_process_it_is_collate() -> None:
    (first, *_) = _loader(0)
    _assert_same(first, collate([_sample(0), _sample(1)]))


def test_batches_that_are_kept_are_not_written_over() -> None:
    kept = list(_loader(2))
    for number, batch in enumerate(kept):
        _assert_same(batch, collate([_sample(2 * number), _sample(2 * number + 1)]))


def test_batches_of_an_earlier_pass_outlive_its_workers() -> None:
    loader = _loader(1)
    kept = list(loader)
    for _ in loader:
        pass
    for number, batch in enumerate(kept):
        _assert_same(batch, collate([_sample(2 * number), _sample(2 * number + 1)]))


def test_a_block_is_used_again_once_its_batch_is_gone() -> None:
    loader = _loader(1)
    for batch in loader:
        del batch
    blocks = loader.collate_fn.received  # type: ignore[attr-defined]
    assert len(blocks) <= 4
    gc.collect()
    assert not any(int(block[0]) for block in blocks.values())


def _through(shared: SharedBatches, batch: Batch) -> Batch:
    """What a worker sends, without a worker."""
    receive, message = shared.pack(batch, 0).__reduce__()
    received: Batch = receive(*message)
    return received


def test_a_block_is_taken_until_the_last_of_its_large_tensors_is_gone() -> None:
    shared, batch = SharedBatches(), collate([_sample(2)])
    received = _through(shared, batch)
    (block,) = shared.received.values()
    row = received.images[0][0, 3]
    sizes = received.targets[0]["image_size"]
    del received
    assert block[0] == 1
    assert torch.equal(row, batch.images[0][0, 3])
    del row
    assert block[0] == 0
    assert sizes.tolist() == list(SIZE)


def test_a_second_batch_takes_the_same_block_and_sends_no_memory() -> None:
    shared, batch = SharedBatches(), collate([_sample(1)])
    _through(shared, batch)
    _, (_, _, position, memory, _, message) = shared.pack(batch, 0).__reduce__()
    assert (position, memory) == (0, None)
    assert len(message) < 4096


def test_a_larger_batch_gets_a_larger_block() -> None:
    shared = SharedBatches()
    _through(shared, collate([_sample(1)]))
    many = collate([_sample(number) for number in range(60)])
    _assert_same(_through(shared, many), many)
    (block,) = shared.received.values()
    assert len(block) > sum(image.nbytes for image in many.images)


def test_beyond_its_blocks_a_worker_goes_on_without_waiting() -> None:
    shared = SharedBatches()
    batches = [collate([_sample(number)]) for number in range(9)]
    received = [_through(shared, batch) for batch in batches]
    for one, two in zip(received, batches, strict=True):
        _assert_same(one, two)
    assert len(shared.received) == 4


def test_what_arrives_can_be_written_to_and_is_shared_only_where_it_was() -> None:
    image = torch.zeros(3, 90, 90, dtype=torch.uint8)
    batch = Batch([image, image], [{"a": torch.zeros(2)}, {"a": torch.zeros(0, 4)}], [1, 2])
    received = _through(SharedBatches(), batch)
    assert received.images[0] is received.images[1]
    assert received.targets[1]["a"].shape == (0, 4)
    received.images[0].fill_(7)
    received.targets[0]["a"].fill_(7)
    assert batch.images[0].sum() == 0


def test_what_is_no_plain_tensor_is_sent_as_torch_sends_it() -> None:
    spectrum = torch.fft.fft(torch.arange(4000.0))
    trained = torch.nn.Parameter(torch.ones(5000))
    batch = Batch([], [{"spectrum": spectrum, "trained": trained}], [])
    (target,) = _through(SharedBatches(), batch).targets
    assert torch.equal(target["spectrum"], spectrum)
    assert isinstance(target["trained"], torch.nn.Parameter)


def test_a_loader_may_be_gone_before_its_batches_are() -> None:
    batches = iter(_loader(1))
    gc.collect()
    for number, batch in enumerate(batches):
        _assert_same(batch, collate([_sample(2 * number), _sample(2 * number + 1)]))


def test_a_loaders_copy_in_another_process_has_blocks_of_its_own() -> None:
    shared = SharedBatches()
    _through(shared, collate([_sample(1)]))
    state = pickle.dumps(SharedBatches())
    copy = pickle.loads(state)
    assert shared.received
    _assert_same(_through(copy, collate([_sample(2)])), collate([_sample(2)]))
    assert len(copy.received) == 1
