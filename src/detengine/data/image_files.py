"""The image files of a data set, all of them: there, readable, and as the annotations say."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from detengine.data.images import orientation_of, read_image
from detengine.structures.finding import Finding, Problem, counted, gathered, listed
from detengine.structures.ground_truth import GroundTruth

_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".jpg", ".jpeg", ".mpo"),
    "PNG": (".png", ".apng"),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
}
"""The suffixes that a format goes by; of others nothing is said."""


@dataclass(frozen=True)
class ImageFile:
    """What one file is. index: of its image in the data set; problem: why it cannot be trained on.

    size: (height, width), upright; digest: of its upright pixels, equal for equal pictures whatever
    they are named or packed in; both None where it cannot be read.
    """

    index: int
    path: Path
    problem: str | None
    size: tuple[int, int] | None = None
    digest: bytes | None = None
    format: str = ""
    mode: str = ""
    orientation: int = 1
    is_absent: bool = False


def examine_images(truth: GroundTruth, folder: Path) -> Iterator[ImageFile]:
    """Each image of the data set, decoded, in its order; several at a time, on threads."""
    threads = ThreadPoolExecutor(os.cpu_count() or 1)

    def examine(index: int) -> ImageFile:
        height, width = truth.image_sizes[index].tolist()
        return examine_image(index, folder / truth.file_name(index), (height, width))

    try:
        yield from threads.map(examine, range(len(truth)))
    finally:
        threads.shutdown(cancel_futures=True)


def examine_image(index: int, path: Path, expected: tuple[int, int]) -> ImageFile:
    """One file. expected: the (height, width) that the annotations are for."""
    try:
        pixels = read_image(path)
        with Image.open(path) as header:
            kind, mode = header.format or "", header.mode
            orientation = orientation_of(header)
    except FileNotFoundError:
        message = f"{path} does not exist. Put it there, or take it out of the annotations."
        return ImageFile(index, path, message, is_absent=True)
    except (ValueError, OSError) as error:
        return ImageFile(index, path, str(error))
    size = (pixels.shape[1], pixels.shape[2])
    digest = hashlib.blake2b(pixels.permute(1, 2, 0).contiguous().numpy().data, digest_size=16)
    digest.update(repr(size).encode())
    problem = None if size == expected else _other_size(path, size, expected, orientation)
    return ImageFile(index, path, problem, size, digest.digest(), kind, mode, orientation)


def _other_size(
    path: Path, size: tuple[int, int], expected: tuple[int, int], orientation: int
) -> str:
    (height, width), (wanted_height, wanted_width) = size, expected
    turned = size[::-1] == expected and orientation != 1
    reason = (
        f"Its EXIF orientation ({orientation}) was not applied when it was annotated: turn the "
        "annotations, or take the orientation out of the file."
        if turned
        else "Give the annotations of this file, or the file that they were made for."
    )
    return (
        f"{path} has {width} x {height} pixels (width x height, upright), but its annotations are "
        f"for {wanted_width} x {wanted_height}. {reason}"
    )


def findings_of_images(files: Sequence[ImageFile], name: str, image_folder: Path) -> list[Finding]:
    """What is wrong, and what is unusual, with a data set's files."""
    broken = [each for each in files if each.problem is not None]
    absent = [each for each in broken if each.is_absent]
    if files and len(absent) == len(files):
        return [
            Finding(
                "error",
                name,
                f"none of its {counted(len(files), 'image')} is in {image_folder}; the first is "
                f"{files[0].path.name}",
                "Correct the data set's image folder, or DATASETS.ROOT.",
            )
        ]
    problems = [Problem(each.path.name, str(each.problem)) for each in broken]
    return [
        *gathered(problems, name),
        *_mislabelled(files, name),
        *_unusual(files, name),
    ]


def _mislabelled(files: Sequence[ImageFile], name: str) -> list[Finding]:
    wrong = [
        each
        for each in files
        if each.format in _SUFFIXES and each.path.suffix.lower() not in _SUFFIXES[each.format]
    ]
    if not wrong:
        return []
    named = [f"{each.path.name} is {each.format}" for each in wrong]
    return [
        Finding(
            "note",
            name,
            f"{counted(len(wrong), 'file')} whose suffix is not that of its format: "
            f"{listed(named)}",
            "They are read all the same; other programs may go by the suffix.",
        )
    ]


def _unusual(files: Sequence[ImageFile], name: str) -> list[Finding]:
    found = []
    modes = Counter(each.mode for each in files if each.mode not in ("", "RGB"))
    if modes:
        kinds = ", ".join(f"{number:,} in {mode}" for mode, number in modes.most_common())
        found.append(
            Finding("note", name, f"not all images are RGB: {kinds}", "They are read as RGB.")
        )
    turned = [each.path.name for each in files if each.orientation != 1]
    if turned:
        found.append(
            Finding(
                "note",
                name,
                f"{counted(len(turned), 'image')} with an EXIF orientation: {listed(turned)}",
                "They are turned upright, and annotations are taken for those of the upright "
                "image; look at some with `detengine show`.",
            )
        )
    return found
