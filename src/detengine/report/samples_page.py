"""One page with samples of a data set. Values in, an HTML file out that needs no other file."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from detengine import __version__
from detengine.report.rendering import data_address, render

_MOST_PIXELS = 1000
"""Of the longer side of a picture in the page."""
_QUALITY = 88


@dataclass(frozen=True)
class LegendEntry:
    """A class with its objects in the whole data set. colour: as CSS; "" for what is set aside."""

    name: str
    colour: str
    objects: int


@dataclass(frozen=True)
class EmbeddedPicture:
    """source: a data: URI."""

    source: str
    width: int
    height: int
    caption: str


@dataclass(frozen=True)
class ShownSample:
    """An image of the data set. problem: why it cannot be shown, or trained on."""

    file_name: str
    facts: Sequence[str]
    pictures: Sequence[EmbeddedPicture]
    problem: str | None = None


@dataclass(frozen=True)
class SamplesPage:
    """All of a page. facts: short ones, of the data set; problems: whole sentences."""

    name: str
    facts: Sequence[str]
    problems: Sequence[str]
    legend: Sequence[LegendEntry]
    samples: Sequence[ShownSample]


def embedded(picture: Image.Image, caption: str) -> EmbeddedPicture:
    """The picture in a page, as JPEG, with a longer side of at most 1000 pixels."""
    small = picture.copy()
    small.thumbnail((_MOST_PIXELS, _MOST_PIXELS), Image.Resampling.LANCZOS)
    return EmbeddedPicture(data_address(small, _QUALITY), small.width, small.height, caption)


def render_samples_page(page: SamplesPage) -> str:
    """The HTML. Whatever comes from the data is escaped by the template."""
    return render("samples.html", page=page, version=__version__)
