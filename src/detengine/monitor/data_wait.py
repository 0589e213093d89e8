"""Whether the training waits for its data, said once."""

import logging

from detengine.distributed.comm import is_main_process
from detengine.monitor.metric_logger import MetricLogger

logger = logging.getLogger("detengine.trainer")

SHARE = 0.1
"""Of a step's time; what is less is not worth a word."""


class DataWait:
    """Warns once where the training waits for the loader for more than a tenth of its time.

    The time in question is that of the meters' window, the last steps before a log line. The steps
    before the first line are not judged: the loader's processes start then.
    """

    def __init__(self) -> None:
        self._lines = 0
        self._is_said = False

    def judge(self, meters: MetricLogger) -> None:
        """To be called at each log line. Reads the meters `time` and `data`, seconds of a step.

        They are the mean over the ranks by then, and rank 0 says it.
        """
        self._lines += 1
        if self._is_said or self._lines == 1 or not is_main_process():
            return
        step_seconds, waited_seconds = meters.time.avg, meters.data.avg
        if waited_seconds > SHARE * step_seconds:
            self._is_said = True
            logger.warning(
                "the training waits for its data: %.4f of %.4f s a step (%.0f %%). Give the loader "
                "more processes (DATALOADER.NUM_WORKERS, up to the cores there are), store the "
                "images no larger than they are used (INPUT.MAX_SIZE_TRAIN), as JPEG and on a "
                "local disk, or take fewer of the INPUT options that change colours.",
                waited_seconds,
                step_seconds,
                100 * waited_seconds / step_seconds,
            )
