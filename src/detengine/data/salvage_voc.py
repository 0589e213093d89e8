"""Everything that is wrong with a split of a VOC folder, and what is left of it."""

from collections.abc import Sequence
from pathlib import Path

from detengine.data import voc
from detengine.data.annotations import FoundImages, named_categories
from detengine.data.images import read_size
from detengine.data.object_columns import FoundObject
from detengine.data.salvage import each_once, pack_what_is_possible
from detengine.data.voc_pages import VocPage, read_page
from detengine.structures.categories import Categories
from detengine.structures.finding import Problem
from detengine.structures.ground_truth import GroundTruth


def salvage_voc(
    root: Path,
    split: str | None,
    classes: Sequence[str] | None,
    name: str,
    problems: list[Problem],
    *,
    annotations: str = "Annotations",
    images: str = "JPEGImages",
) -> GroundTruth:
    """As `load_voc`, without the images and objects that it refuses, added to the problems.

    Raises FileNotFoundError where the split or the image folder is not there at all.
    """
    folder, source = root / images, voc.source_of(root, split, annotations=annotations)
    names_of_stem = voc.names_by_stem(folder)
    stems = voc.read_stems(root, split, name, annotations=annotations)
    pages: list[VocPage] = []
    file_names: list[str] = []
    sizes: list[tuple[int, int]] = []
    for stem in each_once(source, stems, problems):
        try:
            page = read_page(root / annotations / f"{stem}.xml")
            file_name = voc.find_image(folder, stem, page, names_of_stem)
            size = page.size or read_size(folder / file_name)
        except (ValueError, OSError) as error:
            problems.append(Problem(stem, str(error)))
            continue
        pages.append(page)
        file_names.append(file_name)
        sizes.append(size)
    names = tuple(classes) if classes is not None else voc.names_found(pages)
    categories = named_categories(f"data set {name!r}", names, range(1, len(names) + 1))
    objects = _objects(pages, categories, problems)
    found = FoundImages(range(1, len(pages) + 1), file_names, sizes)
    return pack_what_is_possible(source, categories, found, objects, problems)


def _objects(
    pages: Sequence[VocPage], categories: Categories, problems: list[Problem]
) -> list[FoundObject]:
    category_ids = dict(zip(categories.names, categories.ids, strict=True))
    objects: list[FoundObject] = []
    for image, page in enumerate(pages):
        for each in page.objects:
            try:
                category_id = voc.category_id_of(page.path, each.name, category_ids)
            except ValueError as error:
                problems.append(Problem(page.path.name, str(error)))
                continue
            objects.append(
                FoundObject(
                    image=image,
                    annotation_id=len(objects) + 1,
                    category_id=category_id,
                    box_xywh=each.box_xywh,
                    area=each.box_xywh[2] * each.box_xywh[3],
                    is_difficult=each.is_difficult,
                )
            )
    return objects
