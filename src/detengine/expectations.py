"""What a run is going to measure, and what is expected of it."""

import logging
from collections.abc import Mapping, Sequence

from detengine.config.schema import Config
from detengine.engine.periodic_scoring import BestMetric
from detengine.evaluation.build import PERSON_KEYPOINTS, iou_types_of, tasks_of_test_set
from detengine.evaluation.expected import (
    ExpectedResult,
    ExpectedResultsError,
    missed_expectations,
)
from detengine.evaluation.result import LOSS, EvaluationResult

logger = logging.getLogger("detengine.scoring")


def raise_if_not_measured(cfg: Config) -> None:
    """Raise ValueError for expected results, or a best metric, of what will not be measured.

    Before the training, not after. Keypoints that cannot be scored are said, once.
    """
    measured = {name: tasks_of_test_set(cfg, name) for name in cfg.DATASETS.TEST}
    if cfg.MODEL.KEYPOINT_ON and measured and "keypoints" not in iou_types_of(cfg):
        logger.warning(
            "MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES is %d: the keypoints of %s will not be scored, "
            "because COCO's tolerances are for the %d of a person; give yours as "
            "TEST.KEYPOINT_SIGMAS. Boxes and masks will be scored.",
            cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES,
            ", ".join(measured),
            PERSON_KEYPOINTS,
        )
    for name, tasks in measured.items():
        for task, metric, _ in _expected_of(cfg, name):
            _raise_if_absent(cfg, tasks, "TEST.EXPECTED_RESULTS", task, metric)
    if measured and cfg.SOLVER.BEST_METRIC is not None:
        task, slash, metric = cfg.SOLVER.BEST_METRIC.partition("/")
        if not slash:
            raise ValueError(
                f"SOLVER.BEST_METRIC is {cfg.SOLVER.BEST_METRIC!r}; expected task/metric, such "
                "as bbox/AP"
            )
        tasks = measured[cfg.DATASETS.TEST[0]]
        _raise_if_absent(cfg, tasks, "SOLVER.BEST_METRIC", task, metric)


def _expected_of(cfg: Config, test_set: str) -> list[ExpectedResult]:
    """The expected results of one test set, their tasks without its name."""
    found = []
    for task, metric, value in cfg.TEST.EXPECTED_RESULTS:
        name, slash, own_task = task.rpartition("/")
        if slash and name not in cfg.DATASETS.TEST:
            raise ValueError(
                f"TEST.EXPECTED_RESULTS expects {metric!r} of {task!r}, but {name!r} is none of "
                f"DATASETS.TEST: {', '.join(cfg.DATASETS.TEST)}"
            )
        if not slash or name == test_set:
            found.append((own_task, metric, value))
    return found


def _raise_if_absent(
    cfg: Config, measured: Mapping[str, Sequence[str]], key: str, task: str, metric: str
) -> None:
    if task == LOSS and cfg.TEST.LOSS:
        return  # their names are known when the model has given them
    if metric not in measured.get(task, ()):
        known = measured.get(task, measured)
        raise ValueError(
            f"{key} expects {metric!r} of {task!r}, but this model is scored "
            f"by the {'metrics' if task in measured else 'tasks'} {', '.join(known)}; correct it, "
            "or switch on what it is about (MODEL.MASK_ON, MODEL.KEYPOINT_ON, TEST.LOSS)"
        )


def best_metric_of(cfg: Config) -> BestMetric | None:
    """SOLVER.BEST_METRIC, which is of the first of DATASETS.TEST, with its full name."""
    metric = cfg.SOLVER.BEST_METRIC
    if metric is None or not cfg.DATASETS.TEST:
        return None
    return BestMetric(
        f"val/{cfg.DATASETS.TEST[0]}/{metric}",
        lower_is_better=metric.startswith(f"{LOSS}/"),
        patience=cfg.SOLVER.EARLY_STOPPING,
    )


def check_expectations(cfg: Config, results: Mapping[str, EvaluationResult]) -> None:
    """Hold the final results against TEST.EXPECTED_RESULTS, when all of them are written.

    Not on the way: early in a training nothing is as expected. Raises ExpectedResultsError, with
    what was missed on any test set.
    """
    missed, checked = [], 0
    for test_set, result in results.items():
        expected = _expected_of(cfg, test_set)
        failures = missed_expectations(result, expected, cfg.TEST.EXPECTED_RESULTS_SIGMA_TOL)
        checked += len(expected)
        missed += [f"{test_set}: {failure}" for failure in failures]
    if missed:
        raise ExpectedResultsError(
            f"{len(missed)} of {checked} expected results were missed:\n" + "\n".join(missed)
        )
