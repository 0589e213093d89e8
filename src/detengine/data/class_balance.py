"""How often each class occurs in each data set."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from detengine.data.annotations import image_of_annotation
from detengine.structures.finding import Finding, counted, listed
from detengine.structures.ground_truth import GroundTruth

FEW_OBJECTS = 20
"""A class of fewer in training is hardly learned."""
_UNEVEN = 100
"""So many times the rarest class' objects are worth a note."""
_OR_REPEAT = ", or repeat those that are there (DATALOADER.REPEAT_THRESHOLD)"


@dataclass(frozen=True)
class ClassCount:
    """Of one class in one data set: its objects, crowds and difficult ones left out."""

    objects: int
    images: int


def count_classes(truth: GroundTruth) -> dict[str, ClassCount]:
    """By the class' name, in the data set's order."""
    ids = truth.category_ids[truth.counting]
    occurring, which = torch.unique(ids, return_inverse=True)
    pairs = torch.unique(which * len(truth) + image_of_annotation(truth)[truth.counting])
    objects, images = Counter(ids.tolist()), Counter(occurring[pairs // len(truth)].tolist())
    return {
        name: ClassCount(objects[category_id], images[category_id])
        for name, category_id in zip(truth.categories.names, truth.categories.ids, strict=True)
    }


def check_balance(
    trained: Mapping[str, Mapping[str, ClassCount]],
    scored: Mapping[str, Mapping[str, ClassCount]],
    class_names: Sequence[str],
) -> list[Finding]:
    """What the numbers say. trained, scored: of each data set. class_names: those that are used."""
    train = {name: _total(trained, name) for name in class_names}
    findings = []
    if trained:
        findings += _rare_classes(train, " + ".join(trained))
    if scored and trained:
        never = [name for name in class_names if train[name] and not _total(scored, name)]
        if never:
            where = " + ".join(scored)
            what = f"no object of {listed(never)}: {_plural(never, 'it is', 'they are')} not scored"
            findings.append(Finding("note", where, what, "Put images with such objects into it."))
    return findings


def _total(sets: Mapping[str, Mapping[str, ClassCount]], name: str) -> int:
    return sum(of_set[name].objects for of_set in sets.values() if name in of_set)


def _rare_classes(objects: Mapping[str, int], where: str) -> list[Finding]:
    absent = [name for name, number in objects.items() if not number]
    rare = {name: number for name, number in objects.items() if 0 < number < FEW_OBJECTS}
    findings = []
    if absent:
        findings.append(
            Finding(
                "warning",
                where,
                f"no object of {listed(absent)}, which the model can therefore not learn",
                "Add annotations of it, or leave the class out (DATASETS.CLASSES).",
            )
        )
    if rare:
        named = [f"{name} ({counted(number, 'object')})" for name, number in rare.items()]
        findings.append(
            Finding(
                "warning",
                where,
                f"{_plural(named, 'a rare class', 'rare classes')}: {listed(named)}",
                f"Expect little of it: add images{_OR_REPEAT * (len(objects) > 1)}.",
            )
        )
    present = [number for number in objects.values() if number]
    if not rare and present and max(present) > _UNEVEN * min(present):
        most, least = (
            max(objects, key=objects.__getitem__),
            min((name for name in objects if objects[name]), key=objects.__getitem__),
        )
        findings.append(
            Finding(
                "note",
                where,
                f"{most} has {objects[most] // objects[least]:,} times as many objects as {least}",
                "DATALOADER.REPEAT_THRESHOLD repeats images of rare classes.",
            )
        )
    return findings


def _plural(names: Sequence[str], one: str, several: str) -> str:
    return one if len(names) == 1 else several
