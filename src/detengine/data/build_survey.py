"""A data set of the configuration, read as far as it can be, with all that is wrong with it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from detengine.config.catalog import find_definition
from detengine.config.schema import CocoDefinition, Config, VocDefinition, YoloDefinition
from detengine.data.build import load_truth
from detengine.data.part import select_part
from detengine.data.salvage_coco import salvage_coco
from detengine.data.salvage_voc import salvage_voc
from detengine.data.salvage_yolo import salvage_yolo
from detengine.structures.finding import Finding, Problem, finding_of_error, gathered
from detengine.structures.ground_truth import GroundTruth
from detengine.structures.selection import select


@dataclass(frozen=True)
class Survey:
    """What is left of a data set's annotations, and what its reader refuses of them.

    truth, image_folder: None where nothing could be read, or no image is left.
    """

    name: str
    truth: GroundTruth | None
    image_folder: Path | None
    findings: list[Finding]


def survey(cfg: Config, name: str) -> Survey:
    """Read a data set by name. Of COCO, VOC and YOLO everything is named that its reader refuses.

    Of the other formats, the first of it. Raises nothing: what cannot be read is a finding.
    """
    try:
        truth, folder = load_truth(cfg, name, for_scoring=name in cfg.DATASETS.TEST)
    except (ValueError, OSError) as error:
        return _salvage(cfg, name, error)
    return Survey(name, truth, folder, [])


def _salvage(cfg: Config, name: str, refusal: Exception) -> Survey:
    problems: list[Problem] = []
    nothing = Survey(name, None, None, [finding_of_error(refusal, name)])
    try:
        definition, root = find_definition(cfg.DATASETS, name)
        if isinstance(definition, CocoDefinition):
            source, folder = root / definition.ANNOTATIONS, root / definition.IMAGES
            truth = salvage_coco(source, folder, name, problems)
        elif isinstance(definition, VocDefinition):
            source = root / definition.ROOT
            folder = source / definition.IMAGES
            truth = salvage_voc(
                source, definition.SPLIT, definition.CLASSES, name, problems,
                annotations=definition.ANNOTATIONS, images=definition.IMAGES,
            )  # fmt: skip
        elif isinstance(definition, YoloDefinition):
            source = root / definition.IMAGES
            labels = None if definition.LABELS is None else root / definition.LABELS
            truth, folder = salvage_yolo(source, labels, definition.CLASSES, name, problems)
        else:
            return nothing
        if definition.PART is not None and len(truth):
            truth = select_part(truth, definition.PART, name)
    except (ValueError, OSError):
        return nothing
    findings = gathered([_without_path(each, source) for each in problems], f"{name} ({source})")
    if not len(truth):
        return Survey(name, None, None, findings or nothing.findings)
    # A wrong image folder is no problem of the annotations: its files are looked at one by one.
    if not findings and not isinstance(refusal, FileNotFoundError):
        findings = nothing.findings
    return Survey(name, truth, folder, findings)


def _without_path(problem: Problem, source: Path) -> Problem:
    """The finding says where it is."""
    return Problem(problem.place, problem.message.removeprefix(f"{source}: "))


def without_images(truth: GroundTruth, indices: Sequence[int]) -> GroundTruth | None:
    """The other images; None if there is none."""
    if not indices:
        return truth
    kept = torch.ones(len(truth), dtype=torch.bool)
    kept[torch.tensor(indices)] = False
    image_ids = truth.image_ids[kept].tolist()
    return select(truth, image_ids=image_ids) if image_ids else None
