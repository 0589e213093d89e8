"""What an evaluation found: its numbers, as values, as a table, as names for the sinks."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

Metrics = dict[str, dict[str, float]]

LOSS = "loss"
"""The task that losses stand under among the metrics; there lower is better."""
_NOTHING_TO_SCORE = -1.0
_TABLE_WIDTH = 100
_MOST_CLASSES = 100
_EXTREME_CLASSES = 30


class TaskScores(NamedTuple):
    """The numbers of one task. per_class: of each class its main metric; empty for proposals."""

    metrics: dict[str, float]
    per_class: dict[str, float]
    main: str


@dataclass(frozen=True)
class EvaluationResult:
    """The scores of one data set, as fractions; -1, as in COCO, where there is nothing to score.

    - metrics: the task (the iou types "bbox", "segm" and "keypoints" for COCO's), then the name
      (AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl). Where losses were measured,
      under LOSS the model's own names, and "loss" for their sum: those are no fractions.
    - per_class: the task, then the class's name; its AP.
    - num_images: how many images were scored.
    - reasons: the task; why its main metric is 0 or -1, where it is.
    """

    metrics: Metrics
    per_class: Metrics
    num_images: int
    reasons: Mapping[str, str] = field(default_factory=dict)

    @property
    def results(self) -> Metrics:
        """The metrics, under the predecessor's name: `results["bbox"]["AP"]`."""
        return self.metrics

    def flat(self, prefix: str) -> dict[str, float]:
        """Each metric under one name: `val/<set>/bbox/AP50` for the prefix `val/<set>`."""
        return {
            f"{prefix}/{iou_type}/{name}": value
            for iou_type, metrics in self.metrics.items()
            for name, value in metrics.items()
        }

    def to_json(self) -> Metrics:
        """The data set's entry in results.json."""
        return {iou_type: dict(metrics) for iou_type, metrics in self.metrics.items()}

    def table(self) -> str:
        """All scores in percent, aligned: a row for each task, losses, each class's AP, reasons."""
        blocks = []
        scores = {task: metrics for task, metrics in self.metrics.items() if task != LOSS}
        for names in dict.fromkeys(tuple(metrics) for metrics in scores.values()):
            rows = [
                [iou_type, *map(percent, metrics.values())]
                for iou_type, metrics in scores.items()
                if tuple(metrics) == names
            ]
            blocks.append(aligned([["", *names], *rows]))
        if losses := self.metrics.get(LOSS):
            values = [f"{value:.4f}" for value in losses.values()]
            blocks.append(aligned([["", *losses], [LOSS, *values]]))
        tables: dict[tuple[str, ...], list[str]] = {}
        for task, per_class in self.per_class.items():
            tables.setdefault(tuple(per_class), []).append(task)
        blocks += [self._class_table(*each) for each in tables.items() if len(each[0]) > 1]
        blocks += [[f"{task}: {reason}"] for task, reason in self.reasons.items()]
        return "\n\n".join("\n".join(lines) for lines in blocks)

    def _class_table(self, classes: Sequence[str], tasks: list[str]) -> list[str]:
        """AP of each class and task; many classes stand in several columns side by side.

        Of very many, as LVIS has them, only some: the lowest and the highest of those with objects.
        """
        if len(classes) > _MOST_CLASSES:
            ap = self.per_class[tasks[0]]
            found = sorted((k for k in classes if ap[k] != _NOTHING_TO_SCORE), key=ap.__getitem__)
            shown = found
            if len(found) > _MOST_CLASSES:
                shown = found[:_EXTREME_CLASSES] + found[-_EXTREME_CLASSES:]
            heading = (
                f"{len(found)} of {len(classes)} classes have objects; the lowest and the highest "
                f"{_EXTREME_CLASSES} of them, all in per_class.json:"
                if len(found) > len(shown)
                else f"the {len(found)} of {len(classes)} classes that have objects:"
            )
            return [heading, *self._class_columns(shown, tasks)]
        return self._class_columns(classes, tasks)

    def _class_columns(self, classes: Sequence[str], tasks: list[str]) -> list[str]:
        titles = ["class", *(f"{task} AP" for task in tasks)]
        rows = [
            [name, *(percent(self.per_class[task][name]) for task in tasks)] for name in classes
        ]
        width = len(aligned([titles, *rows])[0]) + 4
        columns = max(1, min(_TABLE_WIDTH // width, math.ceil(len(rows) / 10)))
        height = math.ceil(len(rows) / columns)
        parts = [rows[start : start + height] for start in range(0, len(rows), height)]
        tables = [aligned([titles, *part], like=[titles, *rows]) for part in parts]
        lines = [
            "    ".join(table[row] for table in tables if row < len(table))
            for row in range(height + 1)
        ]
        return [line.rstrip() for line in lines]


def percent(fraction: float) -> str:
    """100 times it, with a decimal; n/a for COCO's -1."""
    return "n/a" if fraction == _NOTHING_TO_SCORE else f"{100 * fraction:.1f}"


def aligned(rows: list[list[str]], like: list[list[str]] | None = None) -> list[str]:
    """The rows as lines: the first column to the left, the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*(like or rows), strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        )
        for row in rows
    ]
