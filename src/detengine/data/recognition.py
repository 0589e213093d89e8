"""What a folder of data holds: in which format, which splits, which classes. Without torch.

Nothing is guessed where two readings are possible: that is an error, which names both and shows how
to say it in a file.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from detengine.data.folder_listing import Listing, list_folder
from detengine.data.recognised_coco import find_coco
from detengine.data.recognised_splits import Definition, FoundData
from detengine.data.recognised_voc import find_voc
from detengine.data.recognised_yolo import find_yolo

FINDERS = {"COCO": find_coco, "PASCAL VOC": find_voc, "YOLO": find_yolo}
"""By the format's name, what finds it in a folder: FoundData, None, or ValueError for a doubt."""
HELD_OUT = 0.2
"""The part of the images that is scored on where the data has no split of its own for it."""
_FEW = 10


@dataclass(frozen=True)
class RecognisedData:
    """A folder's data sets, as DATASETS.DEFINE takes them, with the folder as DATASETS.ROOT.

    format: COCO, PASCAL VOC or YOLO. train, val, test: names in `definitions`; test is neither
    trained on nor looked at on the way. class_names: all that the files name. held_out: whether
    val is a part of the training images (PART). notes: what was chosen, and what was passed over.
    """

    folder: Path
    format: str
    definitions: Mapping[str, Definition]
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    class_names: tuple[str, ...]
    held_out: bool
    notes: tuple[str, ...]


def recognise(folder: str | Path) -> RecognisedData:
    """Look at the folder, and read no more of it than it takes to know what it is.

    Raises FileNotFoundError or ValueError, each with the cure, if nothing is recognised, if there
    is more than one way to read it, or if a file there is damaged.
    """
    listing = list_folder(Path(folder))
    name, found = _find(listing)
    base = _identifier(listing.root)
    splits, notes, held_out = dict(found.splits), list(found.notes), not found.splits.get("val")
    if held_out:
        splits["val"] = [{**each, "PART": [0.0, HELD_OUT]} for each in splits["train"]]
        splits["train"] = [{**each, "PART": [HELD_OUT, 1.0]} for each in splits["train"]]
        notes.append(
            f"there is no split to score on: {HELD_OUT * 100:.0f} % of the images are held out for "
            "it, drawn by their names (PART)"
        )
    names = {split: _names(base, split, len(each)) for split, each in splits.items()}
    definitions = {
        name: definition
        for split, each in splits.items()
        for name, definition in zip(names[split], each, strict=True)
    }
    return RecognisedData(
        folder=listing.root,
        format=name,
        definitions=definitions,
        train=names["train"],
        val=names["val"],
        test=names.get("test", ()),
        class_names=found.class_names,
        held_out=held_out,
        notes=tuple(notes),
    )


def _find(listing: Listing) -> tuple[str, FoundData]:
    """The first format that the folder has. Others are mentioned, should they be there too."""
    passed_over: list[str] = []
    for name, finder in FINDERS.items():
        found = finder(listing, passed_over)
        if found is not None:
            others = [other for other in _after(name) if _is_there(listing, other)]
            notes = [*found.notes, *(f"there is {other}, too; it is not used" for other in others)]
            return name, replace(found, notes=notes)
    raise ValueError(_nothing_found(listing, passed_over))


def _after(name: str) -> list[str]:
    names = list(FINDERS)
    return names[names.index(name) + 1 :]


def _is_there(listing: Listing, name: str) -> bool:
    try:
        return FINDERS[name](listing, []) is not None
    except (ValueError, OSError):  # what is not used need not be in order
        return True


def _nothing_found(listing: Listing, passed_over: list[str]) -> str:
    suffixes = Counter(
        Path(name).suffix.lower() or name for names in listing.files.values() for name in names
    )
    images = sum(len(listing.images_in(folder)) for folder in listing.files)
    if not suffixes:
        there = "it is empty"
    elif images and images == suffixes.total():
        there = f"it holds {images} images and nothing that says what is in them"
    else:
        ordered = sorted(suffixes.items(), key=lambda each: (-each[1], each[0]))[:_FEW]
        listed = ", ".join(f"{count} {suffix}" for suffix, count in ordered)
        there = f"it holds {listed}"
    looked_at = "".join(f"\n  {each}" for each in passed_over[:_FEW])
    return (
        f"no data set was recognised in {listing.root}: {there}. Expected images with one of: a "
        "COCO json (images, annotations, categories); PASCAL VOC xml files; YOLO .txt files, with "
        "data.yaml or classes.txt for the names of the classes."
        + (f" Looked at, and passed over:{looked_at}" if looked_at else "")
        + "\nOther layouts are described in a configuration file, under DATASETS.DEFINE."
    )


def _identifier(root: Path) -> str:
    """The folder's own name as a part of data sets' names."""
    return re.sub(r"\W+", "_", root.resolve().name).strip("_") or "data"


def _names(base: str, split: str, count: int) -> tuple[str, ...]:
    if count == 1:
        return (f"{base}_{split}",)
    return tuple(f"{base}_{split}_{number}" for number in range(1, count + 1))
