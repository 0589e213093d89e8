from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detengine.data.annotations import FoundImages, pack_annotations
from detengine.data.object_columns import FoundObject
from detengine.data.segmentation import encode_polygons
from detengine.structures.categories import Categories
from detengine.structures.ground_truth import GroundTruth

SHARED = Path(__file__).parents[2] / "../shared"
SIZE = (40, 60)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the repository."""
    if not (SHARED / "data").is_dir():
        pytest.skip("../shared is not there")
    return SHARED


@pytest.fixture
def make_truth() -> Callable[..., GroundTruth]:
    """Two images of 40 x 60 (height x width), the objects all in the first.

    objects: of each a box (xywh), and what FoundObject takes besides; category 1 is cat, 2 dog.
    """

    def make(*objects: dict[str, Any]) -> GroundTruth:
        found = [
            FoundObject(
                **{"image": 0, "annotation_id": number, "category_id": 1, "area": 0, **each}
            )
            for number, each in enumerate(objects)
        ]
        images = FoundImages([1, 2], ["a.png", "b.png"], [SIZE, SIZE])
        return pack_annotations(Path("x"), Categories(("cat", "dog"), (1, 2)), images, found)

    return make


@pytest.fixture
def mask_of() -> Callable[[list[float]], bytes]:
    """(polygon) -> its mask in such an image."""
    return lambda polygon: encode_polygons([polygon], SIZE)
