"""Processes that can be killed, alone or as the ranks of a group, started within 0.1 s."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import detengine

SECONDS = 60.0
"""What a process may last if nothing else is said."""


class Process(NamedTuple):
    """One process of a ForkServer's."""

    server: "ForkServer"
    pid: int

    def signal(self, number: int) -> None:
        """To this process alone; nothing if it has ended."""
        _signal_if_there(os.kill, self.pid, number)

    def wait(self, seconds: float = SECONDS) -> int:
        """The exit code; minus the signal's number if one ended it. After the seconds: SIGKILL."""
        return self.server.ask(wait=[self.pid, seconds])


class ForkServer:
    """The program of that name, and the processes that it started."""

    def __init__(self) -> None:
        here = Path(__file__).parent
        settings = {
            "PYTHONPATH": f"{Path(detengine.__file__).parents[1]}{os.pathsep}{here / 'resume'}",
            "CUDA_VISIBLE_DEVICES": "",
            "GOMP_SPINCOUNT": "10000",  # as cli/main sets it, where torch is not there before it
            **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
        }
        self._process = subprocess.Popen(
            [sys.executable, str(here / "fork_server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | settings,
        )
        self._groups: list[int] = []
        self._asked = 0
        assert self._answer() == (0, os.getpid())  # when all is imported

    def start(self, **settings: Any) -> Process:
        """settings: of `fork_server.run`."""
        self._groups.append(self.ask(start=settings))
        return Process(self, self._groups[-1])

    def start_ranks(
        self, count: int, program: Path | None, arguments: Sequence[object], output: Path
    ) -> list[Process]:
        """So many processes of the program, or of detengine, which find each other as torchrun's.

        output: what rank 1 prints goes to this path with `.rank1` behind it, and so on.
        """
        return [
            self.start(
                program=str(program or ""),
                arguments=[str(each) for each in arguments],
                output=f"{output}.rank{rank}",
                environment=environment,
            )
            for rank, environment in enumerate(environments_of_ranks(count))
        ]

    def ask(self, **request: Any) -> int:
        """Its answer to this request, and to no other: a test that ran out of time leaves one."""
        assert self._process.stdin is not None
        self._asked += 1
        self._process.stdin.write(json.dumps([self._asked, request]) + "\n")
        self._process.stdin.flush()
        while (answer := self._answer())[0] != self._asked:
            pass
        return answer[1]

    def close(self) -> None:
        for group in self._groups:
            _signal_if_there(os.killpg, group, 9)
        try:
            self._process.communicate(timeout=10)
        except subprocess.TimeoutExpired:  # a process of a test holds its input, too
            self._process.kill()
            self._process.wait()

    def _answer(self) -> tuple[int, int]:
        """The number of a request, and what is answered."""
        assert self._process.stdout is not None
        number, answer = json.loads(self._process.stdout.readline())
        return number, answer


def environments_of_ranks(count: int) -> list[dict[str, str]]:
    """What torchrun tells each rank of one machine; a single rank is told nothing else."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    return [
        {
            "WORLD_SIZE": str(count),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "LOCAL_WORLD_SIZE": str(count),
            **address,
        }
        for rank in range(count)
    ]


def _signal_if_there(send: Callable[[int, int], None], receiver: int, number: int) -> None:
    assert receiver > 1  # group 1 is every process there is
    with suppress(ProcessLookupError):
        send(receiver, number)
