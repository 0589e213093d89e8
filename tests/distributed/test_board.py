import threading
import time
from datetime import timedelta
from typing import Any

import pytest
import torch.distributed as dist

from detengine.distributed import board as module
from detengine.distributed.board import NoticeBoard, open_board


@pytest.fixture
def boards(monkeypatch: pytest.MonkeyPatch) -> list[NoticeBoard]:
    """Of two ranks, each with a connection of its own to one store."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    made = [open_board("test", rank, 2) for rank in range(2)]
    monkeypatch.setattr(made[0], "keeps", store, raising=False)
    return [board for board in made if board is not None]


def test_what_a_rank_posts_all_ranks_read_in_the_order_of_posting(boards) -> None:
    boards[1].post("failed", "line one\nline two")
    boards[0].post("failed", "ö")
    expected = {1: "line one\nline two", 0: "ö"}
    assert [list(board.read("failed").items()) for board in boards] == [list(expected.items())] * 2
    assert boards[0].rings() == boards[1].rings() == 2


def test_nothing_is_read_where_nothing_was_posted(boards) -> None:
    assert boards[0].read("failed") == {}
    assert boards[0].rings() == 0


def test_waiting_ends_with_the_last_rank_or_with_the_time(boards) -> None:
    boards[0].post("left", "")
    start = time.monotonic()
    assert boards[0].wait("left", 2, 0.2) == {0: ""}
    assert time.monotonic() - start < 2
    boards[1].post("left", "")
    assert set(boards[0].wait("left", 2, 20)) == {0, 1}


def test_an_earlier_attempts_notices_are_not_read(boards, monkeypatch: Any) -> None:
    boards[0].post("failed", "the first time")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    restarted = open_board("test", 0, 2)
    assert restarted is not None
    assert restarted.read("failed") == {}


def test_who_has_posted_its_last_notice_asks_nothing_more(boards) -> None:
    boards[1].post_last("left")
    assert boards[1].is_gone
    assert boards[0].wait("left", 1, 20) == {1: ""}
    assert boards[0].rings() == 0
    boards[1].post("failed", "unheard")
    assert boards[0].read("failed") == boards[1].read("left") == {}


def test_the_last_notice_goes_when_no_request_is_on_its_way() -> None:
    """The watchdog's thread may be asking meanwhile, and would find the store gone."""
    store = Slow()
    board = NoticeBoard(store, 1, 2)
    listening = threading.Thread(target=board.rings)
    listening.start()
    assert store.is_asked.wait(20)
    leaving = threading.Thread(target=board.post_last, args=["left"])
    leaving.start()
    leaving.join(0.1)
    assert store.log == []
    store.may_answer.set()
    leaving.join(20)
    listening.join(20)
    assert store.log == ["add", "append"]


class Slow:
    """A store that answers when it may, and notes the order of its answers."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.is_asked, self.may_answer = threading.Event(), threading.Event()

    def add(self, key: str, amount: int) -> int:
        self.is_asked.set()
        self.may_answer.wait(20)
        self.log.append("add")
        return amount

    def append(self, key: str, value: str) -> None:
        self.log.append("append")


class Silent:
    """A store on a machine that is off: no request returns."""

    def add(self, key: str, amount: int) -> int:
        time.sleep(3)
        return 0


class Gone(Silent):
    def add(self, key: str, amount: int) -> int:
        raise dist.DistNetworkError("Broken pipe")


@pytest.mark.parametrize("store", [Silent(), Gone()])
def test_a_store_that_does_not_answer_is_gone_and_is_not_asked_again(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.2)
    board = NoticeBoard(store, 0, 2)
    assert board.rings() == 0
    assert board.is_gone
    start = time.monotonic()
    board.post("failed", "unheard")
    assert board.wait("failed", 2, 20) == {}
    assert time.monotonic() - start < 1


def test_there_is_no_board_without_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_PORT", raising=False)
    assert open_board("test", 0, 2) is None
    assert timedelta(seconds=module.ANSWER_SECONDS) < timedelta(minutes=1)
