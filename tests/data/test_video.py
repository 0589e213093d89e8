"""Videos as frames: all of them, upright, and what is said of one that was cut short."""

import builtins
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detengine.data.video import VideoReader
from detengine.report.video import VideoWriter
from full_disk import largest_file

av = pytest.importorskip("av")

SIZE = (48, 64)
WriteVideo = Callable[..., Path]


@pytest.fixture
def write_video(tmp_path: Path) -> WriteVideo:
    """(name, count, turned=0, options={}) -> a video of so many frames, lighter and lighter.

    The upper left quarter is white. turned: degrees counterclockwise to show it upright.
    """

    def write(
        name: str, count: int, *, turned: int = 0, options: dict[str, str] | None = None
    ) -> Path:
        path = tmp_path / name
        with av.open(str(path), "w", options=options or {}) as container:
            stream = container.add_stream("mpeg4", rate=5)
            stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
            if turned:
                stream.set_display_rotation(turned)
            for number in range(count):
                pixels = np.full((*SIZE, 3), 10 + 10 * number, np.uint8)
                pixels[:24, :32] = 255
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode(None))
        return path

    return write


def test_all_frames_come_in_their_order_with_their_times(write_video: WriteVideo) -> None:
    with VideoReader(write_video("a.mp4", 6)) as reader:
        frames = list(reader)
    assert (reader.rate, reader.announced, reader.problem) == (5, 6, None)
    assert [frame.number for frame in frames] == [0, 1, 2, 3, 4, 5]
    assert [frame.seconds for frame in frames] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert frames[0].image.shape == (3, *SIZE)
    corner = [int(frame.image[0, 40, 50]) for frame in frames]
    assert corner == pytest.approx([10, 20, 30, 40, 50, 60], abs=4)


def test_a_video_filmed_on_its_side_is_turned_upright(write_video: WriteVideo) -> None:
    if not hasattr(av.video.stream.VideoStream, "set_display_rotation"):
        pytest.skip("this PyAV cannot write one")
    with VideoReader(write_video("a.mp4", 1, turned=90)) as reader:
        (frame,) = reader
    assert frame.image.shape == (3, 64, 48)
    white = frame.image[0] > 200
    assert white[40:, :20].all()  # what was on top is on the left, its left end at the bottom
    assert not white[:28].any()


def test_of_a_video_that_was_cut_short_what_is_there_comes_and_the_rest_is_said(
    write_video: WriteVideo,
) -> None:
    path = write_video("a.mp4", 20, options={"movflags": "+faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with VideoReader(path) as reader:
        frames = list(reader)
    assert 0 < len(frames) < 20
    assert reader.problem is not None
    assert f"{len(frames)} frames of {path} could be decoded" in reader.problem
    assert "it says that it has 20: it is cut short" in reader.problem


def test_a_video_that_names_no_number_of_frames_is_measured_by_its_duration(
    write_video: WriteVideo,
) -> None:
    whole = write_video("whole.mkv", 20)
    content = whole.read_bytes()
    cut = whole.with_name("cut.mkv")
    cut.write_bytes(content[: len(content) * 55 // 100])
    with VideoReader(whole) as reader:
        assert len(list(reader)) == 20
    assert reader.problem is None
    with VideoReader(cut) as reader:
        assert 0 < len(list(reader)) < 15
    assert reader.problem is not None
    assert "s before it says: it is cut short" in reader.problem


def test_what_is_no_video_is_refused(write_video: WriteVideo, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(ValueError, match=r"text\.mp4 cannot be read as a video.*\(8 bytes\)"):
        VideoReader(tmp_path / "text.mp4")
    with pytest.raises(FileNotFoundError, match=r"no video .*none\.mp4"):
        VideoReader(tmp_path / "none.mp4")
    sound = tmp_path / "sound.wav"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(ValueError, match="holds no video stream"):
        VideoReader(sound)


def test_without_pyav_the_command_that_installs_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "av":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"a\.mp4 needs PyAV.*`pip install detengine\[video\]`"):
        VideoReader(Path("a.mp4"))


# Writing


def test_a_written_video_has_the_frames_and_times_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with VideoWriter(path, Fraction(5), Fraction(1, 10)) as writer:
        for number, time in enumerate((0, 2, 2, 9)):  # one stands still
            writer.write(Image.new("RGB", (31, 21), (50 * number,) * 3), time)
        assert not path.exists()
    with VideoReader(path) as reader:
        frames = list(reader)
    assert [frame.seconds for frame in frames] == pytest.approx([0, 0.2, 0.3, 0.9])
    assert frames[0].image.shape == (3, 20, 30)
    assert list(tmp_path.iterdir()) == [path]


def test_a_video_whose_writing_was_broken_off_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"

    def write_until_stopped() -> None:
        with VideoWriter(path, Fraction(5), Fraction(1, 5)) as writer:
            for number in range(3):
                writer.write(Image.new("RGB", (32, 32)), number)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_until_stopped()
    with VideoReader(path) as reader:
        assert len(list(reader)) == 3


def test_a_video_that_cannot_be_written_to_its_end_leaves_nothing(
    tmp_path: Path,
) -> None:
    def write_beyond_the_limit() -> None:
        with (
            largest_file(100),
            VideoWriter(tmp_path / "a.mp4", Fraction(5), Fraction(1, 5)) as writer,
        ):
            for number in range(3):
                writer.write(Image.effect_noise((320, 320), 50.0).convert("RGB"), number)

    with pytest.raises(OSError, match="too large"):
        write_beyond_the_limit()
    assert list(tmp_path.iterdir()) == []


def test_without_frames_there_is_no_file(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", Fraction(5), Fraction(1, 5)):
        pass
    assert not list(tmp_path.iterdir())
