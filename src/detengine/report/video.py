"""Pictures one after the other, as a video file."""

from fractions import Fraction
from pathlib import Path
from typing import Any

from PIL import Image

from detengine.data.video import import_av
from detengine.disk.writing import naming, remove_quietly
from detengine.untrusted.links import without_link

_CODECS = ("libx264", "libopenh264", "mpeg4")
"""The first that this PyAV can encode with is used."""


class VideoWriter:
    """Writes an mp4, frame by frame, aside, and in its place when the block ends, however it ends.
    Where its end cannot be written, as on a full disk, nothing is left.

    rate: frames a second. time_base: the unit of the frames' times, in seconds. All frames have the
    first one's size, of which an odd last row or column is left out. No frame, no file.
    """

    def __init__(self, path: Path, rate: Fraction, time_base: Fraction) -> None:
        self._av = import_av(f"writing the video {path}")
        self._path = path
        self._aside = without_link(path.with_name(f"{path.name}.part"))
        self._rate, self._time_base = rate, time_base
        self._container: Any = None
        self._stream: Any = None
        self._last: int | None = None

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._container is None:
            return
        try:
            with naming(self._path):
                self._container.mux(self._stream.encode(None))
                self._container.close()
                self._aside.replace(self._path)
        except OSError:
            remove_quietly(self._aside)
            raise

    def write(self, picture: Image.Image, time: int) -> None:
        """The next frame. time: when it is shown, in units of time_base; later than the last."""
        with naming(self._path):
            self._write(picture, time)

    def _write(self, picture: Image.Image, time: int) -> None:
        if self._container is None:
            self._open(picture.size)
        frame = self._av.VideoFrame.from_image(picture)
        frame = frame.reformat(width=self._stream.width, height=self._stream.height)
        # times that stand still or run backwards, as in damaged files, no encoder takes
        self._last = time if self._last is None else max(time, self._last + 1)
        frame.pts, frame.time_base = self._last, self._time_base
        self._container.mux(self._stream.encode(frame))

    def _open(self, size: tuple[int, int]) -> None:
        codec = next(name for name in _CODECS if self._can_encode(name))
        self._container = self._av.open(str(self._aside), "w", format="mp4")
        self._stream = self._container.add_stream(codec, rate=self._rate)
        self._stream.width, self._stream.height = (max(2, side - side % 2) for side in size)
        self._stream.pix_fmt = "yuv420p"  # what browsers show
        self._stream.codec_context.time_base = self._time_base

    def _can_encode(self, name: str) -> bool:
        try:
            self._av.Codec(name, "w")
        except ValueError:  # av.codec.codec.UnknownCodecError
            return False
        return True
