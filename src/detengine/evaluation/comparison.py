"""Two runs on the same images: which is better, and whether other images could have said else."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detengine.evaluation.bootstrap import class_by_class, draw
from detengine.evaluation.coco_metrics import coco_params, metrics_of, summarize
from detengine.evaluation.collected import Collected, collect
from detengine.evaluation.detections import Detections
from detengine.evaluation.options import ScoringOptions
from detengine.evaluation.result import aligned, percent
from detengine.structures.ground_truth import GroundTruth
from detengine.structures.prediction import Prediction

Floats = NDArray[np.float64]

_MOST_CLASSES = 100
_MOST_SAMPLES = 100_000
"""How often each of 5,000 images is drawn takes 4 GB then."""


@dataclass(frozen=True)
class Difference:
    """A metric of two runs, as fractions, and what B has more of it than A.

    low, high: the interval; contains_zero: whether it leaves open which is better. All None where
    no sample of the images has an object to be found.
    """

    a: float
    b: float
    difference: float
    low: float | None
    high: float | None
    contains_zero: bool | None


@dataclass(frozen=True)
class Comparison:
    """What run B has more than run A, with intervals that are paired over the images.

    Each of `samples` samples draws as many images as there are, with repetition, and scores both
    runs on them; an interval holds the middle share `confidence` of the differences (a percentile
    bootstrap). It says how much the difference owes to these images, not to the trainings' seeds.

    - metrics, per_class: by name; None where there is nothing to score. A class's is its AP, and
      many intervals are looked at there: with 80 classes and a confidence of 0.95, four miss 0
      by chance where two runs are alike.
    - only_a, only_b: the data set's classes that one run alone knows. They are left out.
    """

    iou_type: str
    num_images: int
    samples: int
    seed: int
    confidence: float
    metrics: Mapping[str, Difference | None]
    per_class: Mapping[str, Difference | None]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Everything as plain types, fractions as they are."""
        return asdict(self)

    def table(self) -> str:
        """In points (percent): A, B, the difference with its interval, `*` where 0 is not in it."""
        how = f"{100 * self.confidence:g} % over {self.samples} samples of the images"
        blocks = [
            [
                f"{self.iou_type}, {self.num_images} images: B - A in points, intervals of {how}",
                "* where the interval does not contain 0",
            ],
            _lines("", self.metrics),
        ]
        if len(self.per_class) > _MOST_CLASSES:
            found = {name: each for name, each in self.per_class.items() if each is not None}
            largest = sorted(found, key=lambda name: -abs(found[name].difference))[:_MOST_CLASSES]
            heading = (
                f"the {len(largest)} of {len(self.per_class)} classes that differ most; all in "
                "comparison.json:"
            )
            blocks.append([heading, *_lines("class AP", {name: found[name] for name in largest})])
        elif len(self.per_class) > 1:
            blocks.append(_lines("class AP", self.per_class))
        for run, names in (("A", self.only_a), ("B", self.only_b)):
            if names:
                blocks.append([f"only {run} knows, and not compared: {', '.join(names)}"])
        return "\n\n".join("\n".join(lines) for lines in blocks)


