import torch

from detengine.distributed import comm


def test_without_a_group_there_is_one_rank_and_it_is_the_main_one() -> None:
    assert (comm.get_world_size(), comm.get_rank(), comm.is_main_process()) == (1, 0, True)


def test_without_a_group_nothing_is_sent_and_the_data_comes_back() -> None:
    data = {"any": object()}
    comm.synchronize()
    assert comm.all_gather(data) == [data]
    assert comm.broadcast(data) is data


def test_without_a_group_reduced_values_are_their_own_and_carry_no_graph() -> None:
    loss = torch.tensor(3.0, requires_grad=True) * 2
    reduced = comm.reduce_dict({"loss": loss})
    assert reduced["loss"].item() == 6.0
    assert not reduced["loss"].requires_grad


def test_each_rank_knows_its_place(two_ranks) -> None:
    assert [r["world_size"] for r in two_ranks] == [2, 2]
    assert [r["is_main_process"] for r in two_ranks] == [True, False]


def test_all_gather_gives_every_rank_all_data_in_the_order_of_the_ranks(two_ranks) -> None:
    everything = [{"rank": 0, "rows": []}, {"rank": 1, "rows": [0]}]
    assert [r["gathered"] for r in two_ranks] == [everything, everything]


def test_all_gather_takes_data_of_different_sizes(two_ranks) -> None:
    assert [r["gathered_sizes"] for r in two_ranks] == [[1, 100_001]] * 2


def test_broadcast_gives_every_rank_the_data_of_the_source(two_ranks) -> None:
    assert [r["broadcast"] for r in two_ranks] == ["from 1", "from 1"]


def test_reduce_dict_averages_on_rank_0_whatever_the_order_of_the_keys(two_ranks) -> None:
    assert two_ranks[0]["mean"] == {"loss_a": 5.0, "loss_b": 1.5}
    assert two_ranks[0]["total"] == {"loss_a": 10.0, "loss_b": 3.0}


def test_reduced_values_carry_no_graph(two_ranks) -> None:
    assert not any(r["mean_carries_a_graph"] for r in two_ranks)


def test_reducing_nothing_gives_nothing(two_ranks) -> None:
    assert [r["empty"] for r in two_ranks] == [{}, {}]
