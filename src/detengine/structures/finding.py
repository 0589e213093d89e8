"""What a look at data or at a run has found: how bad it is, where, what, and what to do."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""The worst first. An error ends a training, or makes it worthless; a warning costs accuracy or
time; a note is good to know."""
LISTED = 10
"""How many culprits a finding names."""

_PARTICULARS = re.compile(r"'[^']*'|\[[^\]]*\]|-?\d[\d.,]*")
"""What two messages of the same kind differ in."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found. where: the file, the data set or the key; cure: "" for none."""

    severity: Severity
    where: str
    what: str
    cure: str = ""

    def to_json(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True)
class Problem:
    """One culprit. place: what to call it in a list; message: as an error says it."""

    place: str
    message: str


def finding_of_error(error: Exception | str, where: str, severity: Severity = "error") -> Finding:
    """What a refusal says. The last sentence of a message of ours is its cure."""
    message = str(error).strip()
    what, cure = split_cure(message)
    return Finding(severity, where, what, cure)


def split_cure(message: str) -> tuple[str, str]:
    """The message without its last sentence, and that; "" where there is but one sentence.

    Of several lines, such as a table's, the last one is the cure, if it begins a sentence.
    """
    above, _, last = message.rpartition("\n")
    if above:
        return (above, last) if last[:1].isupper() else (message, "")
    parts = re.split(r"(?<=[.?!]) (?=[A-Z])", message)
    return (" ".join(parts[:-1]), parts[-1]) if len(parts) > 1 else (message, "")


def gathered(
    problems: Sequence[Problem], where: str, severity: Severity = "error"
) -> list[Finding]:
    """One finding for each kind of message, with the first of it and the places of all."""
    kinds: dict[str, list[Problem]] = {}
    for problem in problems:
        kinds.setdefault(_PARTICULARS.sub("#", problem.message), []).append(problem)
    found = []
    for alike in kinds.values():
        what, cure = split_cure(alike[0].message)
        if len(alike) > 1:
            what += "." * (what[-1:] not in ".?!")
            what += f" {len(alike)} are like this: {listed([each.place for each in alike])}."
        found.append(Finding(severity, where, what, cure))
    return found


def listed(names: Sequence[str], most: int = LISTED) -> str:
    """The first of them with commas between; says how many more there are."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest:,} more" if rest > 0 else "")


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """`1 image`, `1,200 images`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def worst_first(findings: Sequence[Finding]) -> list[Finding]:
    """Errors, then warnings, then notes, each in the order in which they were found."""
    return sorted(findings, key=lambda each: SEVERITIES.index(each.severity))
