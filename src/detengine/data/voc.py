"""PASCAL VOC's folders: ImageSets/Main/<split>.txt, Annotations/<id>.xml, JPEGImages/<id>.*.

Other programs write the xml files without a split, often beside the images.

Format: the VOC2012 development kit. Pixels there are counted from 1 and a box includes its last
ones, so that xmin = 1, xmax = 10 covers the first ten columns: in continuous coordinates 0 to 10.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from detengine.data.annotations import (
    FoundImages,
    named_categories,
    pack_annotations,
    raise_if_twice,
)
from detengine.data.images import read_size
from detengine.data.lists import read_list
from detengine.data.object_columns import FoundObject
from detengine.data.voc_pages import VocPage, read_page
from detengine.structures.ground_truth import GroundTruth

_NO_IMAGES = frozenset({".xml", ".txt", ".json"})
"""What other programs put beside the images."""


def load_voc(
    root: Path,
    split: str | None,
    classes: Sequence[str] | None,
    name: str,
    *,
    annotations: str = "Annotations",
    images: str = "JPEGImages",
) -> GroundTruth:
    """Read one split of a VOC folder. name: for messages.

    Image ids are 1, 2, ... in the order of the split's file; annotation ids likewise, over all its
    images; category ids 1, 2, ... in the order of the classes. split: None for all xml files, by
    name. classes: all that may occur, or None for the sorted names that do. annotations, images:
    the folders in root. An image is <images>/<id> with any suffix, or its <filename>.
    Raises FileNotFoundError for a missing file, ValueError for a class that is not among `classes`,
    for xml that is damaged or has a DTD, and for an impossible box; each names the file.
    """
    image_folder = root / images
    stems = read_stems(root, split, name, annotations=annotations)
    source = source_of(root, split, annotations=annotations)
    raise_if_twice(source, "image", stems)
    pages = [read_page(root / annotations / f"{stem}.xml") for stem in stems]
    file_names = _find_images(image_folder, stems, pages)
    sizes = [
        page.size or read_size(image_folder / file_name)
        for page, file_name in zip(pages, file_names, strict=True)
    ]
    names = tuple(classes) if classes is not None else names_found(pages)
    categories = named_categories(f"data set {name!r}", names, range(1, len(names) + 1))
    category_ids = dict(zip(categories.names, categories.ids, strict=True))
    found = [(image, page, each) for image, page in enumerate(pages) for each in page.objects]
    objects = [
        FoundObject(
            image=image,
            annotation_id=annotation_id,
            category_id=category_id_of(page.path, each.name, category_ids),
            box_xywh=each.box_xywh,
            area=each.box_xywh[2] * each.box_xywh[3],
            is_difficult=each.is_difficult,
        )
        for annotation_id, (image, page, each) in enumerate(found, start=1)
    ]
    found_images = FoundImages(range(1, len(stems) + 1), file_names, sizes)
    return pack_annotations(source, categories, found_images, objects)


def source_of(root: Path, split: str | None, *, annotations: str) -> Path:
    """What says which images there are: the split's file, or the folder of the xml files."""
    return root / annotations if split is None else split_file(root, split)


def split_file(root: Path, split: str) -> Path:
    return root / "ImageSets" / "Main" / f"{split}.txt"


def read_stems(root: Path, split: str | None, name: str, *, annotations: str) -> list[str]:
    """The ids of the images as they are listed, doubled ones included."""
    if split is None:
        return _all_stems(root / annotations, name)
    return _read_split(root, split, name)


def _read_split(root: Path, split: str, name: str) -> list[str]:
    path = split_file(root, split)
    if not path.is_file():
        there = sorted(each.stem for each in path.parent.glob("*.txt"))
        raise FileNotFoundError(
            f"data set {name!r} has no split {split!r}: {path} does not exist. "
            f"Splits found there: {', '.join(there) or 'none'}. "
            "Correct its ROOT or SPLIT, or DATASETS.ROOT."
        )
    stems = [stem for _, stem in read_list(path)]
    for stem in stems:
        if Path(stem).is_absolute():
            raise ValueError(f"{path} lists {stem!r}; expected ids of images, not their paths")
    return stems


def _all_stems(folder: Path, name: str) -> list[str]:
    stems = sorted(each.stem for each in folder.glob("*.xml"))
    if not stems:
        raise FileNotFoundError(
            f"data set {name!r} has no annotations: {folder} "
            f"{'holds no .xml file' if folder.is_dir() else 'does not exist'}. "
            "Correct its ROOT or ANNOTATIONS, or DATASETS.ROOT."
        )
    return stems


def names_found(pages: Iterable[VocPage]) -> tuple[str, ...]:
    """The classes of all objects, sorted."""
    return tuple(sorted({each.name for page in pages for each in page.objects}))


def category_id_of(path: Path, name: str, category_ids: Mapping[str, int]) -> int:
    """The id of an object's class. Raises ValueError for one that is not among the data set's."""
    if name not in category_ids:
        raise ValueError(
            f"{path} has the unknown class {name!r}; the data set's CLASSES are "
            f"{', '.join(category_ids)}. Add it there, or correct the file. "
            "(DATASETS.CLASSES chooses a subset to train and score.)"
        )
    return category_ids[name]


def _find_images(folder: Path, stems: Sequence[str], pages: Sequence[VocPage]) -> list[str]:
    """Each image's name in the folder. Its id goes before its <filename>, which is often stale."""
    names_of_stem = names_by_stem(folder)
    return [
        find_image(folder, stem, page, names_of_stem)
        for stem, page in zip(stems, pages, strict=True)
    ]


def names_by_stem(folder: Path) -> dict[str, list[str]]:
    """The names of a folder's files, but for those that are no images, by their stems."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} does not exist: a VOC data set keeps its images there")
    found: dict[str, list[str]] = defaultdict(list)
    for file in folder.iterdir():
        if file.suffix.lower() not in _NO_IMAGES:
            found[file.stem].append(file.name)
    return found


def find_image(
    folder: Path, stem: str, page: VocPage, names_of_stem: Mapping[str, Sequence[str]]
) -> str:
    """The image's name in the folder. Raises FileNotFoundError if it is not clear, or not there."""
    candidates = names_of_stem.get(stem, [])
    named = page.file_name
    if len(candidates) == 1:
        return candidates[0]
    if named and (named in candidates or (not candidates and (folder / named).is_file())):
        return named
    raise FileNotFoundError(
        f"the image of {page.path} must be {folder / stem} with one suffix, or its "
        f"<filename> ({named}), but {', '.join(sorted(candidates)) or 'neither'} is there"
    )
