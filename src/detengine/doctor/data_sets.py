"""The data sets of a configuration, looked at from all sides."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from detengine.config.load import replace
from detengine.config.schema import Config
from detengine.data.annotation_checks import check_annotations
from detengine.data.build import build_datasets
from detengine.data.build_survey import Survey, survey, without_images
from detengine.data.class_balance import ClassCount, check_balance, count_classes
from detengine.data.dataset import DetectionDataset
from detengine.data.image_files import ImageFile, examine_images, findings_of_images
from detengine.data.split_checks import check_doubles, check_leaks
from detengine.monitor.progress import track
from detengine.structures.categories import merge_class_names
from detengine.structures.finding import Finding, finding_of_error
from detengine.structures.ground_truth import GroundTruth

T = TypeVar("T")

Loaded = dict[str, tuple[GroundTruth, Path]]
"""By a data set's name: its annotations and its image folder."""


@dataclass(frozen=True)
class DataReport:
    """What there is of each data set, in the configuration's order, those of TRAIN first.

    usable: without images that cannot be read; datasets and test_sets are made of it.
    """

    surveys: dict[str, Survey]
    files: dict[str, list[ImageFile]]
    usable: Loaded
    class_counts: dict[str, dict[str, ClassCount]]
    class_names: tuple[str, ...]
    datasets: list[DetectionDataset]
    test_sets: list[DetectionDataset]
    findings: list[Finding]


def examine_data(cfg: Config, say: Callable[[str], None]) -> DataReport:
    """Read annotations and image files of DATASETS.TRAIN and TEST. Raises nothing.

    say: is told what is being done, which may take minutes.
    """
    names = tuple(dict.fromkeys((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)))
    findings: list[Finding] = []
    surveys: dict[str, Survey] = {}
    files: dict[str, list[ImageFile]] = {}
    usable: Loaded = {}
    for name in names:
        say(f"reading {name} ...")
        found = surveys[name] = survey(cfg, name)
        findings += found.findings
        if found.truth is None or found.image_folder is None:
            continue
        findings += _check_set(cfg, found.truth, name)
        looked_at = track(
            examine_images(found.truth, found.image_folder), f"images of {name}", len(found.truth)
        )
        files[name] = list(looked_at)
        findings += findings_of_images(files[name], name, found.image_folder)
        findings += check_doubles(files[name], name)
        broken = [each.index for each in files[name] if each.problem is not None]
        left = without_images(found.truth, broken)
        if left is not None:
            usable[name] = (left, found.image_folder)
    findings += check_leaks(_chosen(files, cfg.DATASETS.TRAIN), _chosen(files, cfg.DATASETS.TEST))
    counts = {
        name: count_classes(each.truth) for name, each in surveys.items() if each.truth is not None
    }
    datasets, test_sets = _build(cfg, usable, findings)
    class_names = datasets[0].class_names if datasets else _all_classes(surveys)
    findings += check_balance(
        _chosen(counts, cfg.DATASETS.TRAIN), _chosen(counts, cfg.DATASETS.TEST), class_names
    )
    return DataReport(surveys, files, usable, counts, class_names, datasets, test_sets, findings)


def _check_set(cfg: Config, truth: GroundTruth, name: str) -> list[Finding]:
    return check_annotations(
        truth,
        name,
        with_masks=cfg.MODEL.MASK_ON,
        with_keypoints=cfg.MODEL.KEYPOINT_ON,
        for_training=name in cfg.DATASETS.TRAIN,
    )


def _chosen(found: Mapping[str, T], names: Sequence[str]) -> dict[str, T]:
    return {name: found[name] for name in names if name in found}


def _all_classes(surveys: dict[str, Survey]) -> tuple[str, ...]:
    return merge_class_names(
        [each.truth.categories for each in surveys.values() if each.truth is not None]
    )


def _build(
    cfg: Config, usable: Loaded, findings: list[Finding]
) -> tuple[list[DetectionDataset], list[DetectionDataset]]:
    """The data sets as the training would have them; what it would refuse is found, and let pass.

    Without those that cannot be read at all.
    """
    train, test = _chosen(usable, cfg.DATASETS.TRAIN), _chosen(usable, cfg.DATASETS.TEST)
    relaxed = replace(
        cfg,
        {
            "DATASETS.CLASSES": None,
            "MODEL.ROI_BOX_HEAD.NUM_CLASSES": None,
            "MODEL.RETINANET.NUM_CLASSES": None,
        },
    )
    datasets = _attempt_to_build(cfg, relaxed, train, None, findings) if train else []
    class_names = datasets[0].class_names if datasets else None
    if class_names is not None:
        relaxed = replace(relaxed, {"DATASETS.CLASSES": tuple(class_names)})
    test_sets = _attempt_to_build(cfg, relaxed, test, class_names, findings) if test else []
    return datasets, test_sets


def _attempt_to_build(
    cfg: Config,
    relaxed: Config,
    loaded: Loaded,
    class_names: Sequence[str] | None,
    findings: list[Finding],
) -> list[DetectionDataset]:
    where = " + ".join(loaded)
    try:
        return build_datasets(cfg, list(loaded), class_names, loaded=loaded)
    except (ValueError, OSError) as error:
        refusal = finding_of_error(error, where)
        if refusal.what not in {each.what for each in findings}:
            findings.append(refusal)
    try:
        return build_datasets(relaxed, list(loaded), class_names, loaded=loaded)
    except (ValueError, OSError):
        return []
