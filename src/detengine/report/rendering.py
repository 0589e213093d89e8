"""What all pages have in common: how templates are filled, and how pictures are carried in them.

A page is one file that needs nothing else, no network and no other file.
"""

import base64
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

_TEMPLATES = Path(__file__).parent / "templates"


def render(
    template: str, filters: Mapping[str, Callable[..., str]] | None = None, **values: Any
) -> str:
    """The HTML of a template, in which every value is escaped that is no Markup.

    ground.css, what all pages look like, is there as `ground`.
    """
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters or {}
    return environment.get_template(template).render(ground=read_own("ground.css"), **values)


def read_own(name: str) -> Markup:
    """A file beside the templates, which goes into a page as it is."""
    return Markup((_TEMPLATES / name).read_text(encoding="utf-8"))


def data_address(picture: Image.Image, quality: int) -> str:
    """The picture as an address that holds it: a JPEG, in base64. quality: 1 to 95."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
