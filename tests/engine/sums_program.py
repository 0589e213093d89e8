"""usage: python sums_program.py TIMES, which prints how many gradients features[indices] has."""

import json
import sys

import torch

from detengine.engine.determinism import deterministic


def gradients_seen(times: int, *, enabled: bool) -> int:
    """Of the same features, by two threads; each index is there a hundred times."""
    features = torch.randn(2000, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    indices = torch.randint(0, 200, (20000,), generator=torch.Generator().manual_seed(1))
    weights = torch.randn(20000, 8, generator=torch.Generator().manual_seed(2))
    seen = set()
    with deterministic(torch.device("cpu"), enabled=enabled):
        for _ in range(times):
            [gradient] = torch.autograd.grad((features[indices] * weights).sum(), features)
            seen.add(gradient.numpy().tobytes())
    return len(seen)


if __name__ == "__main__":
    torch.set_num_threads(2)
    number = int(sys.argv[1])
    print(
        json.dumps(
            {
                "on": gradients_seen(number, enabled=True),
                "off": gradients_seen(number, enabled=False),
            }
        )
    )
