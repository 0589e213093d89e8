"""A trained model on files: pictures and videos in, drawn ones and a json out."""

import logging
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from torch import Tensor

from detengine.data.images import count_frames, read_image
from detengine.data.video import Frame, VideoReader
from detengine.engine.detection_result import DetectionResult
from detengine.engine.predictor import Predictor
from detengine.evaluation.described_results import DescribedResultsWriter
from detengine.monitor.progress import track
from detengine.output_folder import make_output_folder
from detengine.picture_files import FoundFiles, PictureFile
from detengine.report.pictures import save_picture
from detengine.report.video import VideoWriter
from detengine.untrusted.links import without_link

logger = logging.getLogger("detengine.predicting")

RESULTS = "predictions.json"
_LISTED = 10
_KEPT_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
_JPEG_QUALITY = 92


@dataclass(frozen=True)
class PredictingOptions:
    """score_threshold: from which score on a detection is drawn and written. draws: whether drawn
    pictures are wanted, or the json alone. The others: as of a Predictor's call.
    """

    score_threshold: float = 0.5
    draws: bool = True
    batch_size: int = 1
    tile: tuple[int, int] | None = None
    tile_overlap: float = 0.2


@dataclass
class Tally:
    """What was done. problems: of each file that could not be read, or not to its end."""

    pictures: int = 0
    frames: int = 0
    objects: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        seen = [f"{self.pictures} picture{'s' * (self.pictures != 1)}"] * (self.pictures > 0)
        seen += [f"{self.frames} frame{'s' * (self.frames != 1)} of videos"] * (self.frames > 0)
        counted = ", ".join(f"{count} {name}" for name, count in self.objects.most_common())
        return f"{' and '.join(seen) or 'no picture'}: {counted or 'nothing found'}"


def raise_if_not_empty(path: Path) -> None:
    """Raise FileExistsError if the folder that is to be written to holds anything already, or is a
    file."""
    if path.is_file():
        raise FileExistsError(f"{path} is a file; expected a folder by --output-dir. Name another.")
    if path.is_dir() and any(path.iterdir()):
        raise FileExistsError(
            f"{path} holds files already. Name another folder by --output-dir, or add --overwrite "
            "to replace those of the same names; the others stay."
        )


def predict(
    predictor: Predictor, files: FoundFiles, folder: Path, options: PredictingOptions
) -> Tally:
    """Predict on all files, and write into the folder what was found; gives what was done.

    The folder is made if need be; files of the same names are replaced. Each picture is drawn under
    its own name, a video as an mp4; predictions.json has all detections (see `described_results`).
    What cannot be read is noted, and the others are done. However it ends, the json and a begun
    video are whole.
    """
    make_output_folder(folder)
    tally = Tally()
    job = _Job(predictor, folder, options, tally)
    with DescribedResultsWriter(folder / RESULTS, predictor.class_names) as results:
        with closing(job.pictures(files.pictures)) as found:
            for file, result in found:
                job.take(results, file.name, result)
                tally.pictures += 1
                if options.draws:
                    job.save_picture(file, result)
        for video in files.videos:
            job.predict_video(video, results)
    return tally


def raise_if_incomplete(tally: Tally, folder: Path) -> None:
    """Raise ValueError, with a list, if a file could not be read, or not to its end."""
    if not tally.problems:
        return
    listed = "\n".join(f"  {each}" for each in tally.problems[:_LISTED])
    more = len(tally.problems) - _LISTED
    listed += f"\n  and {more} more" * (more > 0)
    has_others = tally.pictures + tally.frames > 0
    done = f"\nAll others are done, and in {folder}." if has_others else ""
    raise ValueError(
        f"{len(tally.problems)} of the files could not be read, or not to the end:\n{listed}{done}"
    )


@dataclass(frozen=True)
class _Job:
    """One call of `predict`: what it takes, and what it keeps count in."""

    predictor: Predictor
    folder: Path
    options: PredictingOptions
    tally: Tally

    def pictures(
        self, files: Sequence[PictureFile]
    ) -> Generator[tuple[PictureFile, DetectionResult]]:
        """Each picture that can be read, and what is in it."""
        waiting: deque[PictureFile] = deque()

        def read() -> Generator[Tensor]:
            for file in track(files, "predicting"):
                try:
                    image, number = read_image(file.path), count_frames(file.path)
                except (OSError, ValueError) as error:
                    self._note(str(error))
                else:
                    if number > 1:
                        logger.warning("%s: of %d pictures the first is taken", file.name, number)
                    waiting.append(file)
                    yield image

        with closing(read()) as images:  # and with it the progress bar, also after Ctrl-C
            for result in self._stream(images):
                yield waiting.popleft(), result

    def take(
        self, results: DescribedResultsWriter, name: str, result: DetectionResult, **more: float
    ) -> None:
        """Write a picture's detections."""
        found = result.filtered(self.options.score_threshold)
        entries = found.to_coco(results.next_image_id())
        results.add(name, result.size, entries, found.class_names, **more)
        self.tally.objects.update(found.class_names)

    def save_picture(self, file: PictureFile, result: DetectionResult) -> None:
        """Draw it under its own name, as PNG where its format is not one that is written."""
        suffix = Path(file.name).suffix.lower()
        place = self.folder / file.name
        if suffix not in _KEPT_SUFFIXES:
            place = place.with_name(f"{place.name}.png")
        make_output_folder(place.parent)
        drawn = result.draw(self.options.score_threshold)
        save_picture(drawn, place, quality=_JPEG_QUALITY)

    def predict_video(self, file: PictureFile, results: DescribedResultsWriter) -> None:
        """All frames of a video, of which a batch is in memory."""
        try:
            reader = VideoReader(file.path)
        except (OSError, ValueError) as error:
            self._note(str(error))
            return
        place = self.folder / file.name
        if place.suffix.lower() != ".mp4":
            place = place.with_name(f"{place.name}.mp4")
        waiting: deque[Frame] = deque()

        def read() -> Generator[Tensor]:
            for frame in track(reader, f"predicting {file.name}", reader.announced):
                waiting.append(frame)
                yield frame.image

        with ExitStack() as stack:
            stack.enter_context(reader)
            images = stack.enter_context(closing(read()))
            writer = None
            for result in self._stream(images):
                frame = waiting.popleft()
                self.take(
                    results, file.name, result, frame=frame.number, seconds=round(frame.seconds, 6)
                )
                self.tally.frames += 1
                if self.options.draws:
                    if writer is None:
                        make_output_folder(place.parent)
                        writer = VideoWriter(without_link(place), reader.rate, frame.time_base)
                        stack.enter_context(writer)
                    writer.write(self._drawn(result), frame.time)
        if reader.problem is not None:
            self._note(reader.problem)

    def _drawn(self, result: DetectionResult) -> Image.Image:
        """A frame in its own size; of one class, all objects have the same colour in all frames."""
        shown = result.filtered(self.options.score_threshold)
        colours = [0] * len(shown) if len(result.classes) == 1 else None
        return shown.draw(self.options.score_threshold, scale=1.0, colours=colours)

    def _stream(self, images: Iterator[Tensor]) -> Iterator[DetectionResult]:
        options = self.options
        return self.predictor.stream(
            images,
            batch_size=options.batch_size,
            tile=options.tile,
            tile_overlap=options.tile_overlap,
        )

    def _note(self, problem: str) -> None:
        logger.warning("%s", problem)
        self.tally.problems.append(problem)
