import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detengine.modeling.detections import keep_best

SCORES = torch.tensor([0.1, 0.9, 0.5, 0.5, 0.5, 0.7])


def test_the_best_come_first_and_of_equals_the_earlier() -> None:
    assert keep_best(SCORES, 3, keep_ties=False).tolist() == [1, 5, 2]


def test_whatever_scores_like_the_last_one_is_kept_where_ties_are() -> None:
    assert keep_best(SCORES, 3, keep_ties=True).tolist() == [1, 5, 2, 3, 4]
    assert keep_best(SCORES, 2, keep_ties=True).tolist() == [1, 5]


@pytest.mark.parametrize("keep_ties", [False, True])
@pytest.mark.parametrize("limit", [-1, 0, 6, 100])
def test_a_limit_of_zero_or_beyond_the_count_keeps_all(limit: int, keep_ties: bool) -> None:
    assert keep_best(SCORES, limit, keep_ties).tolist() == [1, 5, 2, 3, 4, 0]


@pytest.mark.parametrize("keep_ties", [False, True])
def test_of_none_none_are_kept(keep_ties: bool) -> None:
    assert keep_best(torch.empty(0), 10, keep_ties).shape == (0,)


@given(st.lists(st.sampled_from([0.25, 0.5, 0.75]), min_size=1, max_size=20), st.integers(1, 20))
def test_ties_are_cut_as_by_the_kth_value(scores: list[float], limit: int) -> None:
    values = torch.tensor(scores)
    kept = keep_best(values, limit, keep_ties=True)
    threshold = values.kthvalue(max(len(values) - limit + 1, 1)).values
    assert sorted(kept.tolist()) == torch.where(values >= threshold)[0].tolist()
    assert values[kept].tolist() == sorted(values[kept].tolist(), reverse=True)
