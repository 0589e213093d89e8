"""The colours of what is drawn into pictures, and shown beside them."""

from collections.abc import Sequence

from torch import Tensor

Colour = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""

PALETTE: tuple[Colour, ...] = (
    (255, 90, 95),  # coral
    (0, 194, 168),  # teal
    (255, 180, 0),  # amber
    (80, 140, 255),  # blue
    (190, 100, 255),  # violet
    (123, 210, 52),  # lime
    (255, 122, 198),  # pink
    (0, 184, 240),  # sky
    (255, 130, 50),  # orange
    (40, 200, 110),  # green
    (242, 220, 60),  # yellow
    (140, 123, 255),  # periwinkle
)
DARK: Colour = (24, 26, 30)
GREY: Colour = (110, 115, 125)
WHITE: Colour = (255, 255, 255)


def colours_of(labels: Tensor, class_names: Sequence[str]) -> list[int]:
    """The palette's numbers: one for each class, or, of one class only, one for each object.

    labels: int64[N], 1..K.
    """
    return list(range(len(labels))) if len(class_names) == 1 else (labels - 1).tolist()


def colour_in_css(number: int) -> str:
    """A colour of the palette for a page, such as #ff5a5f."""
    red, green, blue = PALETTE[number % len(PALETTE)]
    return f"#{red:02x}{green:02x}{blue:02x}"
