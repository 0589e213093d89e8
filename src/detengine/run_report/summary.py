"""A run in words and tables: what it is, what it scored, how to do it again."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from detengine.config.conventions import defaults
from detengine.config.load import flattened
from detengine.config.schema import Config
from detengine.evaluation.build import gives_proposals
from detengine.evaluation.result import LOSS
from detengine.output_folder import CONFIG
from detengine.report.charts import main_metrics, scored, window_of
from detengine.report.history import Score
from detengine.report.numbers import count, duration, number, percent
from detengine.report.page import Card, Phase, Step, Table
from detengine.run_report.folder import PlainScores, RunFolder
from detengine.run_report.status import moment

MOST_CARDS, MOST_ROWS, _MOST_CHECKPOINTS = 8, 40, 12
"""What a page shows at once; longer tables are folded."""
_STYLES = {
    "start-up": "c2",
    "training steps": "c0",
    "waiting for data": "c4",
    "evaluation": "c3",
    "saving checkpoints": "c6",
    "this report": "c1",
}
_NOTHING = object()
ABSENT = "-"
"""A value that a run does not have."""


def facts_of(run: RunFolder) -> Iterator[str]:
    """What is trained, on what, and how, in a few words each."""
    cfg, solver = run.cfg, run.cfg.SOLVER
    yield kind_of_detector(cfg)
    if cfg.MODEL.BUILDER is None:
        yield cfg.MODEL.BACKBONE.CONV_BODY
    trained = ", ".join(cfg.DATASETS.TRAIN)
    tested = ", ".join(cfg.DATASETS.TEST)
    yield " → ".join(filter(None, (trained, tested)))
    yield f"{solver.IMS_PER_BATCH} images an iteration"
    yield f"{solver.OPTIMIZER}, {solver.SCHEDULE}, learning rate {solver.BASE_LR:g}"
    yield f"seed {cfg.SEED}"
    yield cfg.DTYPE


def kind_of_detector(cfg: Config) -> str:
    """The family's name, as its paper has it; a BUILDER's as it is written."""
    model = cfg.MODEL
    if model.BUILDER is not None:
        return model.BUILDER
    if model.RETINANET_ON:
        return "RetinaNet"
    if gives_proposals(cfg):
        return "RPN"
    heads = [
        name for name, is_on in (("Mask", model.MASK_ON), ("Keypoint", model.KEYPOINT_ON)) if is_on
    ]
    return f"{' and '.join(heads) or 'Faster'} R-CNN"


def cards_of(run: RunFolder) -> Iterator[Card]:
    """The main score of each test set and task, the loss and the time."""
    for test_set, tasks in run.results.items():
        for task, metrics in tasks.items():
            if task != LOSS and metrics:
                yield _score_card(run, test_set, task, metrics)
    losses = run.history.losses()
    if "loss" in losses:
        series = losses["loss"]
        first, now = float(series.values[0]), series.last_mean(window_of(series))
        yield Card("total loss", number(now), f"at the start {number(first)}")
    training = [each for each in run.sessions if each.kind == "train"]
    if training:
        step = run.history.series.get("train/time")
        remark = f"{number(step.mean)} s a step" if step is not None else ""
        sessions = f"in {len(training)} sessions" if len(training) > 1 else ""
        total = sum(each.total_seconds for each in training)
        yield Card("time", duration(total), ", ".join(filter(None, (remark, sessions))))


def _score_card(run: RunFolder, test_set: str, task: str, metrics: Mapping[str, float]) -> Card:
    main, *others = main_metrics(metrics)
    remark = ", ".join(f"{name} {percent(metrics[name])}" for name in others)
    series = run.history.scores().get(Score(test_set, task, main))
    if series is not None and len(series.values) > 1:
        values = scored(series).values
        best = max(range(len(values)), key=lambda n: (values[n] == values[n], values[n]))
        if values[best] > metrics[main]:
            better = f"best {percent(values[best])} at {count(series.iterations[best])}"
            remark = ", ".join(filter(None, (remark, better)))
    return Card(f"{task} {main} on {test_set}", percent(metrics[main]), remark)


def tables_of(
    results: PlainScores, per_class: PlainScores, objects: Mapping[str, Mapping[str, int]]
) -> Iterator[Table]:
    """Of each test set a table of its tasks, its losses, and each class's AP.

    objects: by test set, how many of each class there are to be found, where that is known.
    """
    for test_set, tasks in results.items():
        scores = {task: metrics for task, metrics in tasks.items() if task != LOSS}
        title = test_set
        for names in dict.fromkeys(tuple(metrics) for metrics in scores.values()):
            rows = [
                (task, [percent(value) for value in metrics.values()])
                for task, metrics in scores.items()
                if tuple(metrics) == names
            ]
            yield Table(title, ["", *names], rows)
            title = ""
        if losses := tasks.get(LOSS):
            yield Table(title, ["", *losses], [(LOSS, list(map(number, losses.values())))])
        yield from _class_table(test_set, per_class.get(test_set, {}), objects.get(test_set, {}))


def _class_table(
    test_set: str, per_class: Mapping[str, Mapping[str, float]], objects: Mapping[str, int]
) -> Iterator[Table]:
    tasks = {task: values for task, values in per_class.items() if values}
    names = list(dict.fromkeys(name for values in tasks.values() for name in values))
    if len(names) < 2:
        return
    rows = []
    for name in names:
        cells = [f"{objects[name]:,}" if name in objects else ABSENT] if objects else []
        cells += [percent(values[name]) if name in values else ABSENT for values in tasks.values()]
        rows.append((name, cells))
    head = ["class", *(["objects"] if objects else []), *(f"{task} AP" for task in tasks)]
    is_long = len(rows) > MOST_ROWS
    title = (
        f"{test_set}, AP of each of {len(rows)} classes"
        if is_long
        else f"{test_set}, AP of each class"
    )
    yield Table(title, head, rows, folded=is_long)


def phases_of(run: RunFolder) -> list[Phase]:
    """Where the time of all sessions went; the steps' from the mean of those that were logged."""
    sessions = [each for each in run.sessions if each.kind == "train"] or list(run.sessions)
    total = sum(each.total_seconds for each in sessions)
    if not total:
        return []
    iterations = sum(max(0, each.iteration - each.start_iteration) for each in sessions)
    series = run.history.series
    step, data = (
        series[name].mean * iterations if name in series and iterations else 0.0
        for name in ("train/time", "train/data")
    )
    parts = {
        "start-up": sum(sum(each.stages.values()) for each in sessions),
        "training steps": step - data,
        "waiting for data": data,
        **{
            name: sum(each.seconds.get(key, 0.0) for each in sessions)
            for name, key in (
                ("evaluation", "evaluation"),
                ("saving checkpoints", "checkpoint"),
                ("this report", "report"),
            )
        },
    }
    parts["everything else"] = max(0.0, total - sum(parts.values()))
    whole = sum(parts.values())
    return [
        Phase(name, seconds, seconds / whole, _STYLES.get(name, "c7"))
        for name, seconds in parts.items()
        if seconds > 0
    ]


