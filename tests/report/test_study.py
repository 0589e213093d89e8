"""An analysis as a page shows it."""

from detengine.evaluation.analysis_result import Analysis, Confusion, ErrorBreakdown, ErrorKind
from detengine.evaluation.result import EvaluationResult
from detengine.report.study import view_of

KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")


def analysis(classes: int, confused: dict[tuple[int, int], int], costs: list[float]) -> Analysis:
    """With found objects on the diagonal, and the costs of the kinds of errors."""
    counts = [[0] * (classes + 1) for _ in range(classes + 1)]
    for k in range(classes):
        counts[k][k] = 10
    for (truth, found), number in confused.items():
        counts[truth][found] = number
    kinds = {kind: ErrorKind(1, cost) for kind, cost in zip(KINDS, costs, strict=True)}
    return Analysis(
        iou_type="bbox",
        iou_threshold=0.5,
        score_threshold=0.5,
        scores=EvaluationResult({}, {}, 1),
        errors=ErrorBreakdown(0.5, 0.1, kinds, 0.2, 0.1, ()),
        confusion=Confusion(tuple(f"class {k}" for k in range(classes)), tuple(map(tuple, counts))),
        curves=(),
        worst_images=(),
        calibration=None,
    )


def test_of_few_classes_the_whole_matrix_is_shown() -> None:
    view = view_of(analysis(3, {(0, 1): 5, (2, 3): 4, (3, 0): 7}, [0.0] * 6))
    assert [row.name for row in view.confusion] == ["class 0", "class 1", "class 2", "background"]
    assert view.hidden_classes == 0
    assert view.confusion[0].cells[1] == (5, 5 / 15)
    assert view.confusion[3].cells[0] == (7, 1.0)
    assert [tuple(pair) for pair in view.pairs] == [("class 0", "class 1", 5)]


def test_of_many_classes_those_confused_most_are_shown() -> None:
    view = view_of(analysis(100, {(90, 91): 8, (5, 6): 3}, [0.0] * 6))
    names = [row.name for row in view.confusion]
    assert len(names) == 21
    assert {"class 5", "class 6", "class 90", "class 91"} <= set(names)
    assert view.hidden_classes == 80
    assert all(len(row.cells) == 21 for row in view.confusion)


def test_bars_of_errors_are_parts_of_the_largest_cost() -> None:
    view = view_of(analysis(2, {}, [0.1, 0.4, 0.0, -0.01, 0.05, 0.2]))
    shares = {row.name: row.share for row in view.errors}
    assert shares["localisation"] == 1.0
    assert shares["classification"] == 0.25
    assert shares["duplicate"] == 0.0  # a cost may be negative, a bar not
    assert view.errors[-1].number is None
