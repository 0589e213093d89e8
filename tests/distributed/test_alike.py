from detengine.distributed.alike import describe_difference, raise_if_ranks_differ


def test_what_differs_is_told_with_its_values_and_ranks() -> None:
    alike = {"SEED": "1", "SOLVER.BASE_LR": "0.1", "DTYPE": "float32"}
    assert describe_difference([alike, alike | {"SEED": "2"}, alike, alike | {"DTYPE": "bf"}]) == (
        "the ranks were not given the same: SEED is 1 on ranks 0, 2 and 3 and 2 on rank 1; DTYPE "
        "is float32 on ranks 0, 1 and 2 and bf on rank 3. Start all of them with the same command, "
        "configuration, data and versions."
    )


def test_what_only_some_ranks_have_is_a_difference_and_long_values_are_cut() -> None:
    told = describe_difference([{"data": "x" * 1000}, {}])
    assert f"data is {'x' * 80}... on rank 0 and not given on rank 1. Start" in told


def test_of_many_differences_five_are_told() -> None:
    facts = [{f"KEY_{key}": f"{rank}" for key in range(9)} for rank in (0, 1)]
    assert "KEY_4 is 0 on rank 0 and 1 on rank 1; and 4 more. " in describe_difference(facts)


def test_a_process_of_its_own_is_given_what_it_is_given() -> None:
    raise_if_ranks_differ({"SEED": 1})
