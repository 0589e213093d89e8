"""What all ranks must have been given alike; they would run all the same, and score anything."""

import hashlib
import json
from collections.abc import Mapping

from detengine.distributed.comm import all_gather, is_distributed
from detengine.distributed.failure import name_ranks

_FEW = 5
_MOST_CHARACTERS = 80
_ABSENT = "not given"


def raise_if_ranks_differ(facts: Mapping[str, object]) -> None:
    """Raise ValueError on all ranks, with what differs, unless all have the same facts.

    Called by all ranks. facts: by the name that a message gives them; compared as they are printed.
    """
    if not is_distributed():
        return
    own = {name: str(value) for name, value in facts.items()}
    digest = hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()
    if len(set(all_gather(digest))) > 1:
        raise ValueError(describe_difference(all_gather(own)))


def describe_difference(of_ranks: list[dict[str, str]]) -> str:
    """One paragraph: which facts differ, on which ranks, and the cure."""
    names = list(dict.fromkeys(name for facts in of_ranks for name in facts))
    told = []
    for name in names:
        ranks_of: dict[str, list[int]] = {}
        for rank, facts in enumerate(of_ranks):
            ranks_of.setdefault(facts.get(name, _ABSENT), []).append(rank)
        if len(ranks_of) > 1:
            values = [f"{_cut(value)} on {name_ranks(ranks)}" for value, ranks in ranks_of.items()]
            told.append(f"{name} is {' and '.join(values)}")
    more = [f"and {len(told) - _FEW} more"] if len(told) > _FEW else []
    return (
        f"the ranks were not given the same: {'; '.join([*told[:_FEW], *more])}. Start all of them "
        "with the same command, configuration, data and versions."
    )


def _cut(value: str) -> str:
    return value if len(value) <= _MOST_CHARACTERS else f"{value[:_MOST_CHARACTERS]}..."
