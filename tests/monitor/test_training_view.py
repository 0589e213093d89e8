import math
from collections.abc import Sequence
from io import StringIO
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from detengine.monitor.bar import Bar
from detengine.monitor.training_view import History, Score, TrainingView, curve_of

TRAIN = {
    "train/loss": 0.8234,
    "train/loss_classifier": 0.3,
    "train/loss_box_reg": 0.25,
    "train/loss_mask": 0.2,
    "train/loss_objectness": 0.05,
    "train/loss_rpn_box_reg": 0.0234,
    "train/time": 0.25,
    "train/data": 0.005,
    "train/lr": 0.02,
    "train/max_mem": 2310.4,
}


def lines_of(view: TrainingView, width: int = 88, **how: Any) -> list[str]:
    console = Console(file=StringIO(), width=width, **how)
    console.print(view.render())
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text.splitlines()


def scored(*evaluations: tuple[int, dict[str, float]], best: str | None = None) -> Sequence[str]:
    view = TrainingView(100, 0, 4, best)
    for iteration, scores in evaluations:
        view.write(iteration, scores)
    return [line for line in lines_of(view) if not line.startswith("training")]


def test_before_the_first_log_line_there_is_a_bar_and_nothing_else() -> None:
    (line,) = lines_of(TrainingView(400, 120, 4))
    assert line.startswith("training")
    assert "120/400" in line


def test_it_says_what_the_log_line_says() -> None:
    view = TrainingView(400, 0, 8)
    view.write(40, TRAIN)
    bar, loss, *parts, speed, lr = lines_of(view)
    assert "40/400" in bar
    assert "eta 0:01:30" in bar  # 360 steps of a quarter of a second
    assert loss.split() == ["loss", "0.8234"]
    assert "mask 0.2000" in " ".join(parts)
    assert "rpn_box_reg 0.0234" in " ".join(parts)
    assert speed.split("  ")[-3:] == ["32.0 images/s", "0.250 s a step", "2 % waiting for data"]
    assert lr.split() == ["lr", "0.020000", "memory", "2310", "MB"]


@pytest.mark.parametrize("width", [40, 60, 100, 160])
def test_no_line_is_longer_than_the_terminal_and_none_is_broken(width: int) -> None:
    view = TrainingView(400, 0, 8)
    for iteration in (20, 40, 60):
        view.write(iteration, TRAIN)
    view.write(60, {"val/nuclei_val/bbox/AP": 0.3, "val/nuclei_val/segm/AP": 0.25})
    lines = lines_of(view, width)
    assert max(map(cell_len, lines)) <= width
    for text in ("rpn_box_reg 0.0234", "32.0 images/s", "segm AP 25.0"):
        assert sum(text in line for line in lines) == 1


def test_scores_come_with_the_best_so_far_and_its_iteration() -> None:
    evaluations = [(i, {"val/a/bbox/AP": ap, "val/a/bbox/AP50": 0.9}) for i, ap in
                   ((10, 0.2), (20, 0.321), (30, 0.3))]  # fmt: skip
    assert scored(*evaluations[:2]) == ["score    a  bbox AP 32.1 (best)  iteration 20"]
    assert scored(*evaluations) == ["score    a  bbox AP 30.0 (best 32.1 at 20)  iteration 30"]


def test_the_metric_that_chooses_the_best_checkpoint_is_shown_too() -> None:
    scores = {"val/a/bbox/AP": 0.1, "val/a/bbox/AP50": 0.2, "val/a/bbox/AP75": 0.05}
    (line,) = scored((10, scores), best="bbox/AP50")
    assert "bbox AP 10.0 (best)  bbox AP50 20.0 (best)  iteration 10" in line


def test_of_a_loss_the_lowest_is_the_best_and_none_is_a_percentage() -> None:
    losses = [(10, {"val/a/loss/loss": 0.5}), (20, {"val/a/loss/loss": 0.75})]
    assert scored(*losses) == ["score    a  loss 0.7500 (best 0.5000 at 10)  iteration 20"]


