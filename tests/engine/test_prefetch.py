import threading
from functools import partial

import pytest
import torch

from detengine.engine.prefetch import batches_on, work_beside
from detengine.structures.batch import Batch
from detengine.structures.masks import RunLengthMasks

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def batch_of(number: int) -> Batch:
    masks = RunLengthMasks.from_dense(torch.eye(4)[None] > 0)
    target = {"boxes": torch.full((1, 4), float(number)), "masks": masks, "name": "a"}
    target |= {"image_size": torch.tensor([4, 4])}
    return Batch([torch.full((3, 4, 4), number, dtype=torch.uint8)], [target], [number])


def test_on_a_cpu_the_loaders_batches_come_as_they_are() -> None:
    batches = [batch_of(number) for number in range(3)]
    for given, taken in zip(batches, batches_on(batches, CPU), strict=True):
        assert isinstance(taken, Batch)
        assert all(a is b for a, b in zip(given, taken, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_copied_batch_is_the_loaders_and_nobody_waits_for_it() -> None:
    batches = [batch_of(number) for number in range(50)]
    sums = []
    for batch in batches_on(batches, CUDA):
        [image], [target] = batch.images, batch.targets
        torch.cuda._sleep(100_000)
        sums.append(image.sum() + target["boxes"].sum() + target["masks"].run_ends.sum())
        assert target["image_size"].device == CPU
        assert target["name"] == "a"
    ends = batches[0].targets[0]["masks"].run_ends.sum()
    assert [int(each - ends) for each in sums] == [52 * number for number in range(50)]


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_work_is_taken_in_the_order_in_which_it_was_asked_for(device: torch.device) -> None:
    taken = []
    first_may_go_on = threading.Event()

    def prepare(number: int) -> int:
        if number == 0 and device != CPU:
            first_may_go_on.wait(10)  # the others are ready before it
        return number

    with work_beside(device) as submit:
        for number in range(40):
            submit(taken.append, partial(prepare, number))
            submit(partial(taken.append, -number))
        first_may_go_on.set()
    assert taken == [each for number in range(40) for each in (number, -number)]


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_an_error_of_a_piece_of_work_is_raised_as_it_is(device: torch.device) -> None:
    def refuse(value: int) -> None:
        raise ValueError(f"cannot take {value}")

    with pytest.raises(ValueError, match="cannot take 3"), work_beside(device) as submit:
        submit(refuse, lambda: 3)
    with pytest.raises(ZeroDivisionError), work_beside(device) as submit:
        submit(refuse, lambda: 1 // 0)


def test_what_was_asked_for_is_done_also_where_the_block_ends_by_an_error() -> None:
    taken: list[int] = []

    def ask_and_fail() -> None:
        with work_beside(CUDA) as submit:
            for number in range(20):
                submit(taken.append, partial(int, number))
            raise KeyError

    with pytest.raises(KeyError):
        ask_and_fail()
    assert taken == list(range(20))


def test_too_much_waiting_work_makes_the_next_wait() -> None:
    may_go_on = threading.Event()
    asked = []

    def ask() -> None:
        with work_beside(CUDA) as submit:
            for number in range(200):
                asked.append(number)
                submit(lambda _: may_go_on.wait(10), partial(int, number))

    asking = threading.Thread(target=ask)
    asking.start()
    asking.join(0.5)
    assert len(asked) < 100
    may_go_on.set()
    asking.join(10)
    assert len(asked) == 200
