"""The loader's processes."""

import signal


def leave_signals_to_the_main_process(worker_id: int) -> None:
    """Let a request to stop pass by: the main process decides, and needs its workers until then.

    A scheduler signals a whole group of processes, and torch's workers die of SIGTERM, which ends
    the training with an error before it can save. A worker whose main process is gone still ends by
    itself, within seconds (torch.utils.data._utils.worker.ManagerWatchdog).
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