def test_many_test_sets_do_not_fill_the_terminal() -> None:
    lines = scored((10, {f"val/set_{number}/bbox/AP": 0.1 for number in range(9)}))
    assert len(lines) == 5
    assert lines[-1].strip() == "and 5 more test sets"


def test_a_test_set_may_have_slashes_in_its_name() -> None:
    score = Score.of("val/mine/2026/bbox/AP", 0.5, 10, None)
    assert (score.test_set, score.task, score.metric) == ("mine/2026", "bbox", "AP")


def test_what_is_not_a_number_or_not_there_is_shown_as_that() -> None:
    view = TrainingView(400, 0, 8)
    view.write(20, TRAIN | {"train/loss": math.nan, "train/loss_mask": math.inf, "train/time": 0.0})
    view.write(20, {"val/a/bbox/AP": math.nan})
    assert "bbox AP nan (best)" in "\n".join(lines_of(view))
    view.write(40, TRAIN | {"train/loss": math.inf})
    view.write(40, {"val/a/bbox/AP": -1.0})
    text = "\n".join(lines_of(view))
    assert "inf" in text
    assert "bbox AP n/a (best)" in text  # a number, where there was none


def test_names_are_not_taken_for_markup() -> None:
    (line,) = scored((10, {"val/[bold]x[/]/bbox/AP": 0.5}))
    assert "[bold]x[/]" in line
    console = Console(file=StringIO(), width=88)
    console.print(Bar("scoring [red]x[/]", 3).render())
    assert "scoring [red]x[/]" in console.file.getvalue()  # type: ignore[attr-defined]


def test_where_the_terminal_has_no_such_letters_there_is_no_curve() -> None:
    view = TrainingView(400, 0, 8)
    for iteration in (20, 40, 60):
        view.write(iteration, TRAIN | {"train/loss": 1 / iteration})
    assert any("█" in line for line in lines_of(view))
    ascii_console = Console(file=StringIO(), width=88)
    options = ascii_console.options.update()
    options.encoding = "ascii"
    for line in ascii_console.render_lines(view.render(), options):
        "".join(segment.text for segment in line).encode("ascii")


def test_a_curve_is_as_long_as_its_values_and_no_longer_than_it_may_be() -> None:
    assert curve_of([], 8) == curve_of([1.0], 8) == ""
    assert curve_of([8.0, 4.0, 1.0], 8) == "█▄▁"
    assert curve_of([1.0, 1.0], 8) == "▁▁"
    assert curve_of([float(-i) for i in range(1000)], 8) == "█▇▆▅▄▃▂▁"


def test_the_loader_moves_the_bar_by_steps_of_several_batches() -> None:
    view = TrainingView(4, 1, 8)
    seen = []
    for _ in view.follow(range(6), batches_per_step=2):
        seen.append(next(word for word in lines_of(view)[0].split() if "/" in word))
    assert seen == ["1/4", "1/4", "2/4", "2/4", "3/4", "3/4"]


def test_a_log_line_in_a_step_counts_that_step_once() -> None:
    view = TrainingView(4, 0, 8)
    for number, _ in enumerate(view.follow(range(4)), start=1):
        view.write(number, TRAIN)
        assert f"{number}/4" in lines_of(view)[0]


def test_a_history_of_any_length_is_the_means_of_equal_pieces() -> None:
    history = History(8)
    for number in range(1, 1025):
        history.add(float(number))
        history.add(math.nan)
        assert len(history.means) <= 8
    pieces = [range(start, start + 128) for start in range(1, 1025, 128)]
    assert history.means == pytest.approx([sum(piece) / 128 for piece in pieces])
    history.add(5000.0)
    assert history.means[:4] == pytest.approx([256 * piece + 128.5 for piece in range(4)])
    assert history.means[4:] == [5000.0]
