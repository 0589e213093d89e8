"""The same picture twice: within a data set, or in one that is trained on and one that is not."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from detengine.data.image_files import ImageFile
from detengine.structures.finding import Finding, counted, listed

Named = tuple[str, ImageFile]
"""A data set's name, and a file of it."""


def check_doubles(files: Sequence[ImageFile], name: str) -> list[Finding]:
    """Pictures that a data set has more than once, under whatever names."""
    groups = [group for group in _by_digest([(name, each) for each in files]) if len(group) > 1]
    if not groups:
        return []
    pairs = [" = ".join(each.path.name for _, each in group) for group in groups]
    return [
        Finding(
            "warning",
            name,
            f"{counted(len(groups), 'picture is', 'pictures are')} there more than once, pixel by "
            f"pixel: {listed(pairs)}",
            "Keep one of each: the others count twice, and may be annotated otherwise.",
        )
    ]


def check_leaks(
    trained: Mapping[str, Sequence[ImageFile]], scored: Mapping[str, Sequence[ImageFile]]
) -> list[Finding]:
    """Pictures that are trained on and scored, which makes scores better than they are.

    trained, scored: the files of each data set of DATASETS.TRAIN and TEST, by its name.
    """
    found = []
    for train_name, train_files in trained.items():
        for test_name, test_files in scored.items():
            if train_name == test_name:
                found.append(_same_set(train_name))
            else:
                found += _leaks_between((train_name, train_files), (test_name, test_files))
    return found


def _same_set(name: str) -> Finding:
    return Finding(
        "warning",
        name,
        "it is trained on and scored (DATASETS.TRAIN and TEST): the scores say how well it is "
        "fitted, and nothing about other pictures",
        "Score on images that are not trained on.",
    )


def _leaks_between(
    trained: tuple[str, Sequence[ImageFile]], scored: tuple[str, Sequence[ImageFile]]
) -> list[Finding]:
    (train_name, train_files), (test_name, test_files) = trained, scored
    where = f"{train_name} and {test_name}"
    of_digest = {each.digest: each for each in train_files if each.digest is not None}
    same = [(of_digest[each.digest], each) for each in test_files if each.digest in of_digest]
    findings = _namesakes(train_files, test_files, {id(other) for _, other in same}, where)
    if not same:
        return findings
    names = [(one.path.name, other.path.name) for one, other in same]
    pairs = [one if one == other else f"{one} = {other}" for one, other in names]
    leak = Finding(
        "warning",
        where,
        f"{counted(len(same), 'picture is', 'pictures are')} in both, pixel by pixel: "
        f"{listed(pairs)}. Scores on {test_name} are better than the model is",
        f"Take them out of {train_name} or out of {test_name}.",
    )
    return [leak, *findings]


def _namesakes(
    train_files: Sequence[ImageFile], test_files: Sequence[ImageFile], leaked: set[int], where: str
) -> list[Finding]:
    """Files of one name with other pixels. leaked: the test files that are told of already."""
    known = {each.path.name for each in train_files}
    found = [
        each
        for each in test_files
        if each.path.name in known and id(each) not in leaked and each.digest is not None
    ]
    if not found or _are_numbered(found):
        return []
    return [
        Finding(
            "note",
            where,
            f"{counted(len(found), 'file name is', 'file names are')} in both, with other "
            f"pixels: {listed([each.path.name for each in found])}",
            "Make sure that these are not the same pictures, saved anew.",
        )
    ]


def _are_numbered(files: Sequence[ImageFile]) -> bool:
    """Whether the names are mere numbers, which mean nothing from one folder to another."""
    return all(Path(each.path.stem).name.strip("0123456789_-") == "" for each in files)


def _by_digest(files: Sequence[Named]) -> list[list[Named]]:
    groups: dict[bytes, list[Named]] = defaultdict(list)
    for name, each in files:
        if each.digest is not None:
            groups[each.digest].append((name, each))
    return list(groups.values())
