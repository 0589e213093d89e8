"""A loop on a terminal, with all that may come between its bar and its lines.

Arguments: how it ends, `well`, `error` or `never`; and whether the outer loop is a training.
"""

import logging
import sys
import time
import warnings
from typing import Any

from detengine.monitor.logs import logging_to
from detengine.monitor.progress import track
from detengine.monitor.training_view import TrainingView

END, IS_TRAINING = sys.argv[1], sys.argv[2] == "training"
STEPS = 40
TRAIN = {"train/loss": 0.5, "train/time": 0.02, "train/data": 0.0, "train/lr": 0.1}
logger = logging.getLogger("detengine.program")


def main() -> None:
    logger.info("before")
    view = TrainingView(STEPS, 0, 4)
    if IS_TRAINING:
        with view.shown():
            loop(view.follow(range(STEPS)), view)
    else:
        loop(track(range(STEPS), "scoring"), view)


def loop(steps: Any, view: TrainingView) -> None:
    for step, _ in enumerate(steps, start=1):
        time.sleep(0.02)
        if step % 10 == 0:
            logger.info("a plain line, iter: %d", step, extra={"is_progress": True})
            view.write(step, TRAIN | {"train/max_mem": 100.0})
        if step == 12:
            logger.warning("beware")
            warnings.warn("of old things", stacklevel=1)
            print("printed")
        if step == 20 and IS_TRAINING:
            for _ in track(range(10), "scoring shapes_val"):
                time.sleep(0.05)
            view.write(step, {"val/shapes_val/bbox/AP": 0.25})
        if step == 30 and END == "error":
            raise ValueError("broken")
        while step == 30 and END == "never":
            time.sleep(0.05)


try:
    with logging_to(None):
        main()
        logger.info("after")
except ValueError as error:
    print("error:", error, file=sys.stderr)
    sys.exit(1)
