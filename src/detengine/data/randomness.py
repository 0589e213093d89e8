"""Randomness as a function of a position, such as (seed, epoch, index), and of nothing else."""

import contextlib
import hashlib
import random
import struct
from collections.abc import Iterator

import numpy as np
import torch


@contextlib.contextmanager
def seeded(*position: int) -> Iterator[None]:
    """Draw from torch's (CPU), Python's and NumPy's generators as seeded by `position` alone.

    Afterwards all three stand where they stood before. position: integers, as in mix_seed.
    """
    seed = mix_seed(*position)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()
    # not torch.manual_seed, which seeds every device as well and takes a hundred times as long
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        random.setstate(before[1])
        np.random.set_state(before[2])


def mix_seed(*position: int) -> int:
    """One seed in 0 .. 2^63 - 1 from several integers; neighbours give unrelated seeds."""
    digest = hashlib.blake2b(struct.pack(f"<{len(position)}q", *position), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
