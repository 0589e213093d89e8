"""What an analysis found: as values, as tables, as plain types for a file."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from detengine.evaluation.result import EvaluationResult, aligned, percent

RECALLS = tuple(n / 100 for n in range(101))
"""At which a curve's precision is given: COCO's."""

Part = TypeVar("Part")

_TABLE_WIDTH = 100
_SHOWN = 10


@dataclass(frozen=True)
class ErrorKind:
    """count: of detections, or of missed objects. ap_cost: by how much AP would rise without."""

    count: int
    ap_cost: float


@dataclass(frozen=True)
class ErrorBreakdown:
    """TIDE's kinds of errors (Bolya et al., ECCV 2020), each false detection being of one.

    AP is at the analysis's IoU threshold, over classes with objects. In the order in which the
    first that fits is taken:
    - localisation: on an object of its class, but overlapping it too little;
    - classification: on an object of another class;
    - duplicate: on an object that a better detection found;
    - background: on no object, overlapping each less than background_threshold;
    - both: a wrong class, and too little overlap;
    - missed: objects that are not found, and not by a correction of the first two either.
    Costs do not add up to what is missing: each is that of one kind alone. false_positives_cost:
    of all false detections together; missed_cost: of all objects that are not found.
    A missed object's cost is that it is there to be found, so that it costs nothing in
    classes_not_found: without a single hit a class has AP 0, however few its objects.
    """

    ap: float
    background_threshold: float
    kinds: Mapping[str, ErrorKind]
    false_positives_cost: float
    missed_cost: float
    classes_not_found: tuple[str, ...]


@dataclass(frozen=True)
class Confusion:
    """counts[t][p]: objects of class t that were found as class p; K + 1 rows and columns.

    The last row and column are the background: detections on no object, and objects not found.
    Detections, best first, take the object that they overlap most, of whatever class: where
    classes overlap, the diagonal is not the score's number of hits.
    """

    class_names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Curve:
    """Precision at each of RECALLS, made falling as in COCO; 0 where that recall is not reached.

    class_name None: the mean of the classes with objects. iou None: the mean of all thresholds.
    scores: the threshold of the score that gives each recall, None where it is not reached; a
    mean has none.
    """

    class_name: str | None
    iou: float | None
    precision: tuple[float, ...]
    scores: tuple[float | None, ...] | None = None


@dataclass(frozen=True)
class ImageErrors:
    """One image's objects and detections. f1, ap: of this image alone.

    Of the false positives, by boxes: other_class lie on a missed object of another class (IoU of
    0.5 or more), on_nothing on none (less than 0.1). Where there are many, look at the
    annotations too. None for keypoints.
    """

    image_id: int
    file_name: str
    found: int
    missed: int
    false_positives: int
    other_class: int | None
    on_nothing: int | None
    f1: float
    ap: float


@dataclass(frozen=True)
class CalibrationBin:
    """The detections whose scores are in [low, high), the last bin's in [low, high]."""

    low: float
    high: float
    count: int
    mean_score: float | None
    precision: float | None


@dataclass(frozen=True)
class Calibration:
    """How far scores are from being the share of hits among detections of that score.

    expected_error: the mean distance over all detections (ECE); largest_error: the largest bin's
    (MCE). per_class: the expected error; None for a class without detections.
    """

    expected_error: float
    largest_error: float
    bins: tuple[CalibrationBin, ...]
    per_class: Mapping[str, float | None]


