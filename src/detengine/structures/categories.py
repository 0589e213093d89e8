"""The classes of a data set, and the only place where its ids meet the model's labels.

Three kinds of number stand for a class or an image, and are never mixed: `image_id` and
`category_id` are the data set's own; `label` is the model's, 1..K, with 0 for the background.
Labels and category ids are translated by the class's name, never by its position.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

_UNSEEN = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Unicode's control characters, halves of surrogates, and separators of lines and paragraphs."""


@dataclass(frozen=True)
class Categories:
    """A data set's classes: `names[i]` has the category id `ids[i]`.

    Raises ValueError if a name or an id stands twice, or a name is none.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.ids):
            raise ValueError(f"{len(self.names)} class names for {len(self.ids)} category ids")
        for name in self.names:
            raise_if_no_class_name(name)
        for kind, values in (("class name", self.names), ("category id", self.ids)):
            doubled = sorted({str(value) for value in values if values.count(value) > 1})
            if doubled:
                raise ValueError(
                    f"{kind} {doubled[0]!r} stands twice among the categories; each must be "
                    "unique, because labels are matched by name. Rename or remove one of them."
                )

    def __len__(self) -> int:
        return len(self.names)

    def ids_of_labels(self, class_names: Sequence[str]) -> list[int | None]:
        """The category id of each label 1..K; None where this data set has no such class."""
        id_of_name = dict(zip(self.names, self.ids, strict=True))
        return [id_of_name.get(name) for name in class_names]

    def labels_of_ids(self, class_names: Sequence[str]) -> dict[int, int]:
        """The label of each category id; classes that are not among `class_names` are left out."""
        label_of_name = {name: label for label, name in enumerate(class_names, start=1)}
        return {
            category_id: label_of_name[name]
            for name, category_id in zip(self.names, self.ids, strict=True)
            if name in label_of_name
        }


def raise_if_no_class_name(name: str, source: object = None) -> None:
    """Raise ValueError for a class name that is blank, or breaks the lines of tables and logs.

    source: what it stands in, for the message.
    """
    where = "" if source is None else f"{source}: "
    if not name.strip():
        raise ValueError(f"{where}the class name {name!r} is blank. Give the class a name.")
    if not name.isprintable() and any(unicodedata.category(each) in _UNSEEN for each in name):
        raise ValueError(
            f"{where}the class name {name!r:.100} has a line break or another control character. "
            "Rename the class."
        )


def merge_class_names(categories: Sequence[Categories]) -> tuple[str, ...]:
    """The classes of several data sets together, each once, in order of first appearance."""
    return tuple(dict.fromkeys(name for each in categories for name in each.names))


def raise_if_classes_unknown(
    class_names: Sequence[str], dataset: Categories, dataset_name: str
) -> None:
    """Raise ValueError, with a table of both sides, if the data set has a class the model lacks."""
    unknown = [name for name in dataset.names if name not in class_names]
    if not unknown:
        return
    width = max(len("model"), *(len(name) for name in class_names)) if class_names else 5
    rows = [f"  {'label':>5}  {'model':<{width}}  {dataset_name}"]
    for label, name in enumerate(class_names, start=1):
        rows.append(f"  {label:>5}  {name:<{width}}  {name if name in dataset.names else '-'}")
    rows.extend(f"  {'-':>5}  {'-':<{width}}  {name}" for name in unknown)
    raise ValueError(
        f"{dataset_name} has {len(unknown)} of {len(dataset)} classes that the model does not "
        f"know: {', '.join(unknown[:10])}. Classes are matched by name:\n" + "\n".join(rows) + "\n"
        "Rename them in the data set, or list those to be used under DATASETS.CLASSES."
    )
