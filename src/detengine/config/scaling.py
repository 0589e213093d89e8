"""The linear scaling rule: another batch, and the numbers that go with it."""

from typing import Any

from detengine.config.load import replace
from detengine.config.schema import Config

_ITERATIONS = ("MAX_ITER", "WARMUP_ITERS", "EMA_WARMUP_ITERS")


def scaled(cfg: Config) -> tuple[Config, str]:
    """The configuration with SOLVER.REFERENCE_IMS_PER_BATCH applied, and what changed, in words.

    A batch k times as large has a learning rate k times as high, and as many images in all:
    MAX_ITER, STEPS and the warm-ups are divided by k (Goyal et al., "Accurate, Large Minibatch
    SGD", 2.1).
    Periods stay. What comes back names its own batch as the reference, so that it is scaled once.
    Without a reference, or with that of the batch itself: the very same configuration, and "".
    Raises ConfigError where what comes out is impossible.
    """
    solver = cfg.SOLVER
    if solver.REFERENCE_IMS_PER_BATCH in (None, solver.IMS_PER_BATCH):
        return cfg, ""
    k = solver.IMS_PER_BATCH / solver.REFERENCE_IMS_PER_BATCH
    changed: dict[str, Any] = {"BASE_LR": solver.BASE_LR * k}
    changed |= {name: _divided(getattr(solver, name), k) for name in _ITERATIONS}
    changed["STEPS"] = tuple(_divided(step, k) for step in solver.STEPS)
    rows = ", ".join(
        f"{name} {getattr(solver, name)} -> {_in_words(value)}"
        for name, value in changed.items()
        if value != getattr(solver, name)
    )
    rule = " (the rule is for SGD; AdamW often does better with the root)"
    words = (
        f"SOLVER.REFERENCE_IMS_PER_BATCH is {solver.REFERENCE_IMS_PER_BATCH}, IMS_PER_BATCH "
        f"{solver.IMS_PER_BATCH}: {rows}{rule if solver.OPTIMIZER == 'adamw' else ''}"
    )
    changed["REFERENCE_IMS_PER_BATCH"] = solver.IMS_PER_BATCH
    return replace(cfg, {f"SOLVER.{name}": value for name, value in changed.items()}), words


def _divided(iterations: int, k: float) -> int:
    return max(1, round(iterations / k)) if iterations else 0


def _in_words(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
