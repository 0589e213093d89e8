"""Everything that can be known of a training before it starts: data, model, memory, disk, speed."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from detengine.config.load import replace as replace_keys
from detengine.config.schema import Config
from detengine.data.build import raise_if_indivisible
from detengine.distributed.launch import resolve_device
from detengine.distributed.report import launched_rank
from detengine.doctor.anchors import AnchorReport, examine_anchors
from detengine.doctor.data_sets import DataReport, examine_data
from detengine.doctor.dry_run import DryRunner
from detengine.doctor.dry_run_result import DryRun
from detengine.doctor.room import check_disk, check_shared_memory, folder_on_the_disk_of
from detengine.engine.determinism import deterministic
from detengine.expectations import raise_if_not_measured
from detengine.monitor.logs import collected_warnings
from detengine.structures.finding import Finding, finding_of_error, worst_first

_KEEPS_UP = 1.2
"""So much faster than the training a loader should be."""


@dataclass(frozen=True)
class Diagnosis:
    """findings: the worst first. data, anchors, dry_run: None where there is nothing of it."""

    findings: list[Finding]
    data: DataReport | None = None
    anchors: AnchorReport | None = None
    dry_run: DryRun | None = None

    def is_healthy(self, *, strict: bool) -> bool:
        """Whether there is no error, nor, if strict, a warning."""
        bad = ("error", "warning") if strict else ("error",)
        return not any(each.severity in bad for each in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Plain types: findings, data_sets, classes, anchors, dry_run."""
        return {
            "findings": [each.to_json() for each in self.findings],
            "data_sets": {} if self.data is None else _sets_to_json(self.data),
            "classes": {} if self.data is None else _classes_to_json(self.data),
            "anchors": None if self.anchors is None else asdict(self.anchors),
            "dry_run": None if self.dry_run is None else self.dry_run.to_json(),
        }


def examine(
    cfg: Config, *, with_model: bool = True, ranks: int = 1, say: Callable[[str], None] = print
) -> Diagnosis:
    """Look at the data, and with the model also at the first steps of a training. Raises nothing.

    What is wrong is found, not raised, and what can be looked at all the same is. Nothing is
    written, but for a checkpoint that is removed at once. ranks: processes that the training will
    have. say: is told what is being done.
    """
    if launched_rank() is not None:
        what = "the doctor is under torchrun, but looks at everything in one process"
        cure = "Start it without torchrun, and say by --nproc how many processes there will be."
        return Diagnosis([Finding("error", "torchrun", what, cure)])
    with collected_warnings("detengine") as said:
        findings = _check_configuration(cfg, ranks)
        # Packed annotations would stay behind.
        cfg = replace_keys(cfg, {"DATASETS.CACHE": False})
        data = examine_data(cfg, say)
        findings += data.findings
        findings += [finding_of_error(each, "the data", "warning") for each in said]
        truths = [data.usable[name][0] for name in cfg.DATASETS.TRAIN if name in data.usable]
        anchors, of_anchors = examine_anchors(cfg, truths)
        findings += of_anchors
        dry_run = None
        if with_model and data.datasets:
            dry_run, of_dry_run = _dry_run(cfg, data, ranks, say)
            findings += of_dry_run
        elif with_model:
            what = "no step was tried, because there is no data set that can be trained on"
            findings.append(Finding("note", "the model", what))
    return Diagnosis(worst_first(findings), data, anchors, dry_run)


def diagnosis_of_error(error: Exception, where: str) -> Diagnosis:
    """Of a configuration that cannot be read, which is all that can be said then."""
    return Diagnosis([finding_of_error(error, where)])


def with_refusal(diagnosis: Diagnosis, refusal: Exception, folder: str) -> Diagnosis:
    """The data of a folder for which nothing could be chosen, for a reason that is found by now."""
    if diagnosis.is_healthy(strict=False):
        findings = [finding_of_error(refusal, folder), *diagnosis.findings]
    else:
        what = "no model was tried: it is chosen for the data when these errors are gone"
        findings = [*diagnosis.findings, Finding("note", folder, what)]
    return replace(diagnosis, findings=findings)


