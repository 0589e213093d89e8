"""PASCAL VOC's xml files in a folder: with ImageSets, or as other programs write them."""

import posixpath
from collections.abc import Iterable

from detengine.data.folder_listing import Listing, is_image, split_of
from detengine.data.recognised_splits import FoundData, folder_of_images, name_in_a_file
from detengine.data.voc_pages import read_page

_LISTS = "ImageSets/Main"
_SPLITS = {"train": "train", "val": "val", "valid": "val", "test": "test"}
_ROOT_TAG = b"<annotation"
_LOOKED_AT = 1 << 12
"""Bytes of an xml file in which its first tag is looked for."""


def find_voc(listing: Listing, passed_over: list[str]) -> FoundData | None:
    """As find_coco, of xml files. Raises ValueError for a damaged one, too."""
    folders = [
        folder
        for folder in listing.files
        if (pages := _pages_in(listing, folder)) and _is_voc(listing, folder, pages, passed_over)
    ]
    if not folders:
        return None
    roots = [posixpath.dirname(each) for each in folders if _lists_of(listing, each)]
    if len(roots) > 1:
        train, val = (
            f"{{FORMAT: voc, ROOT: {root}, SPLIT: {split}}}"
            for root, split in ((roots[0], "train"), (roots[-1], "val"))
        )
        raise ValueError(
            f"{listing.root} holds several VOC data sets: {', '.join(roots)}. Name one of these "
            f"folders instead. {name_in_a_file(listing, train, val)}"
        )
    return _with_lists(listing, roots[0]) if roots else _without_lists(listing, folders)


def _pages_in(listing: Listing, folder: str) -> list[str]:
    return sorted(name for name in listing.files[folder] if name.lower().endswith(".xml"))


def _is_voc(listing: Listing, folder: str, pages: list[str], passed_over: list[str]) -> bool:
    paths = [posixpath.join(folder, page) for page in pages]
    path = next((each for each in paths if listing.path(each).is_file()), None)
    if path is None:
        return False
    with listing.path(path).open("rb") as file:
        is_page = _ROOT_TAG in file.read(_LOOKED_AT)
    if not is_page:
        passed_over.append(f"{path} is no VOC file: it has no <annotation>")
    return is_page


def _lists_of(listing: Listing, annotations: str) -> list[str]:
    """The splits that stand beside a folder of xml files called Annotations."""
    if posixpath.basename(annotations) != "Annotations":
        return []
    folder = posixpath.join(posixpath.dirname(annotations), _LISTS)
    names = listing.files.get(folder, frozenset())
    return sorted(
        posixpath.splitext(name)[0]
        for name in names
        if name.endswith(".txt") and listing.path(posixpath.join(folder, name)).stat().st_size
    )


def _with_lists(listing: Listing, root: str) -> FoundData:
    """VOC as it was: of its lists train and val, or else trainval; test stays what it is."""
    lists = _lists_of(listing, posixpath.join(root, "Annotations"))
    chosen = {_SPLITS[each]: each for each in lists if each in _SPLITS}
    if "train" not in chosen or ("val" not in chosen and "trainval" in lists):
        chosen.pop("val", None)
        if "trainval" in lists:
            chosen["train"] = "trainval"
        elif len(lists) == 1:
            chosen = {"train": lists[0]}
    if "train" not in chosen:
        raise ValueError(
            f"{listing.path(posixpath.join(root, _LISTS))} holds the lists {', '.join(lists)}, but "
            "neither train.txt nor trainval.txt; rename the one to train on"
        )
    folder = posixpath.join(root, "Annotations")
    classes = _classes(listing, [folder])
    splits = {
        split: [{"FORMAT": "voc", "ROOT": root or ".", "SPLIT": name, "CLASSES": list(classes)}]
        for split, name in chosen.items()
    }
    unused = sorted(set(lists) - set(chosen.values()))
    notes = [f"lists in ImageSets/Main that are not used: {', '.join(unused)}"] if unused else []
    return FoundData(splits, classes, notes)


def _without_lists(listing: Listing, folders: list[str]) -> FoundData:
    classes = _classes(listing, folders)
    splits: dict[str, list[dict[str, object]]] = {}
    for folder in folders:
        definition = _flat_definition(listing, folder) | {"CLASSES": list(classes)}
        splits.setdefault(split_of(folder) or "train", []).append(definition)
    if "train" not in splits:
        if len(splits) > 1:
            raise ValueError(
                f"{listing.root} holds xml files in {', '.join(folders)}, and none of these "
                "folders says by its name that it is for training; rename it to train"
            )
        splits = {"train": next(iter(splits.values()))}
    return FoundData(splits, classes)


def _flat_definition(listing: Listing, folder: str) -> dict[str, object]:
    stems = {posixpath.splitext(name)[0] for name in _pages_in(listing, folder)}
    names_of_images = {
        posixpath.splitext(name)[0]: name
        for names in listing.files.values()
        for name in sorted(names)
        if is_image(name) and posixpath.splitext(name)[0] in stems
    }
    file_names = sorted(names_of_images.values())
    images = folder_of_images(listing, folder, file_names, split_of(folder)) if file_names else None
    if images is None:
        raise FileNotFoundError(
            f"{listing.path(folder)} holds {len(stems)} VOC files, but no folder in {listing.root} "
            "has an image of their names. Put the images into the folder."
        )
    return {"FORMAT": "voc", "ROOT": ".", "ANNOTATIONS": folder or ".", "IMAGES": images or "."}


def _classes(listing: Listing, folders: Iterable[str]) -> tuple[str, ...]:
    """The sorted names of all objects in these folders. Raises ValueError for a damaged file."""
    return tuple(
        sorted(
            {
                each.name
                for folder in folders
                for name in _pages_in(listing, folder)
                for each in read_page(listing.path(posixpath.join(folder, name))).objects
            }
        )
    )
