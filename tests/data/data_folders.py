"""Folders of data as users have them: pictures, and files that say what is in them."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from detengine.data.recognition import RecognisedData

LABEL = "0 0.5 0.5 0.2 0.2\n"
XML = (
    "<annotation><object><name>{}</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>8</xmax>"
    "<ymax>8</ymax></bndbox></object></annotation>"
)


def picture(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 10)).save(path)
    return path.name


def coco(path: Path, file_names: list[str], **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"id": n, "file_name": name} for n, name in enumerate(file_names)]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    content = {"images": images, "annotations": [], "categories": categories, **more}
    path.write_text(json.dumps(content))
    return path


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def yolo(root: Path, images: str, labels: str, names: str = "ab") -> None:
    for name in names:
        picture(root / images / f"{name}.png")
        text(root / labels / f"{name}.txt", LABEL)


def of(found: RecognisedData, split: str) -> dict[str, Any]:
    """The one definition of a split, without its format and classes."""
    [name] = getattr(found, split)
    assert name == f"{found.folder.name}_{split}".replace("-", "_")
    definition = dict(found.definitions[name])
    return {key: each for key, each in definition.items() if key not in ("FORMAT", "CLASSES")}