def _check_configuration(cfg: Config, ranks: int) -> list[Finding]:
    findings = []
    if not cfg.DATASETS.TRAIN:
        what = "DATASETS.TRAIN is empty"
        findings.append(Finding("error", "DATASETS", what, "Name a data set to train on."))
    if not cfg.DATASETS.TEST:
        what = "DATASETS.TEST is empty: nothing will be scored"
        findings.append(Finding("note", "DATASETS", what, "Name a data set to score on."))
    for check in (partial(raise_if_indivisible, cfg, ranks), partial(raise_if_not_measured, cfg)):
        try:
            check()
        except ValueError as error:
            findings.append(finding_of_error(error, "the configuration"))
    return findings


def _dry_run(
    cfg: Config, data: DataReport, ranks: int, say: Callable[[str], None]
) -> tuple[DryRun | None, list[Finding]]:
    try:
        device = resolve_device(cfg.MODEL.DEVICE)
    except ValueError as error:
        return None, [finding_of_error(error, "MODEL.DEVICE")]
    say(f"trying a few steps on {device} ...")
    cfg = _divisible(_with_free_number_of_classes(cfg, data), ranks)
    with folder_on_the_disk_of(Path(cfg.OUTPUT_DIR)) as folder:
        runner = DryRunner(
            cfg, data.datasets, data.test_sets, device=device, folder=folder, ranks=ranks
        )
        with deterministic(device, enabled=cfg.DETERMINISTIC):
            done = runner.run()
    findings = [*runner.findings, *_judge_loader(cfg, done)]
    if done.checkpoint_bytes is not None:
        findings += check_disk(cfg, done.checkpoint_bytes)
    if done.batch_bytes is not None:
        findings += check_shared_memory(cfg, done.batch_bytes, ranks)
    return done, findings


def _with_free_number_of_classes(cfg: Config, data: DataReport) -> Config:
    """A number of classes that is not the data's is an error already, and needs no second one."""
    keys = ("MODEL.ROI_BOX_HEAD.NUM_CLASSES", "MODEL.RETINANET.NUM_CLASSES")
    if cfg.MODEL.BUILDER is not None:
        return cfg
    given = cfg.MODEL.RETINANET if cfg.MODEL.RETINANET_ON else cfg.MODEL.ROI_BOX_HEAD
    if given.NUM_CLASSES is None or len(data.class_names) < given.NUM_CLASSES:
        return cfg
    return replace_keys(cfg, dict.fromkeys(keys))


def _divisible(cfg: Config, ranks: int) -> Config:
    """The same, with a batch that the ranks can share."""
    parts = ranks * cfg.SOLVER.ACCUMULATE
    images = max(1, cfg.SOLVER.IMS_PER_BATCH // parts) * parts
    return replace_keys(cfg, {"SOLVER.IMS_PER_BATCH": images})


def _judge_loader(cfg: Config, done: DryRun) -> list[Finding]:
    """Whether the training will wait for its data."""
    rate, seconds = done.loader_images_per_second, done.step_seconds()
    if not rate or not seconds:
        return []
    needed = next(each.images for each in done.steps) / seconds
    workers = cfg.DATALOADER.NUM_WORKERS
    measured = f"the loader gives {rate:.1f} images/s, the training takes {needed:.1f}"
    if rate >= _KEEPS_UP * needed:
        return []
    if not workers:
        what = f"{measured}, and does not compute while it loads (DATALOADER.NUM_WORKERS is 0)"
        cure = "Set DATALOADER.NUM_WORKERS to 2 or more."
        return [Finding("warning", "the loader", what, cure)]
    enough = math.ceil(_KEEPS_UP * needed / rate * workers)
    processes = "1 process" if workers == 1 else f"{workers} processes"
    cure = (
        f"Set DATALOADER.NUM_WORKERS to about {enough}, up to the cores there are; or store the "
        "images no larger than they are used, as JPEG and on a local disk."
    )
    return [Finding("warning", "the loader", f"{measured}: with {processes} it is the limit", cure)]


def _sets_to_json(data: DataReport) -> dict[str, Any]:
    return {
        name: {
            "images": 0 if each.truth is None else len(each.truth),
            "annotations": 0 if each.truth is None else len(each.truth.annotation_ids),
            "unusable_images": sum(file.problem is not None for file in data.files.get(name, ())),
        }
        for name, each in data.surveys.items()
    }


def _classes_to_json(data: DataReport) -> dict[str, Any]:
    return {
        name: {class_name: asdict(count) for class_name, count in counts.items()}
        for name, counts in data.class_counts.items()
    }
