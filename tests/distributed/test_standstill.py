import json

import pytest

from detengine.distributed.standstill import Position, Standing, describe_standstill

GATHER = Position("a collective", "all_gather, in StopAgreement.after_step", waits=True)
BARRIER = Position("a collective", "synchronize, in inference", waits=True)
BACKWARD = Position("backward", "iteration 7", waits=True)
DATA = Position("data", "image ids [5, 7]")
FORWARD = Position("forward", "iteration 7")


@pytest.mark.parametrize(
    ("positions", "count", "expected"),
    [
        ({0: FORWARD}, 1, "the process is in forward (iteration 7)"),
        (
            {0: GATHER, 1: DATA, 2: GATHER},
            3,
            "ranks 0 and 2 wait in a collective (all_gather, in StopAgreement.after_step) for "
            "rank 1, which is in data (image ids [5, 7])",
        ),
        (
            {0: BACKWARD, 2: GATHER},
            3,
            "rank 0 waits in backward (iteration 7) and rank 2 waits in a collective (all_gather, "
            "in StopAgreement.after_step) for rank 1, which does not answer",
        ),
        ({0: FORWARD, 1: FORWARD}, 2, "ranks 0 and 1 are in forward (iteration 7)"),
        (
            {0: BARRIER, 1: DATA, 2: FORWARD},
            4,
            "rank 0 waits in a collective (synchronize, in inference) for rank 1, which is in data "
            "(image ids [5, 7]), and for rank 2, which is in forward (iteration 7), and for rank "
            "3, which does not answer",
        ),
        (
            {0: BARRIER, 1: GATHER},
            2,
            "rank 0 waits in a collective (synchronize, in inference) and rank 1 waits in a "
            "collective (all_gather, in StopAgreement.after_step); no rank is elsewhere, nor alike",
        ),
    ],
)
def test_one_sentence_says_who_waits_for_whom(
    positions: dict[int, Position], count: int, expected: str
) -> None:
    standings = {rank: Standing(1800.4, position) for rank, position in positions.items()}
    sentence = describe_standstill(standings, count, 30.0)
    assert sentence.startswith(f"no progress for 1800 s: {expected}. The run was ended")
    assert sentence.endswith("raise DISTRIBUTED.TIMEOUT (now 30 minutes; None waits for ever).")


def test_a_standing_comes_back_from_json() -> None:
    standing = Standing(2.5, GATHER)
    assert Standing.from_json(json.dumps(standing)) == standing


def test_of_a_thousand_ranks_at_a_thousand_places_ten_are_told() -> None:
    standings = {
        rank: Standing(60, Position("forward", f"image ids [{rank}]")) for rank in range(1000)
    }
    sentence = describe_standstill(standings, 1000, 1.0)
    assert "rank 9 is in forward (image ids [9]) and 990 more that are elsewhere." in sentence
    assert len(sentence) < 1000
