"""What the finders of all formats share: splits as they are found, folders of images."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detengine.data.folder_listing import Listing, shared_beginning, split_of

Definition = Mapping[str, Any]
"""A data set as DATASETS.DEFINE takes it, its paths relative to the folder."""

_PROBES = 50
"""Images of a data set whose files are looked for."""
_SNIPPET = """\
  DATASETS:
    ROOT: {root}
    DEFINE:
      my_train: {train}
      my_val: {val}
    TRAIN: [my_train]
    TEST: [my_val]"""


@dataclass(frozen=True)
class FoundData:
    """splits: by train, val and test; train has one data set or more, val and test may be absent.
    class_names: of all of them, in their order. notes: what was chosen and passed over."""

    splits: Mapping[str, Sequence[Definition]]
    class_names: tuple[str, ...]
    notes: Sequence[str] = ()


def name_in_a_file(listing: Listing, train: str, val: str) -> str:
    """How a configuration file says which data sets are meant. train, val: definitions."""
    snippet = _SNIPPET.format(root=listing.root, train=train, val=val)
    return f"Say which are meant, in a file for -c:\n{snippet}\n(CONVENTIONS: modern at its top.)"


def folder_of_images(
    listing: Listing, source: str, file_names: Sequence[str], split: str | None
) -> str | None:
    """The folder in which the listed images are, relative to the root; None if there is none.

    source: the annotation file's folder; file_names: relative to the folder that is looked for.
    Of several folders the one with the most of them, then that of the split's name, then the one
    nearest to the annotations. Raises ValueError where two are as good.
    """
    step = max(1, len(file_names) // _PROBES)
    probes = file_names[::step]
    ranks = {
        folder: (
            sum(listing.has(folder, name) for name in probes),
            split is not None and split_of(folder) == split,
            shared_beginning(folder, source),
            folder == source,
        )
        for folder in listing.files
    }
    best = max(ranks.values(), default=(0,))
    if not best[0]:
        return None
    nearest = [folder for folder, rank in ranks.items() if rank == best]
    if len(nearest) > 1:
        raise ValueError(
            f"the images of {source or listing.root} may be in {_listed(nearest)} of "
            f"{listing.root}: both have files of the listed names. Take the wrong folder away, or "
            "name the right one as IMAGES in a configuration file, under DATASETS.DEFINE."
        )
    return nearest[0]


def by_split(paths: Iterable[str]) -> dict[str | None, list[str]]:
    """The paths by the split that they name, None for those that name none."""
    found: dict[str | None, list[str]] = {}
    for path in paths:
        found.setdefault(split_of(path), []).append(path)
    return found


def _listed(folders: Sequence[str]) -> str:
    return " or ".join(folder or "the folder itself" for folder in folders)
