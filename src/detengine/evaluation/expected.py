"""A run that must reach known numbers, and says so when it does not."""

import logging
from collections.abc import Sequence

from detengine.evaluation.result import EvaluationResult

logger = logging.getLogger("detengine.inference")

ExpectedResult = tuple[str, str, tuple[float, float]]
"""(task, metric, (mean, standard deviation)), e.g. ("bbox", "AP", (0.377, 0.001))."""


class ExpectedResultsError(Exception):
    """An expected result was missed."""


def check_expected_results(
    result: EvaluationResult, expected_results: Sequence[ExpectedResult], sigma_tol: float = 4
) -> None:
    """Log each expected result as passed or failed; raise ExpectedResultsError if any failed.

    A metric passes strictly within `sigma_tol` standard deviations of its mean, as in the
    predecessor. Raises ValueError for a task or metric that was not measured.
    """
    failures = missed_expectations(result, expected_results, sigma_tol)
    if failures:
        raise ExpectedResultsError(
            f"{len(failures)} of {len(expected_results)} expected results were missed:\n"
            + "\n".join(failures)
        )


def missed_expectations(
    result: EvaluationResult, expected_results: Sequence[ExpectedResult], sigma_tol: float
) -> list[str]:
    """The lines of those that failed; otherwise as `check_expected_results`."""
    for task, metric, _ in expected_results:
        _raise_if_not_measured(result, task, metric)
    failures = []
    for task, metric, (mean, std) in expected_results:
        actual = result.metrics[task][metric]
        low, high = mean - sigma_tol * std, mean + sigma_tol * std
        message = (
            f"{task} > {metric} sanity check (actual vs. expected): "
            f"{actual:.3f} vs. mean={mean:.4f}, std={std:.4}, range=({low:.4f}, {high:.4f})"
        )
        if low < actual < high:
            logger.info("PASS: %s", message)
        else:
            logger.error("FAIL: %s", message)
            failures.append(message)
    return failures


def _raise_if_not_measured(result: EvaluationResult, task: str, metric: str) -> None:
    measured = result.metrics.get(task)
    if measured is None or metric not in measured:
        kind, given, known = (
            ("task", task, result.metrics) if measured is None else ("metric", metric, measured)
        )
        raise ValueError(
            f"an expected result names the {kind} {given!r}, but measured were: "
            f"{', '.join(known)}. Correct TEST.EXPECTED_RESULTS."
        )
