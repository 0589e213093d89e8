"""Helper processes that read a large COCO file's annotations beside each other.

What turns polygons into run lengths holds Python's lock, so that threads would take turns. A helper
imports neither torch nor the user's program, which multiprocessing would: it is there in a tenth of
a second, in 40 MB. It reads its chunks from the file, which it inherits open; two pipes tell it
where, and take the columns. It ends with them.
"""

import gc
import logging
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import IO, BinaryIO, cast

import msgspec

from detengine.data.coco_chunks import ChunkReader, KnownIds, Text, known_ids_from_bytes
from detengine.data.object_columns import ObjectColumns, columns_from_bytes

logger = logging.getLogger(__name__)

MOST_HELPERS = 8
"""Beyond, the process that hands out the chunks is what they wait for."""
_PIPE_BYTES = 1 << 20
_LENGTH = struct.Struct("<Q")
_PLACE = struct.Struct("<QQ")
_PROGRAM = "from detengine.data.chunk_processes import main; main()"


@dataclass(frozen=True)
class Chunk:
    """Some annotations. start: where they begin in their file; None: they are not in one."""

    text: Text
    start: int | None = None


def number_of_helpers() -> int:
    """One for each core that this process may use; 0 where there is one core only."""
    if os.name != "posix":
        return 0
    available = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return min(available, MOST_HELPERS) if available > 1 else 0


def read_chunks(
    known: KnownIds, chunks: Sequence[Chunk], file: BinaryIO | None, helpers: int
) -> Iterator[ObjectColumns | None]:
    """What `ChunkReader` reads from each chunk, in their order.

    file: where the chunks are, open for reading; None: nowhere. helpers: processes that read; 0:
    this one does. One that cannot start, or dies, is replaced by this process, with a warning.
    """
    own = ChunkReader(known)
    if not helpers or file is None or any(chunk.start is None for chunk in chunks):
        yield from (own.read(chunk.text) for chunk in chunks)
        return
    with ThreadPoolExecutor(helpers) as threads, _started(known, file, helpers) as idle:

        def read(chunk: Chunk) -> ObjectColumns | None:
            helper = idle.get()
            try:
                return own.read(chunk.text) if helper is None else helper.read(chunk)
            except (OSError, EOFError, msgspec.MsgspecError, ValueError) as error:
                logger.warning("a helper process failed (%s); going on without it", error)
                helper = None
                return own.read(chunk.text)
            finally:
                idle.put(helper)

        try:
            yield from threads.map(read, chunks)
        finally:
            threads.shutdown(cancel_futures=True)


@contextmanager
def _started(
    known: KnownIds, file: BinaryIO, helpers: int
) -> Iterator["SimpleQueue[_Helper | None]"]:
    """The helpers that have nothing to do; None in the place of one that could not start."""
    idle: SimpleQueue[_Helper | None] = SimpleQueue()
    started: list[_Helper] = []
    greeting = known.to_bytes()
    try:
        for _ in range(helpers):
            try:
                started.append(_Helper(file.fileno()))
                _send(started[-1].source, greeting)
                idle.put(started[-1])
            except OSError as error:
                logger.warning("no helper process can start (%s); going on without it", error)
                idle.put(None)
        yield idle
    finally:
        for helper in started:
            helper.end()


class _Helper:
    """A process that runs `main`."""

    def __init__(self, descriptor: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM, str(descriptor)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[descriptor],
            pipesize=_PIPE_BYTES,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        self.source = cast(IO[bytes], self._process.stdin)
        self._sink = cast(IO[bytes], self._process.stdout)

    def read(self, chunk: Chunk) -> ObjectColumns | None:
        """As `ChunkReader.read`. Raises OSError or EOFError if the process has ended."""
        _send(self.source, _PLACE.pack(chunk.start, len(chunk.text)))
        answer = _receive(self._sink)
        return columns_from_bytes(answer) if answer else None

    def end(self) -> None:
        """At once: what it still reads is not wanted any more."""
        self._process.kill()
        for pipe in (self.source, self._sink):
            with suppress(OSError):
                pipe.close()
        self._process.wait()


def _send(pipe: IO[bytes], message: bytes) -> None:
    pipe.write(_LENGTH.pack(len(message)))
    pipe.write(message)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> bytes:
    """Raises EOFError where the other side has ended."""
    return _exactly(pipe, _LENGTH.unpack(_exactly(pipe, _LENGTH.size))[0])


def _exactly(pipe: IO[bytes], length: int) -> bytes:
    data = pipe.read(length)
    if len(data) < length:
        raise EOFError("its pipe has ended")
    return data


def main() -> None:
    """A helper's whole life: what is known, then chunks, until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # meant for the process that it helps
    gc.disable()  # nothing here refers to itself, and looking for that takes a third of the time
    descriptor = int(sys.argv[1])
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    with suppress(EOFError, BrokenPipeError):
        reader = ChunkReader(known_ids_from_bytes(_receive(source)))
        while True:
            start, length = _PLACE.unpack(_receive(source))
            columns = reader.read(os.pread(descriptor, length, start))
            _send(sink, b"" if columns is None else columns.to_bytes())
