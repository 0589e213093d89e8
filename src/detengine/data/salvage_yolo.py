"""Everything that is wrong with a YOLO folder, and what is left of it."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from detengine.data import yolo
from detengine.data.annotations import FoundImages, named_categories
from detengine.data.images import read_size
from detengine.data.lists import is_file, read_list
from detengine.data.object_columns import FoundObject
from detengine.data.salvage import each_once, pack_what_is_possible
from detengine.structures.finding import Problem
from detengine.structures.ground_truth import GroundTruth


def salvage_yolo(
    images: Path, labels: Path | None, classes: Sequence[str], name: str, problems: list[Problem]
) -> tuple[GroundTruth, Path]:
    """As `load_yolo`, without the images and lines that it refuses, added to the problems.

    Raises FileNotFoundError where there is no image at all.
    """
    folder = images.parent if images.suffix == ".txt" else images
    file_names: list[str] = []
    sizes: list[tuple[int, int]] = []
    objects: list[FoundObject] = []
    for file_name in _names(images, folder, labels, name, problems):
        try:
            size = read_size(folder / file_name)
        except (ValueError, OSError) as error:
            problems.append(Problem(file_name, str(error)))
            continue
        place = yolo.labels_of(folder, file_name, labels)
        for each in _objects(place, size, classes, problems):
            number, box, area, mask = each
            objects.append(
                FoundObject(len(file_names), len(objects) + 1, number, box, area, mask=mask)
            )
        file_names.append(file_name)
        sizes.append(size)
    found = FoundImages(range(1, len(file_names) + 1), file_names, sizes)
    categories = named_categories(f"data set {name!r}", classes, range(len(classes)))
    return pack_what_is_possible(images, categories, found, objects, problems), folder


def _names(
    images: Path, folder: Path, labels: Path | None, name: str, problems: list[Problem]
) -> list[str]:
    """Of all images, each once."""
    is_list = images.suffix == ".txt"
    names = list(_listed(images, problems)) if is_list else yolo.images_in(folder)
    if not names:
        raise FileNotFoundError(f"data set {name!r} has no images in {images}. Correct its IMAGES.")
    places = [yolo.labels_of(folder, each, labels) for each in names]
    try:
        yolo.raise_if_no_labels(images, labels, places, name)
    except FileNotFoundError as error:
        problems.append(Problem(images.name, str(error)))
    return each_once(images, names, problems)


def _listed(path: Path, problems: list[Problem]) -> Iterator[str]:
    for number, name in read_list(path):
        if not is_file(path.parent / name):
            message = (
                f"{path}:{number} names {name!r}, but there is no file {path.parent / name}. Paths "
                "start at the folder of the list."
            )
            problems.append(Problem(f"line {number}", message))
        else:
            yield Path(name).as_posix()


def _objects(
    path: Path, size: tuple[int, int], classes: Sequence[str], problems: list[Problem]
) -> Iterator[yolo.YoloObject]:
    try:
        lines = yolo.label_lines(path)
    except ValueError as error:
        problems.append(Problem(path.name, str(error)))
        return
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield yolo.read_line(line.split(), size, classes)
            except ValueError as error:
                problems.append(Problem(f"{path.name}:{number}", f"{path}:{number}: {error}"))
