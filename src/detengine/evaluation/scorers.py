"""The metrics: each a scorer that sees image after image. A further one is a file and a line."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from detengine.evaluation.cityscapes import CityscapesScorer
from detengine.evaluation.coco import CocoScorer
from detengine.evaluation.detections import Detections
from detengine.evaluation.lvis import LvisScorer
from detengine.evaluation.options import ScoringOptions
from detengine.evaluation.proposals import ProposalScorer
from detengine.evaluation.result import TaskScores
from detengine.evaluation.truth import Truth
from detengine.evaluation.voc import VocScorer


class Scorer(Protocol):
    """Keeps what it needs of each image, and merges with the scorers of other ranks.

    A task is a row of the result. An image comes once; its detections are checked.
    """

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks' names, which no other scorer has."""

    def update(self, detections: Detections) -> None:
        """Take in one image's detections."""

    def matches(self, task: str) -> bytes:
        """What is kept of all images seen so far, for another rank's `merge_matches`."""

    def merge_matches(self, task: str, parts: Iterable[bytes]) -> None:
        """Take in the `matches` of other ranks, read one by one; the order must not matter."""

    def scores(self) -> dict[str, TaskScores]:
        """The numbers of each task; no image can come afterwards."""


class ScorerKind(Protocol):
    """A scorer's class. Building it raises ValueError if the truth has not what it needs."""

    def __call__(
        self, truth: Truth, iou_types: Sequence[str], options: ScoringOptions, /
    ) -> Scorer: ...

    def tasks_of(
        self, iou_types: Sequence[str], options: ScoringOptions
    ) -> dict[str, tuple[str, ...]]:
        """Each task with the names of its metrics, before there is any data."""


SCORERS: dict[str, ScorerKind] = {
    "coco": CocoScorer,
    "lvis": LvisScorer,
    "voc": VocScorer,
    "cityscapes": CityscapesScorer,
    "proposals": ProposalScorer,
}
"""By the names of TEST.METRICS."""


def make_scorers(truth: Truth, iou_types: Sequence[str], options: ScoringOptions) -> list[Scorer]:
    """One for each of options.metrics. Raises ValueError for an unknown one."""
    return [_kind(name)(truth, iou_types, options) for name in options.metrics]


def measured_tasks(iou_types: Sequence[str], options: ScoringOptions) -> dict[str, tuple[str, ...]]:
    """The tasks that are going to be scored, each with the names of its metrics."""
    tasks: dict[str, tuple[str, ...]] = {}
    for name in options.metrics:
        tasks |= _kind(name).tasks_of(iou_types, options)
    return tasks


def _kind(name: str) -> ScorerKind:
    if name not in SCORERS:
        raise ValueError(f"the metric {name!r} is none of {', '.join(SCORERS)}")
    return SCORERS[name]
