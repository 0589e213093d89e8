"""Videos, frame by frame, as the pictures that a model sees. Needs PyAV."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".ts"}
)
"""What is taken for a video."""


class Frame(NamedTuple):
    """image: uint8[3, H, W], RGB, upright. time: in units of the video's time_base."""

    image: Tensor
    number: int
    time: int
    time_base: Fraction

    @property
    def seconds(self) -> float:
        return float(self.time * self.time_base)


def import_av(what: str) -> ModuleType:
    """PyAV. what: it is needed for. Raises ImportError with the command where it is missing."""
    try:
        import av
    except ImportError as error:
        raise ImportError(
            f"{what} needs PyAV, which is not installed; `pip install detengine[video]`"
        ) from error
    return av


class VideoReader:
    """The frames of a file's first video stream, decoded one by one.

    rate: frames a second, as the file says. announced: how many frames there should be; None where
    the file does not say. problem: after the last frame, what is amiss with the file: it has less
    than it announces, or damaged parts; None if nothing is.
    Raises ImportError without PyAV, FileNotFoundError, and ValueError, naming the file, for one
    that holds no video that can be opened.
    """

    def __init__(self, path: Path) -> None:
        av = import_av(f"reading the video {path}")
        if not path.is_file():
            raise FileNotFoundError(f"there is no video {path}")
        try:
            self._container = av.open(str(path))
        except av.error.FFmpegError as error:
            raise ValueError(
                f"{path} cannot be read as a video: {error.strerror} "
                f"({path.stat().st_size} bytes). Was its writing or copying cut off?"
            ) from error
        if not self._container.streams.video:
            self._container.close()
            raise ValueError(f"{path} holds no video stream, sound alone, say")
        self._error = av.error.FFmpegError
        self._stream: Any = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        self.path = path
        self.rate: Fraction = self._stream.average_rate or Fraction(25)
        self.announced: int | None = self._stream.frames or None
        self.problem: str | None = None
        self._end = 0.0

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[Frame]:
        number, packets_read, damaged = 0, 0, 0
        packets = self._packets()
        while True:
            try:
                packet = next(packets, None)
                decoded = [] if packet is None else packet.decode()
            except self._error:
                # a packet that was cut off or overwritten; the next one may be whole
                damaged += 1
                if damaged > _MOST_DAMAGED:
                    break
                continue
            if packet is None:
                break
            packets_read += packet.size > 0
            for frame in decoded:
                time = number if frame.pts is None else frame.pts
                base = 1 / self.rate if frame.pts is None else frame.time_base
                yield Frame(_upright(frame), number, time, base)
                number += 1
        self.problem = self._what_is_missing(number, packets_read, damaged)

    def _packets(self) -> Iterator[Any]:
        """The video's packets. The sound's are read past, as it may be what lasts longest."""
        for packet in self._container.demux():
            if packet.pts is not None:
                end = packet.pts + (packet.duration or 0)
                self._end = max(self._end, float(end * packet.time_base))
            if packet.stream.index == self._stream.index:
                yield packet

    def _seconds_missing(self) -> float:
        """How much earlier the file ends than it says. What it says begins with its first time."""
        start, duration = self._container.start_time or 0, self._container.duration
        return 0.0 if duration is None else (start + duration) / 1e6 - self._end

    def _what_is_missing(self, decoded: int, packets_read: int, damaged: int) -> str | None:
        missing = [f"{damaged} of its parts are damaged"] * (damaged > 0)
        # by what is in the file: of that, frames before the first one to be shown are not decoded
        if self.announced is not None and packets_read < self.announced:
            missing.append(f"it says that it has {self.announced}: it is cut short")
        elif self.announced is None and self._seconds_missing() > _MOST_SECONDS_MISSING:
            seconds = self._seconds_missing()
            missing.append(f"it ends {seconds:.1f} s before it says: it is cut short")
        if not decoded and not missing:
            missing = ["it is empty"]
        if not missing:
            return None
        return f"{decoded} frames of {self.path} could be decoded; {' and '.join(missing)}"


_MOST_SECONDS_MISSING = 1.0
"""Files that name no number of frames name a duration, which some programs round."""
_MOST_DAMAGED = 1000
"""Packets, after which the rest of a file is given up."""


def _upright(frame: Any) -> Tensor:
    """Turned as the file says that it is to be shown; telephones film on their side."""
    pixels = frame.to_ndarray(format="rgb24")
    turned = np.rot90(pixels, round(frame.rotation / 90) % 4)
    return torch.from_numpy(np.ascontiguousarray(turned)).permute(2, 0, 1)
