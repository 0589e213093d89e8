"""The report of a run, or of several beside each other: gathered from their folders, written."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from detengine.config.load import to_yaml
from detengine.disk.writing import write_text
from detengine.evaluation.build import build_scoring_options, iou_types_of
from detengine.evaluation.comparison import compare
from detengine.evaluation.predictions_file import load_class_names, load_predictions
from detengine.evaluation.result import LOSS
from detengine.expectations import best_metric_of
from detengine.report.charts import colour, loss_charts, lr_chart, score_charts, step_chart
from detengine.report.history import Score
from detengine.report.numbers import number, percent
from detengine.report.page import (
    GENERATOR,
    Compared,
    ComparisonPage,
    Paired,
    RunPage,
    Table,
    render_comparison,
    render_run,
)
from detengine.report.study import Study
from detengine.run_report.folder import PlainScores, RunFolder, read_run_folder
from detengine.run_report.record import now
from detengine.run_report.status import moment, status_of
from detengine.run_report.study import load_test_set, study
from detengine.run_report.summary import (
    ABSENT,
    MOST_CARDS,
    MOST_ROWS,
    cards_of,
    changed_values,
    commands_of,
    differing_values,
    digests_of,
    environments_of,
    facts_of,
    phases_of,
    stages_of,
    tables_of,
)
from detengine.scoring import INFERENCE

REPORT = "report.html"


def write_report(
    run_folder: Path, *, output: Path | None = None, studies: Sequence[Study] | None = None
) -> Path:
    """Write a run's page from what lies in its folder, and from its test sets if they are there.

    output: None for `report.html` in the folder. studies: what is known of the predictions already;
    None analyses them. Returns the path. Raises FileNotFoundError if the folder holds no run,
    ValueError or OSError for a configuration that cannot be read, or a page that cannot be written.
    """
    run = read_run_folder(run_folder)
    if studies is None:
        studies = studies_of(run)
    path = run_folder / REPORT if output is None else output
    _write_page(path, render_run(page_of(run, studies)))
    return path


def studies_of(run: RunFolder) -> list[Study]:
    """The analyses of all predictions that lie in the folder."""
    return [
        study(run.cfg, run.path, test_set, working_folder=run.working_folder)
        for test_set in test_sets_of(run)
    ]


def test_sets_of(run: RunFolder) -> list[str]:
    """The configuration's test sets of which there are scores or predictions."""
    return [
        test_set
        for test_set in run.cfg.DATASETS.TEST
        if test_set in run.results or (run.path / INFERENCE / test_set).is_dir()
    ]


def page_of(run: RunFolder, studies: Sequence[Study]) -> RunPage:
    """What the run's page shows."""
    runs = [("", run.history)]
    metric = best_metric_of(run.cfg)
    best = None if metric is None else Score.of(metric.name)
    return RunPage(
        name=run.name,
        status=status_of(run),
        written=moment(now()),
        facts=list(facts_of(run)),
        cards=list(cards_of(run))[:MOST_CARDS],
        losses=loss_charts(runs),
        rates=lr_chart(runs),
        scores=score_charts(runs, best),
        tables=list(
            tables_of(run.results, run.per_class, {each.test_set: each.objects for each in studies})
        ),
        studies=studies,
        why_unstudied=None if studies else _why_unstudied(run),
        phases=phases_of(run),
        stages=stages_of(run),
        steps=step_chart(run.history),
        environments=environments_of(run),
        changed=changed_values(run.cfg),
        configuration=to_yaml(run.cfg),
        commands=list(commands_of(run)),
        digests=digests_of(run),
        messages=run.messages,
        problems=run.problems,
    )


def _why_unstudied(run: RunFolder) -> str:
    if not run.cfg.DATASETS.TEST:
        return "DATASETS.TEST is empty, so that nothing is scored."
    return "There is no evaluation yet, so that there are no predictions to analyse."


def write_comparison(run_folders: Sequence[Path], output: Path, *, samples: int = 1000) -> Path:
    """Write a page of several runs beside each other; of two, with intervals of what differs.

    samples: of the images, that the intervals are from. Raises as `write_report`; ValueError if a
    folder is given twice.
    """
    if len({each.resolve() for each in run_folders}) < len(run_folders):
        raise ValueError(
            f"a run is compared with itself: {', '.join(map(str, run_folders))}. Give each once."
        )
    runs = [read_run_folder(each) for each in run_folders]
    names = _distinct_names(runs)
    histories = [(name, run.history) for name, run in zip(names, runs, strict=True)]
    page = ComparisonPage(
        written=moment(now()),
        runs=[
            Compared(name, str(run.path), status_of(run), colour(n))
            for n, (name, run) in enumerate(zip(names, runs, strict=True))
        ],
        losses=loss_charts(histories),
        rates=lr_chart(histories),
        scores=score_charts(histories),
        tables=_tables_across(runs, names),
        paired=_paired(runs[0], runs[1], samples) if len(runs) == 2 else [],
        why_unpaired=_why_unpaired(runs),
        differences=differing_values([run.cfg for run in runs]),
        environments=_environments_across(runs),
        problems=[
            f"{name}: {problem}"
            for name, run in zip(names, runs, strict=True)
            for problem in run.problems
        ],
    )
    _write_page(output, render_comparison(page))
    return output