def compare(
    ground_truth: GroundTruth,
    predictions_a: Iterable[tuple[int, Prediction | Detections]],
    predictions_b: Iterable[tuple[int, Prediction | Detections]],
    class_names_a: Sequence[str],
    class_names_b: Sequence[str],
    *,
    iou_type: str = "bbox",
    options: ScoringOptions | None = None,
    samples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Comparison:
    """Compare two runs by COCO's AP, over the classes that the data set and both runs have.

    class_names_a, class_names_b: the names of the labels 1..K of each. Both must have predicted
    every image of the ground truth once. The same seed gives the same intervals.
    Raises ValueError for what `evaluate` refuses, with the run's letter, and if the runs have no
    class in common.
    """
    if not 1 <= samples <= _MOST_SAMPLES or not 0 < confidence < 1:
        raise ValueError(
            f"{samples} samples and a confidence of {confidence} were asked for; expected 1 to "
            f"{_MOST_SAMPLES}, and a share between 0 and 1"
        )
    a = _collect("A", ground_truth, predictions_a, class_names_a, iou_type, options)
    b = _collect("B", ground_truth, predictions_b, class_names_b, iou_type, options)
    names_a, names_b = a.truth.categories.names, b.truth.categories.names
    shared = _shared(names_a, names_b)
    of_a, of_b = ([names.index(name) for name in shared] for names in (names_a, names_b))
    (metrics_a, aps_a), (metrics_b, aps_b) = _scores(a, of_a), _scores(b, of_b)
    counts = draw(len(ground_truth), samples, seed)
    resampled = zip(class_by_class(a, of_a, counts), class_by_class(b, of_b, counts), strict=True)
    of_metric, of_class = _resampled(a, resampled)
    return Comparison(
        iou_type=iou_type,
        num_images=len(ground_truth),
        samples=samples,
        seed=seed,
        confidence=confidence,
        metrics={
            name: _difference(metrics_a[name], metrics_b[name], differences, confidence)
            for name, differences in of_metric.items()
        },
        per_class={
            name: _difference(ap_a, ap_b, differences, confidence)
            for name, ap_a, ap_b, differences in zip(shared, aps_a, aps_b, of_class, strict=True)
        },
        only_a=tuple(name for name in names_a if name not in shared),
        only_b=tuple(name for name in names_b if name not in shared),
    )


def _shared(names_a: Sequence[str], names_b: Sequence[str]) -> list[str]:
    shared = [name for name in names_a if name in names_b]
    if not shared:
        raise ValueError(
            "the runs have no class of the data set in common: "
            f"A has {', '.join(names_a)}; B has {', '.join(names_b)}"
        )
    return shared


def _collect(
    letter: str,
    ground_truth: GroundTruth,
    predictions: Iterable[tuple[int, Prediction | Detections]],
    class_names: Sequence[str],
    iou_type: str,
    options: ScoringOptions | None,
) -> Collected:
    try:
        return collect(ground_truth, predictions, class_names, iou_type, options=options)[0]
    except ValueError as error:
        raise ValueError(f"predictions {letter}: {error}") from error


def _scores(run: Collected, categories: list[int]) -> tuple[dict[str, float], list[float]]:
    """The metrics over these categories, and the AP of each: the reference's, to the last bit."""
    params = coco_params(run.iou_type, run.options)
    wanted = {
        name: metric
        for name, metric in metrics_of(run.iou_type, run.options).items()
        if metric.curve == "precision"
    }
    curves = {"precision": run.curves["precision"][:, :, categories]}
    return summarize(wanted, curves, params)


def _resampled(
    run: Collected, aps: Iterator[tuple[Floats, Floats]]
) -> tuple[dict[str, Floats], list[Floats]]:
    """Of each metric and class float64[S]: B - A in each sample; NaN where nothing is to be found.

    aps: of each class A's and B's float64[A, T, S]. Both have the same objects, so that the
    difference of their means over classes is the mean of the classes' differences.
    """
    params = coco_params(run.iou_type, run.options)
    everywhere = params.area_rng_lbl.index("all")
    total: Floats | float = 0.0
    number: Floats | float = 0.0
    of_class = []
    for ap_a, ap_b in aps:
        difference = ap_b - ap_a
        measured = ~np.isnan(difference)
        total = total + np.where(measured, difference, 0)
        number = number + measured
        of_class.append(difference[everywhere].mean(axis=0))
    with np.errstate(invalid="ignore"):
        means = total / np.asarray(number)
    of_metric = {}
    for name, metric in metrics_of(run.iou_type, run.options).items():
        if metric.curve == "precision":
            at = slice(None) if metric.iou is None else np.isclose(params.iou_thrs, metric.iou)
            area = params.area_rng_lbl.index(metric.area)
            of_metric[name] = means[area][at].mean(axis=0)
    return of_metric, of_class


def _difference(a: float, b: float, samples: Floats, confidence: float) -> Difference | None:
    if a < 0 or b < 0:
        return None
    measured = samples[~np.isnan(samples)]
    if not len(measured):
        return Difference(a, b, b - a, None, None, None)
    outside = (1 - confidence) / 2
    low, high = np.quantile(measured, [outside, 1 - outside]).tolist()
    return Difference(a, b, b - a, low, high, low <= 0 <= high)


def _lines(title: str, differences: Mapping[str, Difference | None]) -> list[str]:
    rows = [
        [name, *(["n/a"] * 3 + ["", ""] if each is None else _cells(each))]
        for name, each in differences.items()
    ]
    return [line.rstrip() for line in aligned([[title, "A", "B", "B - A", "", ""], *rows])]


def _cells(each: Difference) -> list[str]:
    interval = "n/a"
    if each.low is not None and each.high is not None:
        interval = f"[{_points(each.low)}, {_points(each.high)}]"
    mark = "*" if each.contains_zero is False else " "
    return [percent(each.a), percent(each.b), _points(each.difference), interval, mark]


def _points(fraction: float) -> str:
    return f"{100 * fraction:+.1f}"
