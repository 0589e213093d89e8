"""What somebody sees of a training who watches it: a few lines that change, instead of many.

It is a sink among the others: it knows what the log line says, and asks the device nothing.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, cast

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from detengine.monitor.bar import Bar, Followed
from detengine.monitor.display import display
from detengine.monitor.logs import without_progress_lines

LoaderT = TypeVar("LoaderT")

_CURVE_WIDTH = 24
_HEIGHTS = "▁▂▃▄▅▆▇█"
_LABEL_WIDTH = 9
_SETS_SHOWN = 4
_LOSS_TASK = "loss"
"""Under which losses on test sets stand; there lower is better, and nothing is a percentage."""
_NOTHING_TO_SCORE = -1.0


class TrainingView:
    """Progress, losses, speed, and the last and best scores; a Sink, and a bar for the loader.

    total, completed: iterations. images_per_step: of all ranks. best_metric: shown beside each
    task's main metric, `bbox/AP50`; None shows those alone.
    """

    def __init__(
        self, total: int, completed: int, images_per_step: int, best_metric: str | None = None
    ) -> None:
        self._bar = Bar("training", total, completed)
        self._images_per_step = images_per_step
        self._best_metric = best_metric
        self._train: dict[str, float] = {}
        self._losses = History(2 * _CURVE_WIDTH)
        self._scores: dict[str, Score] = {}
        self._scored_at = 0

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show it during the block, in place of the training's lines; its last state stays."""
        with without_progress_lines(), display().showing(self.render, keep=True):
            try:
                yield
            finally:
                self._bar.has_ended = True

    def follow(self, loader: LoaderT, batches_per_step: int = 1) -> LoaderT:
        """The loader, whose batches move the bar."""
        followed = Followed(
            cast(Any, loader),
            self._bar,
            display(),
            shown=False,
            batches_per_step=batches_per_step,
        )
        return cast(LoaderT, followed)

    def write(self, iteration: int, metrics: Mapping[str, float]) -> None:
        self._bar.completed = iteration
        if "train/loss" in metrics:
            self._train = dict(metrics)
            self._bar.seconds_per_step = metrics["train/time"]
            self._losses.add(metrics["train/loss"])
        self.remember(iteration, metrics)

    def remember(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Take the scores of an evaluation, such as those of a resumed run's past."""
        names = [name for name in metrics if name.startswith("val/") and name.count("/") >= 3]
        scores = dict(self._scores)
        for name in _shown_metrics(names, self._best_metric):
            scores[name] = Score.of(name, metrics[name], iteration, scores.get(name))
        self._scores = scores
        if names:
            self._scored_at = iteration

    def write_pictures(self, iteration: int, pictures: Mapping[str, Path]) -> None:
        pass  # a terminal has none

    def close(self) -> None:
        pass  # `shown` ends it

    def render(self) -> RenderableType:
        return Group(self._bar.render(rate=False), *self._rows())

    def _rows(self) -> Iterator[RenderableType]:
        """What has not been measured yet has no row."""
        if self._train:
            yield Curve("loss", f"{self._train['train/loss']:.4f}", self._losses.means)
            if parts := _parts_of_loss(self._train):
                yield Flow("", parts)
            yield Flow("speed", self._speed())
            rate, memory = self._train["train/lr"], self._train["train/max_mem"]
            yield Flow("lr", [f"{rate:.6f}", f"memory {memory:.0f} MB"])
        sets = list(dict.fromkeys(score.test_set for score in self._scores.values()))
        for number, test_set in enumerate(sets[:_SETS_SHOWN]):
            of_set = [str(score) for score in self._scores.values() if score.test_set == test_set]
            when = f"iteration {self._scored_at}"
            yield Flow("" if number else "score", [test_set, *of_set, when])
        if len(sets) > _SETS_SHOWN:
            yield Flow("", [f"and {len(sets) - _SETS_SHOWN} more test sets"])

    def _speed(self) -> list[str]:
        step, data = self._train["train/time"], self._train["train/data"]
        if not step > 0:
            return []
        return [
            f"{self._images_per_step / step:.1f} images/s",
            f"{step:.3f} s a step",
            f"{100 * data / step:.0f} % waiting for data",
        ]


@dataclass(frozen=True)
class Score:
    """One metric of a test set: its last value, and the best one with its iteration."""

    test_set: str
    task: str
    metric: str
    value: float
    best: float
    best_iteration: int

    @classmethod
    def of(cls, name: str, value: float, iteration: int, before: "Score | None") -> "Score":
        """name: `val/<test set>/<task>/<metric>`. before: what was known of it, if anything."""
        test_set, task, metric = name.removeprefix("val/").rsplit("/", 2)
        sign = -1 if task == _LOSS_TASK else 1
        if before is None or sign * value >= sign * before.best or math.isnan(before.best):
            return cls(test_set, task, metric, value, value, iteration)
        return cls(test_set, task, metric, value, before.best, before.best_iteration)

    def __str__(self) -> str:
        """`bbox AP 31.2 (best 32.0 at 800)`, in percent."""
        name = self.task if self.task == self.metric else f"{self.task} {self.metric}"
        is_best = self.value == self.best or math.isnan(self.best)
        best = "best" if is_best else f"best {self._shown(self.best)} at {self.best_iteration}"
        return f"{name} {self._shown(self.value)} ({best})"

    def _shown(self, value: float) -> str:
        if self.task == _LOSS_TASK:
            return f"{value:.4f}"
        return "n/a" if value == _NOTHING_TO_SCORE else f"{100 * value:.1f}"


class History:
    """A series of any length as the means of at most `size` pieces, all but the last equally long.

    size: even. What is not finite is left out.
    """

    def __init__(self, size: int) -> None:
        self.means: list[float] = []
        self._size = size
        self._length, self._in_last = 1, 0

    def add(self, value: float) -> None:
        if not math.isfinite(value):
            return
        if not self.means or self._in_last == self._length:
            if len(self.means) == self._size:
                pairs = zip(self.means[::2], self.means[1::2], strict=True)
                self.means = [(one + other) / 2 for one, other in pairs]
                self._length *= 2
            self.means = [*self.means, value]
            self._in_last = 1
        else:
            self._in_last += 1
            self.means[-1] += (value - self.means[-1]) / self._in_last


class Flow:
    """A label, and behind it texts, as many on a line as there is room for; none is broken."""

    def __init__(self, label: str, texts: Sequence[str]) -> None:
        self._label = label
        self._texts = texts

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        line = _begun(self._label)
        gap = ""
        for text in self._texts:
            if gap and line.cell_len + cell_len(gap + text) > options.max_width:
                yield line
                line, gap = _begun(""), ""
            line.append(gap + text)
            gap = "  "
        yield line


class Curve:
    """A label, a number, and how that went over time, where the terminal has such letters."""

    def __init__(self, label: str, text: str, values: Sequence[float]) -> None:
        self._label = label
        self._text = text
        self._values = values

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        curve = "" if options.ascii_only else curve_of(self._values, _CURVE_WIDTH)
        yield _begun(self._label).append(f"{self._text}  {curve}")


def _begun(label: str) -> Text:
    """A line with its label, to be continued; cut off where the terminal ends."""
    line = Text(no_wrap=True, overflow="ellipsis")
    return line.append(label.ljust(_LABEL_WIDTH), style="dim")


def curve_of(values: Sequence[float], width: int) -> str:
    """Values as bars, at most `width` of them, each the mean of its share; "" of fewer than two."""
    if len(values) < 2:
        return ""
    bounds = [round(number * len(values) / width) for number in range(width + 1)]
    shares = [values[start:end] for start, end in pairwise(bounds)]
    means = [sum(share) / len(share) for share in shares if share]
    lowest, highest = min(means), max(means)
    scale = (len(_HEIGHTS) - 1) / (highest - lowest or 1)
    return "".join(_HEIGHTS[round((mean - lowest) * scale)] for mean in means)


def _parts_of_loss(metrics: Mapping[str, float]) -> list[str]:
    """The terms, without what their names have in common: `mask 0.2502`."""
    names = [name for name in metrics if name.startswith("train/loss_")]
    return [f"{name.removeprefix('train/loss_')} {metrics[name]:.4f}" for name in names]


def _shown_metrics(names: Iterable[str], best_metric: str | None) -> list[str]:
    """Those of an evaluation's metrics that are shown: the first of each task, and the chosen."""
    shown: dict[str, None] = {}
    tasks = set()
    for name in names:
        task, _ = name.rsplit("/", 1)
        if task not in tasks or (best_metric and name.endswith(f"/{best_metric}")):
            shown[name] = None
        tasks.add(task)
    return list(shown)