def _distinct_names(runs: Sequence[RunFolder]) -> list[str]:
    """The folders' names, or, where two are alike, their paths."""
    names = [run.name for run in runs]
    return [
        name if names.count(name) == 1 else str(run.path)
        for name, run in zip(names, runs, strict=True)
    ]


def _tables_across(runs: Sequence[RunFolder], names: Sequence[str]) -> list[Table]:
    """For each test set and task a row for each run, then, a row for each class, their APs."""
    tables = []
    for test_set, task in _places(run.results for run in runs):
        values = [run.results.get(test_set, {}).get(task, {}) for run in runs]
        metrics = list(dict.fromkeys(name for each in values for name in each))
        in_words = number if task == LOSS else percent
        best = [_best([each.get(name) for each in values], task) for name in metrics]
        rows = [
            (name, [in_words(each[metric]) if metric in each else ABSENT for metric in metrics])
            for name, each in zip(names, values, strict=True)
        ]
        in_bold = [
            frozenset(n for n, chosen in enumerate(best) if row in chosen)
            for row in range(len(rows))
        ]
        tables.append(Table(f"{task} on {test_set}", ["", *metrics], rows, in_bold))
    for test_set, task in _places(run.per_class for run in runs):
        values = [run.per_class.get(test_set, {}).get(task, {}) for run in runs]
        classes = list(dict.fromkeys(name for each in values for name in each))
        if len(classes) > 1:
            rows = [
                (row, [percent(each[row]) if row in each else ABSENT for each in values])
                for row in classes
            ]
            in_bold = [_best([each.get(row) for each in values], task) for row in classes]
            title = f"{task} on {test_set}, AP of each class"
            tables.append(Table(title, ["", *names], rows, in_bold, folded=len(rows) > MOST_ROWS))
    return tables


def _places(parts: Iterable[PlainScores]) -> list[tuple[str, str]]:
    """Each test set and task that one of the runs has."""
    places = ((test_set, task) for part in parts for test_set in part for task in part[test_set])
    return list(dict.fromkeys(places))


def _best(values: Sequence[float | None], task: str) -> frozenset[int]:
    """Which of several values are the best; none where they are all alike, or only one is known."""
    known = [value for value in values if value is not None and value > -1]
    if len(set(known)) < 2:
        return frozenset()
    chosen = min(known) if task == LOSS else max(known)
    return frozenset(n for n, value in enumerate(values) if value == chosen)


def _environments_across(runs: Sequence[RunFolder]) -> list[tuple[str, list[str]]]:
    """What differs in what the last sessions stood on."""
    found = [dict(run.sessions[-1].environment) if run.sessions else {} for run in runs]
    keys = dict.fromkeys(key for each in found for key in each)
    rows = [(key, [each.get(key, "not known") for each in found]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _why_unpaired(runs: Sequence[RunFolder]) -> str | None:
    if len(runs) != 2:
        return f"Intervals are of two runs; {len(runs)} were given."
    if not set(test_sets_of(runs[0])) & set(test_sets_of(runs[1])):
        a, b = (", ".join(test_sets_of(run)) or "none" for run in runs)
        return (
            "The runs have no scored test set in common, so that there are no intervals: the first "
            f"was scored on {a}, the second on {b}."
        )
    return None


def _paired(a: RunFolder, b: RunFolder, samples: int) -> list[Paired]:
    """The comparison of each test set and iou type that both runs were scored on."""
    found = []
    for test_set in test_sets_of(a):
        if test_set not in test_sets_of(b):
            continue
        for iou_type in iou_types_of(a.cfg):
            if iou_type in iou_types_of(b.cfg):
                found.append(_pair(a, b, test_set, iou_type, samples))
    return found


def _pair(a: RunFolder, b: RunFolder, test_set: str, iou_type: str, samples: int) -> Paired:
    title = f"{iou_type} on {test_set}"
    of_a, of_b = (run.path / INFERENCE / test_set for run in (a, b))
    try:
        truth, _ = load_test_set(b.cfg, test_set, b.working_folder)
        comparison = compare(
            truth,
            load_predictions(of_a),
            load_predictions(of_b),
            load_class_names(of_a),
            load_class_names(of_b),
            iou_type=iou_type,
            options=build_scoring_options(b.cfg, test_set),
            samples=samples,
        )
    except (ValueError, OSError) as error:
        return Paired(title, None, f"There are no intervals: {error}")
    return Paired(title, comparison)


def _write_page(path: Path, html: str) -> None:
    """Raises FileExistsError where another file than a page of ours would be lost."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; --output is the file to write")
    if path.is_file():
        with path.open("rb") as file:
            start = file.read(2000)
        if start and f'content="{GENERATOR} '.encode() not in start:
            raise FileExistsError(
                f"{path} is there already and is no report of this program. Name another file by "
                "--output, or remove it."
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, html)
