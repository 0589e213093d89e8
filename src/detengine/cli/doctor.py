"""detengine doctor: what is wrong with a run before it starts."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import orjson
import typer

from detengine.cli.app import EXIT_ERROR
from detengine.cli.data_source import open_source
from detengine.disk.writing import write_text
from detengine.doctor.anchors import AnchorReport
from detengine.doctor.data_sets import DataReport
from detengine.doctor.diagnosis import Diagnosis, diagnosis_of_error, examine, with_refusal
from detengine.doctor.dry_run_result import DryRun
from detengine.doctor.room import in_mib
from detengine.output_folder import make_output_folder
from detengine.structures.finding import SEVERITIES, Finding, counted
from detengine.untrusted.text import printable

_COLOURS = {"error": typer.colors.RED, "warning": typer.colors.YELLOW, "note": typer.colors.CYAN}
_WIDTH = 100
_MOST_CLASSES = 30


def examine_run(
    config_file: Path | None,
    folder: Path | None,
    overrides: Sequence[str],
    *,
    weights: str | None,
    with_model: bool,
    strict: bool,
    ranks: int,
    output_dir: Path | None,
) -> None:
    """Print the tables and the findings. Exit code 1 if there is an error; strict: or a warning."""
    try:
        source = open_source(config_file, folder, overrides, weights=weights)
    except (ValueError, OSError) as error:
        diagnosis = diagnosis_of_error(error, str(config_file or folder))
    else:
        for line in (*source.summary, *source.warning):
            say(line)
        with_model = with_model and source.refusal is None
        diagnosis = examine(source.cfg, with_model=with_model, ranks=ranks, say=say)
        if source.refusal is not None:
            diagnosis = with_refusal(diagnosis, source.refusal, str(folder))
    typer.echo("\n".join(as_text(diagnosis)))
    if output_dir is not None:
        path = make_output_folder(output_dir) / "doctor.json"
        text = orjson.dumps(diagnosis.to_json(), option=orjson.OPT_INDENT_2).decode()
        write_text(path, f"{text}\n")
        typer.echo(f"\nwrote {path}")
    if not diagnosis.is_healthy(strict=strict):
        raise typer.Exit(EXIT_ERROR)


def say(what: str) -> None:
    """What is being done, on the error stream: it is no result."""
    typer.secho(printable(what), err=True, dim=True)


def as_text(diagnosis: Diagnosis) -> list[str]:
    """The whole report, line by line."""
    parts = []
    if diagnosis.data is not None:
        parts += [_sets(diagnosis.data), _classes(diagnosis.data)]
    if diagnosis.anchors is not None:
        parts.append(_anchors(diagnosis.anchors))
    if diagnosis.dry_run is not None:
        parts.append(_steps(diagnosis.dry_run))
    lines = [line for part in parts if part for line in (*part, "")]
    for each in diagnosis.findings:
        lines += _finding(each)
    return [*lines, *([""] if diagnosis.findings else []), _summary(diagnosis.findings)]


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns under the first row's names; all but the first column to the right."""
    rows = [[printable(cell, keep="") for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _sets(data: DataReport) -> list[str]:
    rows = [["data set", "images", "unusable", "without objects", "objects"]]
    for name, each in data.surveys.items():
        if each.truth is None:
            rows.append([name, "-", "-", "-", "-"])
            continue
        broken = sum(file.problem is not None for file in data.files.get(name, ()))
        empty = int((each.truth.offsets.diff() == 0).sum())
        numbers = (len(each.truth), broken, empty, len(each.truth.annotation_ids))
        rows.append([name, *(f"{number:,}" for number in numbers)])
    return table(rows)


def _classes(data: DataReport) -> list[str]:
    """Objects of each class in each data set; of many classes the rarest."""
    names = [name for name in data.surveys if name in data.class_counts]
    if not names or not data.class_names:
        return []

    def objects(class_name: str, data_set: str) -> int:
        found = data.class_counts[data_set].get(class_name)
        return 0 if found is None else found.objects

    shown = list(data.class_names)
    title = "class (objects)"
    if len(shown) > _MOST_CLASSES:
        shown = sorted(shown, key=lambda each: objects(each, names[0]))[:_MOST_CLASSES]
        title = f"the {_MOST_CLASSES} rarest of {len(data.class_names)} classes (objects)"
    rows = [[title, *names]]
    rows += [[each, *(f"{objects(each, name):,}" for name in names)] for each in shown]
    return table(rows)


def _anchors(report: AnchorReport) -> list[str]:
    fit = report.fit
    low, middle, high = (f"{each:.0f}" for each in fit.sides)
    below = [f"below IoU 0.5: {100 * fit.share_below_half:.1f} % of the boxes"]
    if report.threshold != 0.5:
        below.append(f"below {report.threshold:g}: {100 * fit.share_below:.1f} %")
    return [
        f"{report.key} {list(report.sizes)}; boxes after resizing, in pixels: "
        f"{low} (5 %), {middle} (median), {high} (95 %)",
        f"best anchor {', '.join(below)}",
    ]


def _steps(done: DryRun) -> list[str]:
    of_what = "peak memory" if done.device.startswith("cuda") else "process's peak"
    rows = [[f"on {done.device}", "images", "padded to (h x w)", "objects", "seconds", of_what]]
    for each in done.steps:
        height, width = each.padded
        size, memory = f"{height} x {width}", f"{each.memory_mb:,.0f} MiB"
        objects = "-" if each.objects is None else str(each.objects)
        rows.append([each.what, str(each.images), size, objects, f"{each.seconds:.2f}", memory])
    lines = table(rows)
    if not done.steps:
        return [f"on {done.device} no step could be done"]
    if done.checkpoint_bytes is not None:
        lines.append(f"a checkpoint has {in_mib(done.checkpoint_bytes)}")
    if done.loader_images_per_second is not None:
        speed = f"the loader alone gives {done.loader_images_per_second:.1f} images/s"
        seconds = done.step_seconds()
        if seconds:
            speed += f"; the training takes {done.steps[0].images / seconds:.1f}"
        lines.append(speed)
    return lines


def _finding(finding: Finding) -> list[str]:
    head = typer.style(finding.severity, fg=_COLOURS[finding.severity], bold=True)
    lines = [f"{head}: {printable(finding.where, keep='')}"]
    for text, mark in ((finding.what, "  "), (finding.cure, "  -> ")):
        for number, line in enumerate(printable(text).split("\n") if text else []):
            indent = mark if number == 0 else " " * len(mark)
            lines += textwrap.wrap(
                line,
                _WIDTH,
                initial_indent=indent,
                subsequent_indent=" " * len(indent),
                break_long_words=False,
                break_on_hyphens=False,
                replace_whitespace=False,
                drop_whitespace=True,
            )
    return lines


def _summary(findings: Sequence[Finding]) -> str:
    numbers = [sum(each.severity == severity for each in findings) for severity in SEVERITIES]
    if not any(numbers[:2]):
        return "Nothing is wrong." + (f" {counted(numbers[2], 'note')}." if numbers[2] else "")
    parts = [counted(n, severity) for n, severity in zip(numbers, SEVERITIES, strict=True) if n]
    return f"Found: {', '.join(parts)}."
