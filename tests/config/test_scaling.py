"""The linear scaling rule, applied where it is asked for."""

import math

import pytest

from detengine.config.errors import ConfigError
from detengine.config.load import load_config, replace
from detengine.config.scaling import scaled

GIVEN = {
    "SOLVER.IMS_PER_BATCH": 4,
    "SOLVER.REFERENCE_IMS_PER_BATCH": 16,
    "SOLVER.BASE_LR": 0.02,
    "SOLVER.MAX_ITER": 90000,
    "SOLVER.STEPS": (60000, 80000),
    "SOLVER.WARMUP_ITERS": 500,
}


def _config(**changes):
    given = GIVEN | {f"SOLVER.{name}": value for name, value in changes.items()}
    return replace(load_config(None, ["CONVENTIONS", "modern"]), given)


def test_a_quarter_of_the_batch_has_a_quarter_of_the_learning_rate_and_four_times_the_steps():
    solver = scaled(_config())[0].SOLVER
    assert math.isclose(solver.BASE_LR, 0.005)
    assert (solver.MAX_ITER, solver.STEPS) == (360000, (240000, 320000))
    assert (solver.WARMUP_ITERS, solver.EMA_WARMUP_ITERS) == (2000, 0)
    assert solver.CHECKPOINT_PERIOD == _config().SOLVER.CHECKPOINT_PERIOD


def test_it_is_said_what_was_scaled():
    assert scaled(_config())[1] == (
        "SOLVER.REFERENCE_IMS_PER_BATCH is 16, IMS_PER_BATCH 4: BASE_LR 0.02 -> 0.005, MAX_ITER "
        "90000 -> 360000, WARMUP_ITERS 500 -> 2000, STEPS (60000, 80000) -> (240000, 320000)"
    )
    assert "the rule is for SGD" in scaled(_config(OPTIMIZER="adamw"))[1]


def test_what_was_scaled_is_not_scaled_again():
    once, _ = scaled(_config())
    assert scaled(once) == (once, "")


@pytest.mark.parametrize("reference", [None, 4])
def test_not_asked_for_nothing_is_scaled(reference):
    cfg = _config(REFERENCE_IMS_PER_BATCH=reference)
    same, words = scaled(cfg)
    assert same is cfg
    assert words == ""


def test_a_scaled_configuration_that_is_impossible_is_refused():
    with pytest.raises(ConfigError, match="MAX_ITER"):
        scaled(_config(MAX_ITER=900_000_000))
