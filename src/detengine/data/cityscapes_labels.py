"""Cityscapes' labels: which have objects, and which the benchmark's evaluation ignores.

Names, ids and flags are those of cityscapesscripts/helpers/labels.py.
"""

import numpy as np

CLASS_OF_ID = {
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    29: "caravan",
    30: "trailer",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
"""The labels with instances, by Cityscapes' id. The benchmark scores all but caravan and trailer;
the predecessor trains on them, too."""

CATEGORY_ID = {name: position for position, name in enumerate(CLASS_OF_ID.values(), start=1)}

FIRST_INSTANCE = 1000
"""A pixel of an object is 1000 * label id + the object's number; below are groups and stuff."""

NOT_DRAWN = "license plate"
"""Has the id -1 and no pixels: what is drawn below it is seen."""

_STUFF = (
    *("unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic"),
    *("ground", "road", "sidewalk", "parking", "rail track", "building", "wall", "fence"),
    *("guard rail", "bridge", "tunnel", "pole", "polegroup", "traffic light", "traffic sign"),
    *("vegetation", "terrain", "sky"),
)
"""The labels without instances, 0 to 23."""

_IGNORED = (0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30)
"""For caravans and trailers, 29 and 30, it is their groups that are void: a single one is not."""

VOID_CODE = 255
CODE_OF_PIXEL = np.zeros(FIRST_INSTANCE + 1, np.uint8)
"""The ignored region of a pixel below FIRST_INSTANCE, or at that of any object: 0 for none, the
category id of a group, or the code of void."""
CODE_OF_PIXEL[list(CLASS_OF_ID)] = list(CATEGORY_ID.values())
CODE_OF_PIXEL[list(_IGNORED)] = VOID_CODE

_CODE_OF_LABEL = {
    **{name: int(CODE_OF_PIXEL[label_id]) for label_id, name in enumerate(_STUFF)},
    **{f"{name}group": int(CODE_OF_PIXEL[label_id]) for label_id, name in CLASS_OF_ID.items()},
}


def code_of_label(label: str) -> int:
    """The ignored region of a polygon's label; 0 for an object, and for what is not Cityscapes'."""
    return _CODE_OF_LABEL.get(label, 0)