def stages_of(run: RunFolder) -> list[Phase]:
    """The stages of the last session's start."""
    stages = run.sessions[-1].stages if run.sessions else {}
    return [Phase(name, seconds, 0.0, "") for name, seconds in stages.items()]


def environments_of(run: RunFolder) -> list[tuple[str, dict[str, str]]]:
    """What each session stood on, the newest first."""
    found = []
    for session in reversed(run.sessions):
        from_to = f"iterations {session.start_iteration:,} to {session.iteration:,}"
        what = from_to if session.kind == "train" else "scoring"
        title = f"{moment(session.start)}: {what}, {session.state}"
        places = {"host": session.host, "working folder": session.working_folder}
        found.append((title, {"command": session.command, **session.environment, **places}))
    return found


def changed_values(cfg: Config) -> list[tuple[str, str, str]]:
    """Key, value and default of each value that differs from the defaults of its CONVENTIONS."""
    usual = flattened(defaults(cfg.CONVENTIONS))
    return [
        (key, shown(value), shown(usual.get(key, _NOTHING)))
        for key, value in flattened(cfg.model_dump()).items()
        # an optional key of a data set's definition, which has no default here, may be None
        if usual.get(key, _NOTHING) != value and not (value is None and key not in usual)
    ]


def differing_values(cfgs: Sequence[Config]) -> list[tuple[str, list[str]]]:
    """Each key whose values differ between configurations, with all of them."""
    flat = [flattened(cfg.model_dump()) for cfg in cfgs]
    rows = []
    for key in dict.fromkeys(key for each in flat for key in each):
        values = [each.get(key, _NOTHING) for each in flat]
        if any(value != values[0] for value in values):
            rows.append((key, [shown(value) for value in values]))
    return rows


def shown(value: Any) -> str:
    """A configuration's value as a YAML file may have it."""
    if value is _NOTHING:
        return ABSENT
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(shown, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value) or '""'


def commands_of(run: RunFolder) -> Iterator[Step]:
    """What to type to train, go on, score and explain as this run did, from its working folder."""
    folder, cfg = shlex.quote(str(run.path)), run.cfg
    config = f"{folder}/{CONFIG}"
    ranks = run.sessions[-1].environment.get("ranks", "1") if run.sessions else "1"
    start = "detengine"
    if ranks != "1":
        start = f"torchrun --standalone --nproc-per-node {ranks} -m detengine"
    if run.sessions:
        what = "What was typed" if ranks == "1" else f"What each of the {ranks} ranks was given"
        yield Step(f"{what}, in {run.sessions[-1].working_folder}", run.sessions[-1].command)
    if (run.path / CONFIG).is_file():
        again = shlex.quote(f"{run.path}-again")
        yield Step(
            f"Train the same again, with the same seed ({cfg.SEED}) and the same data",
            f"{start} train -c {config} --output-dir {again}",
        )
        yield Step("Go on, if it was stopped", f"{start} train -c {config} --resume")
        weights = next(
            (name for name in ("model_best.pth", "model_final.pth") if (run.path / name).is_file()),
            "model_final.pth",
        )
        scored_folder = shlex.quote(f"{run.path}-scored")
        yield Step(
            "Score its weights",
            f"{start} eval -c {config} --weights {folder}/{weights} --output-dir {scored_folder}",
        )
        for test_set in cfg.DATASETS.TEST:
            stored = shlex.quote(f"{run.path}/inference/{test_set}")
            yield Step("Explain its scores", f"detengine analyze {stored} -c {config}")
    yield Step("Make this page anew", f"detengine report {folder}")


def digests_of(run: RunFolder) -> list[tuple[str, str, str]]:
    """Name, size and sha256 of the weights that it began with, and of those it has saved."""
    rows = []
    beginning = run.sessions[0] if run.sessions else None
    if beginning is not None and beginning.weights:
        rows.append(
            (f"at the start: {beginning.weights}", "", beginning.weights_sha256 or "not known")
        )
    kept = run.checkpoints[-_MOST_CHECKPOINTS:]
    rows += [(each.name, f"{each.size / 1e6:.1f} MB", each.sha256 or "not known") for each in kept]
    return rows
