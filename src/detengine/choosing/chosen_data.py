"""The part of a recipe that says what is trained on and what is learnt of it."""

from collections.abc import Mapping
from typing import Any

from detengine.choosing.recipe import Recipe
from detengine.choosing.survey import Survey
from detengine.data.recognition import RecognisedData

_OUTLINES = 0.05
"""From this fraction of masks that are no rectangles on, they are worth learning."""
_FEW = 10


def definitions_of(found: RecognisedData) -> dict[str, Any]:
    """The keys of DATASETS that name what was recognised."""
    keys: dict[str, Any] = {"DATASETS.ROOT": str(found.folder)}
    keys |= {f"DATASETS.DEFINE.{name}": dict(each) for name, each in found.definitions.items()}
    return keys | {"DATASETS.TRAIN": list(found.train), "DATASETS.TEST": list(found.val)}


def put_data(recipe: Recipe, found: RecognisedData, numbers: Survey) -> None:
    """Everything under DATASETS; classes without an object to train on are left out."""
    keys = definitions_of(found)
    recipe.put("Relative paths start here.", {"DATASETS.ROOT": keys.pop("DATASETS.ROOT")})
    recipe.put("PART divides the images by their names." if found.held_out else "", keys)
    unseen = [name for name, count in numbers.class_counts.items() if not count]
    if unseen:
        used = [name for name, count in numbers.class_counts.items() if count]
        why = f"Without {', '.join(unseen[:_FEW])}, of which there is no object to train on."
        recipe.put(why, {"DATASETS.CLASSES": used})


def task_of(numbers: Survey, given: Mapping[str, Any]) -> tuple[str, str]:
    """bbox, segm or keypoints, and why. given: what wins over the data, by key."""
    masks, keypoints = given.get("MODEL.MASK_ON"), given.get("MODEL.KEYPOINT_ON")
    if keypoints is not False and (numbers.keypoints or keypoints):
        whole = numbers.masks == numbers.objects and masks is None
        also = " There are masks as well: MODEL.MASK_ON True learns them too." if whole else ""
        return "keypoints", f"Its one class has {numbers.keypoints} keypoints.{also}"
    if masks is not None:
        return ("segm" if masks else "bbox"), f"MODEL.MASK_ON is {masks}, as it was given."
    return _by_masks(numbers)


def _by_masks(numbers: Survey) -> tuple[str, str]:
    objects, masks = numbers.objects, numbers.masks
    if not masks:
        return "bbox", "There are boxes only."
    if masks < objects:
        return "bbox", (
            f"Only {masks:,} of {objects:,} objects have a mask, so that boxes are learnt. With "
            "MODEL.MASK_ON True those without are left out of training."
        )
    if numbers.outlines < _OUTLINES:
        return "bbox", "All masks are the boxes' rectangles, so that boxes are learnt."
    return "segm", f"All {objects:,} objects have a mask."
