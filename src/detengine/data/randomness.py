"""Randomness as a function of a position, such as (seed, epoch, index), and of nothing else."""

import contextlib
import hashlib
import random
import struct
from collections.abc import Iterator

import numpy as np
import torch


@contextlib.contextmanager
def seeded(*position: int, device: torch.device | None = None) -> Iterator[None]:
    """Draw from torch's (CPU), Python's and NumPy's generators as seeded by `position` alone.

    Afterwards all three stand where they stood before. position: integers, as in mix_seed.
    device: whose generator is seeded and put back, too; that is all on the host.
    """
    seed = mix_seed(*position)
    # not torch.manual_seed, which seeds every device as well and takes a hundred times as long
    generators = [torch.default_generator]
    if device is not None and default_generator_of(device) is not torch.default_generator:
        generators.append(default_generator_of(device))
    before = [each.get_state() for each in generators], random.getstate(), np.random.get_state()
    for each in generators:
        each.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        for each, state in zip(generators, before[0], strict=True):
            each.set_state(state)
        random.setstate(before[1])
        np.random.set_state(before[2])


def default_generator_of(device: torch.device) -> torch.Generator:
    """What is drawn from on a device where no generator is named."""
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        return torch.cuda.default_generators[index]
    if device.type == "mps":
        return torch.mps._get_default_mps_generator()
    return torch.default_generator


def mix_seed(*position: int) -> int:
    """One seed in 0 .. 2^63 - 1 from several integers; neighbours give unrelated seeds."""
    digest = hashlib.blake2b(struct.pack(f"<{len(position)}q", *position), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
