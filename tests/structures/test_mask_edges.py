import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from detengine.structures.mask_edges import Window, _sources, edges_by_solving

SIZE = (480, 640)


def _blobs(number, grid=28):
    """float32[number, grid + 2, grid + 2] with a border of zeros: trained masks look like this."""
    generator = torch.Generator().manual_seed(number)
    line = torch.linspace(-1, 1, grid)
    noise = torch.randn(number, grid, grid, generator=generator)
    blobs = (8 * (0.9 - line[:, None] ** 2 - line**2) + 0.5 * noise).sigmoid()
    return F.pad(blobs, (1, 1, 1, 1)).numpy()


def _window(mask, x, y, width, height):
    right, bottom = min(x + width, SIZE[1]), min(y + height, SIZE[0])
    return Window(mask, x, y, width, height, max(x, 0), right, max(y, 0), bottom)


@settings(max_examples=100, deadline=None)
@given(
    grid=st.sampled_from([3, 7, 16, 30, 58]),
    side=st.integers(1, 900),
    other=st.sampled_from([1, 2, 127, 128, 300]),
)
def test_the_kernel_weights_a_side_alike_whatever_the_other_side_is(grid, side, other):
    """Torch has a kernel for small outputs and one for large ones, and asks for either axis."""
    ramp = torch.arange(grid).double()
    source = torch.from_numpy(_sources(grid, side, other)[1:-1])
    whole = source.floor().long()
    low, high = ramp[whole] % 2, ramp[(whole + 1).clamp(max=grid - 1)] % 2
    expected = (low + (source - whole) * (high - low)).float()
    for across in (False, True):
        image = (ramp % 2).float().expand(grid, grid)
        image, out = (image, (other, side)) if across else (image.T, (side, other))
        given = F.interpolate(image[None, None].contiguous(), size=out, mode="bilinear")[0, 0]
        found = given[0] if across else given[:, 0]
        # a weight and what is missing to 1 are rounded each for itself
        torch.testing.assert_close(found, expected, rtol=0, atol=2**-24)


@pytest.mark.parametrize("grid", [3, 30, 58])
@pytest.mark.parametrize("side", [1, 2, 29, 30, 31, 640, 9000])
def test_pixels_are_read_in_their_order_and_within_the_grid(grid, side):
    sources = _sources(grid, side, side)[1:-1]
    assert len(sources) == side
    assert (np.diff(sources) >= 0).all()
    assert sources[0] >= 0
    assert sources[-1] <= grid - 1


def test_few_masks_are_left_to_the_kernel():
    padded = _blobs(200)
    windows = [_window(n, 3 * n % 500, 2 * n % 300, 5 + 2 * n, 9 + n) for n in range(200)]
    edges, unsure = edges_by_solving(padded, windows, SIZE, 0.5)
    assert len(edges) > 20_000
    assert len(unsure) <= 6


def test_a_mask_that_is_the_threshold_somewhere_is_left_to_the_kernel():
    padded = _blobs(3)
    padded[1, 10:20, 10:20] = 0.5
    windows = [_window(n, 10, 10, 100, 100) for n in range(3)]
    _, unsure = edges_by_solving(padded, windows, SIZE, 0.5)
    assert unsure.tolist() == [1]


def test_without_a_border_that_is_outside_all_masks_are_left_to_the_kernel():
    windows = [_window(n, 10, 10, 100, 100) for n in range(3)]
    for threshold in (0.0, -1.0, 1e-8):
        edges, unsure = edges_by_solving(_blobs(3), windows, SIZE, threshold)
        assert len(edges) == 0
        assert unsure.tolist() == [0, 1, 2]