@dataclass(frozen=True)
class Analysis:
    """Why the scores are what they are. Crowds and difficult objects are ignored as in them.

    - scores: those of `evaluate`.
    - errors, confusion, calibration: None where `reasons` says why.
    - curves: the mean's first; none of classes without objects.
    - worst_images: those with an error, most errors first. best_images: those with a hit, the best
      F1 first, of equal ones most objects first.
    """

    iou_type: str
    iou_threshold: float
    score_threshold: float
    scores: EvaluationResult
    errors: ErrorBreakdown | None
    confusion: Confusion | None
    curves: tuple[Curve, ...]
    worst_images: tuple[ImageErrors, ...]
    calibration: Calibration | None
    best_images: tuple[ImageErrors, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Everything as plain types, fractions as they are."""
        return {**asdict(self), "recalls": list(RECALLS)}

    def table(self) -> str:
        """Tables of what matters, in percent; `to_json` has all of it."""
        at = f"IoU {self.iou_threshold:.2f}"
        above = f"{at}, scores from {self.score_threshold:.2f}"
        blocks = [
            [self.scores.table()],
            self._block("errors", at, self.errors, _error_lines),
            self._block("confusion", above, self.confusion, _confusion_lines),
            self._block("curves", "precision at each recall", self.curves, _curve_lines),
            self._block("worst images", above, self.worst_images, _image_lines),
            self._block("calibration", at, self.calibration, _calibration_lines),
        ]
        return "\n\n".join("\n".join(lines) for lines in blocks)

    def _block(
        self, name: str, how: str, part: Part | None, lines_of: Callable[[Part], list[str]]
    ) -> list[str]:
        if part is None:
            return [f"{name}: n/a, {self.reasons[name]}"]
        return [f"{name} ({how})", *lines_of(part)]


def _error_lines(errors: ErrorBreakdown) -> list[str]:
    rows = [
        [f"  {name}", str(kind.count), percent(kind.ap_cost)] for name, kind in errors.kinds.items()
    ]
    lines = aligned(
        [
            [f"  AP is {percent(errors.ap)}", "errors", "cost AP"],
            *rows,
            ["  all false positives", "", percent(errors.false_positives_cost)],
            ["  all that is missed", "", percent(errors.missed_cost)],
        ]
    )
    if errors.classes_not_found:
        few = ", ".join(errors.classes_not_found[:_SHOWN])
        more = ", ..." if len(errors.classes_not_found) > _SHOWN else ""
        lines.append(f"  not one object is found, and so no cost of missing shown, of: {few}{more}")
    return lines


def _confusion_lines(confusion: Confusion) -> list[str]:
    """The matrix where it is narrow enough, else the most frequent confusions of two classes."""
    names = (*confusion.class_names, "background")
    rows = [
        [f"  {name}", *map(str, row)] for name, row in zip(names, confusion.counts, strict=True)
    ]
    lines = aligned([["  truth \\ found as", *names], *rows])
    if len(lines[0]) <= _TABLE_WIDTH:
        return lines
    pairs = [
        (count, truth, found)
        for truth, row in zip(names[:-1], confusion.counts, strict=False)
        for found, count in zip(names[:-1], row, strict=False)
        if count and truth != found
    ]
    if not pairs:
        return ["  no class is found as another"]
    pairs.sort(key=lambda pair: -pair[0])
    rows = [[f"  {truth}", found, str(count)] for count, truth, found in pairs[:_SHOWN]]
    return aligned([["  truth", "found as", "count"], *rows])


def _curve_lines(curves: tuple[Curve, ...]) -> list[str]:
    titles = ["  mean of classes", *(f"{recall:.1f}" for recall in RECALLS[::10])]
    rows = [
        [
            "  IoU averaged" if curve.iou is None else f"  IoU {curve.iou:.2f}",
            *map(percent, curve.precision[::10]),
        ]
        for curve in curves
        if curve.class_name is None
    ]
    return aligned([titles, *rows]) if rows else ["  n/a, no object is to be found"]


def _image_lines(images: tuple[ImageErrors, ...]) -> list[str]:
    if not images:
        return ["  none has an error"]
    titles = ["missed", "false", "of another class", "on nothing", "found", "F1"]
    rows = [
        [
            f"  {each.file_name}",
            *map(str, (each.image_id, each.missed, each.false_positives)),
            *("n/a" if n is None else str(n) for n in (each.other_class, each.on_nothing)),
            str(each.found),
            percent(each.f1),
        ]
        for each in images[:_SHOWN]
    ]
    return aligned([["  image", "id", *titles], *rows])


def _calibration_lines(calibration: Calibration) -> list[str]:
    rows = [
        [
            f"  {each.low:.1f} to {each.high:.1f}",
            str(each.count),
            *("n/a" if x is None else percent(x) for x in (each.mean_score, each.precision)),
        ]
        for each in calibration.bins
    ]
    return [
        f"  expected error {percent(calibration.expected_error)}, "
        f"largest {percent(calibration.largest_error)}",
        *aligned([["  score", "detections", "mean score", "are hits"], *rows]),
    ]
