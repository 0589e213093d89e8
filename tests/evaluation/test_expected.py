import logging

import pytest

from detengine.evaluation.expected import ExpectedResultsError, check_expected_results
from detengine.evaluation.result import EvaluationResult

RESULT = EvaluationResult({"bbox": {"AP": 0.377, "AP50": 0.59}}, {"bbox": {}}, 1)


def test_a_result_within_its_range_passes_and_is_logged(caplog):
    with caplog.at_level(logging.INFO):
        check_expected_results(RESULT, [("bbox", "AP", (0.376, 0.001))], sigma_tol=4)
    assert caplog.messages == [
        "PASS: bbox > AP sanity check (actual vs. expected): "
        "0.377 vs. mean=0.3760, std=0.001, range=(0.3720, 0.3800)"
    ]


def test_every_expected_result_is_checked_and_logged_before_a_miss_is_raised(caplog):
    expected = [("bbox", "AP", (0.5, 0.01)), ("bbox", "AP50", (0.59, 0.01))]
    with (
        caplog.at_level(logging.INFO),
        pytest.raises(
            ExpectedResultsError, match="1 of 2 expected results were missed:\nbbox > AP"
        ),
    ):
        check_expected_results(RESULT, expected, sigma_tol=4)
    assert [message[:5] for message in caplog.messages] == ["FAIL:", "PASS:"]


def test_the_bounds_themselves_are_outside():
    with pytest.raises(ExpectedResultsError):
        check_expected_results(RESULT, [("bbox", "AP", (0.377, 0.0))])


def test_what_was_not_measured_is_an_error_that_says_what_was():
    with pytest.raises(ValueError, match="the task 'segm', but measured were: bbox"):
        check_expected_results(RESULT, [("segm", "AP", (0.3, 0.1))])
    with pytest.raises(ValueError, match="the metric 'mAP', but measured were: AP, AP50"):
        check_expected_results(RESULT, [("bbox", "mAP", (0.3, 0.1))])


def test_nothing_expected_is_nothing_done(caplog):
    check_expected_results(RESULT, [])
    assert not caplog.messages
