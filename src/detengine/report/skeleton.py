"""Keypoints and the lines between them."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

from detengine.report.colours import DARK, WHITE, Colour


def draw_skeleton(
    layer: Image.Image,
    points: Sequence[Sequence[float]],
    skeleton: Sequence[tuple[int, int]],
    colour: Colour,
    line_width: float,
) -> None:
    """One object's keypoints as dots, over a line for each pair of which both are visible.

    points: J times x, y, visibility, in pixels of the layer; those with visibility 0 are left out.
    skeleton: pairs of indices; those beyond J are of another kind of object, and left out.
    """
    pen = ImageDraw.Draw(layer)
    for first, second in skeleton:
        if max(first, second) < len(points) and points[first][2] and points[second][2]:
            ends = [*points[first][:2], *points[second][:2]]
            pen.line(ends, DARK, round(3.5 * line_width))
            pen.line(ends, colour, round(2 * line_width))
    radius, rim = 3 * line_width, max(1, round(line_width))
    for x, y, is_visible in points:
        if is_visible:
            corners = (x - radius, y - radius, x + radius, y + radius)
            pen.ellipse(corners, colour, WHITE, rim)
