"""How large images go into the network, and which anchors suit the objects then."""

from dataclasses import dataclass

from detengine.choosing.survey import Survey

_STEP = 32
_MOST_ENLARGED = 2.0
"""Interpolated pixels cost as much as others and show nothing more."""
_SMALLEST = 256
_LONGER = 5 / 3
"""The longer side's limit relative to the shorter side, as in 1333 to 800, at the least."""
_LONGEST = 3.0
_CROP = 256
"""The side of a crop on a CPU: the same seconds buy more iterations (configs/bccd.yaml)."""
_FITS_CROP = 0.8
_FIRST_ANCHOR = 1.25
"""Relative to the smallest objects but a tenth."""
_LEAST_ANCHOR = 8
_NEEDS_STRIDE_4 = 24
"""Pixels of an anchor below which stride 8 leaves too few places for it."""


@dataclass(frozen=True)
class Sizes:
    """In pixels of the network's input. small, large: as in Survey, after resizing."""

    shorter: int
    longer: int
    crop: int | None
    small: float
    median: float
    large: float


def choose_sizes(found: Survey, *, least: int, most: int, wanted: float, may_crop: bool) -> Sizes:
    """The shorter side at which all objects but a quarter of them have `wanted` pixels or more.

    It stays between least and most, and below twice the files'. may_crop: whether training takes
    crops, where nearly all objects fit.
    """
    ideal = found.short_side * wanted / found.lower
    limit = max(_SMALLEST, found.short_side * _MOST_ENLARGED)
    shorter = _to_step(min(max(ideal, least), most, limit))
    scale = shorter / found.short_side
    longer = _to_step(shorter * min(max(found.aspect, _LONGER), _LONGEST))
    large = found.large * scale
    crop = _CROP if may_crop and large <= _FITS_CROP * _CROP and shorter >= _CROP else None
    return Sizes(shorter, longer, crop, found.small * scale, found.median * scale, large)


def _to_step(pixels: float) -> int:
    return max(_STEP, round(pixels / _STEP) * _STEP)


def choose_anchors(sizes: Sizes) -> tuple[list[int], list[int]]:
    """The strides of the pyramid's levels and the anchor of each, doubling from level to level.

    Stride 4, the dearest level, is there for small objects only; 32, the coarsest map of the body,
    always, and 64 behind it for large ones.
    """
    first = max(_LEAST_ANCHOR, 2 * round(sizes.small * _FIRST_ANCHOR / 2))
    strides = [4, 8, 16, 32] if first < _NEEDS_STRIDE_4 else [8, 16, 32]
    if first * 2 ** len(strides) <= sizes.large:
        strides.append(64)
    return strides, [first * 2**n for n in range(len(strides))]


def choose_ratios(found: Survey) -> list[float] | None:
    """Further shapes of anchors where more than one object in twenty is beyond 1 : 3; else None."""
    flat, upright = found.ratios
    ratios = [0.5, 1.0, 2.0]
    if flat < 1 / 3:
        ratios.insert(0, 0.25)
    if upright > 3:
        ratios.append(4.0)
    return ratios if len(ratios) > 3 else None
