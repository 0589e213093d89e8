"""A run's numbers and pictures as TensorBoard reads them: `tensorboard --logdir <run's folder>`."""

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from detengine.disk.writing import naming

FOLDER = "tensorboard"
_FORMAT = "brain.Event:2"
_RGB = 3  # Summary.Image's colorspace: the number of channels


class TensorBoardSink:
    """One event file for each start of the run, beside those of the starts before.

    Written at once and by no thread, unlike torch's SummaryWriter: an error is raised where it
    happens, and nothing is on its way when processes are forked. The file begins with the iteration
    that the run goes on with; TensorBoard drops what earlier files have of that and later ones.
    """

    def __init__(self, folder: Path, finished_iterations: int) -> None:
        folder = folder / FOLDER
        stamp = f"{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        self._folder = folder
        with naming(folder):
            folder.mkdir(exist_ok=True)
            self._file = _unused(folder, f"events.out.tfevents.{stamp}").open("wb")
        self._writer = RecordWriter(self._file)
        first = finished_iterations + 1
        self._add(Event(file_version=_FORMAT), 0)
        self._add(Event(session_log=SessionLog(status=SessionLog.START)), first)

    def write(self, iteration: int, metrics: Mapping[str, float]) -> None:
        values = [Summary.Value(tag=name, simple_value=each) for name, each in metrics.items()]
        self._add(Event(summary=Summary(value=values)), iteration)

    def write_pictures(self, iteration: int, pictures: Mapping[str, Path]) -> None:
        for name, path in pictures.items():
            with Image.open(path) as picture:
                width, height = picture.size
            image = Summary.Image(
                height=height, width=width, colorspace=_RGB, encoded_image_string=path.read_bytes()
            )
            value = Summary.Value(tag=f"pictures/{name}", image=image)
            self._add(Event(summary=Summary(value=[value])), iteration)

    def close(self) -> None:
        self._file.close()

    def _add(self, event: Any, step: int) -> None:
        event.step, event.wall_time = step, time.time()
        with naming(self._folder):
            self._writer.write(event.SerializeToString())
            self._file.flush()


def open_sink(folder: Path, finished_iterations: int, config: Mapping[str, Any]) -> TensorBoardSink:
    """The sink of a run. config: not shown there; it lies in the run's folder."""
    return TensorBoardSink(folder, finished_iterations)


def _unused(folder: Path, name: str) -> Path:
    """TensorBoard reads a folder's files in the order of their names; one more each start."""
    number = 0
    while (path := folder / f"{name}.{number}").exists():
        number += 1
    return path
