import random

import numpy as np
import pytest
import torch

from detengine.data.randomness import mix_seed, seeded


def _draw() -> tuple[float, float, float]:
    return torch.rand(()).item(), random.random(), np.random.rand()


def test_draws_depend_on_the_position_and_on_nothing_before() -> None:
    with seeded(0, 1, 2):
        first = _draw()
    _draw()
    with seeded(0, 1, 2):
        assert _draw() == first
    with seeded(0, 2, 1):
        assert all(a != b for a, b in zip(_draw(), first, strict=True))


def test_all_generators_stand_afterwards_where_they_stood_before() -> None:
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    expected = _draw()
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    with seeded(7):
        _draw()
    assert _draw() == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_devices_generator_is_seeded_and_put_back_where_it_is_asked_for() -> None:
    device = torch.device("cuda")
    before = torch.cuda.get_rng_state(device)
    with seeded(7, device=device):
        first = torch.rand(3, device=device)
    assert torch.equal(torch.cuda.get_rng_state(device), before)
    with seeded(7, device=device):
        assert torch.equal(torch.rand(3, device=device), first)


def test_the_seeds_of_many_positions_differ_and_fit_every_generator() -> None:
    seeds = [mix_seed(seed, epoch, i) for seed in (0, 1) for epoch in range(9) for i in range(99)]
    assert len(set(seeds)) == len(seeds)
    assert min(seeds) >= 0
    assert max(seeds) < 2**63
