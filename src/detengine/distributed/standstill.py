"""One sentence about a run that has come to a standstill: which ranks wait for which."""

import json
from collections.abc import Mapping
from typing import NamedTuple, Self

from detengine.distributed.failure import NAMED, name_ranks


class Position(NamedTuple):
    """What a rank does: its phase, such as 'forward', and what is known of it.

    waits: the phase is one in which a rank waits for the others.
    """

    phase: str
    detail: str
    waits: bool = False

    def __str__(self) -> str:
        return f"{self.phase} ({self.detail})" if self.detail else self.phase


class Standing(NamedTuple):
    """A rank's answer to the alarm: since when it has not gone on, and where."""

    idle_seconds: float
    position: Position

    @classmethod
    def from_json(cls, text: str) -> Self:
        """From what `json.dumps` makes of one."""
        idle_seconds, position = json.loads(text)
        return cls(idle_seconds, Position(*position))


def describe_standstill(
    standings: Mapping[int, Standing], world_size: int, timeout_minutes: float
) -> str:
    """The sentence, and the cure. standings: of the ranks that answered, at least one."""
    seconds = min(standing.idle_seconds for standing in standings.values())
    positions = {rank: standing.position for rank, standing in sorted(standings.items())}
    if world_size == 1:
        who = f"the process is in {positions[0]}"
    else:
        silent = [rank for rank in range(world_size) if rank not in positions]
        who = _who_waits_for_whom(positions, silent)
    return (
        f"no progress for {seconds:.0f} s: {who}. The run was ended; each rank's stacks are in its "
        "log. If it was only slow, raise DISTRIBUTED.TIMEOUT (now "
        f"{timeout_minutes:g} minutes; None waits for ever)."
    )


def _who_waits_for_whom(positions: Mapping[int, Position], silent: list[int]) -> str:
    waiting = _by_place({rank: at for rank, at in positions.items() if at.waits})
    busy = _by_place({rank: at for rank, at in positions.items() if not at.waits})
    waits = " and ".join(
        f"{name_ranks(ranks)} {'waits' if len(ranks) == 1 else 'wait'} in {place}"
        for place, ranks in waiting.items()
    )
    causes = [
        f"{name_ranks(ranks)}{',' if waits else ''} {_which(waits)}"
        f"{'is' if len(ranks) == 1 else 'are'} in {place}"
        for place, ranks in busy.items()
    ]
    if len(causes) > NAMED:
        causes[NAMED:] = [f"{len(causes) - NAMED} more that are elsewhere"]
    if silent:
        verb = "does" if len(silent) == 1 else "do"
        causes.append(
            f"{name_ranks(silent)}{',' if waits else ''} {_which(waits)}{verb} not answer"
        )
    if not causes:
        return f"{waits}; no rank is elsewhere" + ("" if len(waiting) == 1 else ", nor alike")
    return f"{waits} for {', and for '.join(causes)}" if waits else " and ".join(causes)


def _which(waits: str) -> str:
    return "which " if waits else ""


def _by_place(positions: Mapping[int, Position]) -> dict[str, list[int]]:
    ranks: dict[str, list[int]] = {}
    for rank, position in positions.items():
        ranks.setdefault(str(position), []).append(rank)
    return ranks
