from collections.abc import Iterator

import pytest

from detengine.monitor.logs import console
from detengine.monitor.progress import track


class Loader:
    dataset = "a data set"

    def __init__(self, length: int = 3) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.length))


@pytest.fixture
def _on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    console.cache_clear()
    yield
    console.cache_clear()


@pytest.fixture
def _without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    console.cache_clear()
    yield
    console.cache_clear()


@pytest.mark.usefixtures("_without_a_terminal")
def test_without_a_terminal_the_loop_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    loader = Loader()
    assert track(loader, "training") is loader
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("_on_a_terminal")
def test_on_a_terminal_the_items_come_with_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(Loader(), "training")) == [0, 1, 2]
    shown = capsys.readouterr().out
    assert "training" in shown
    assert "3/3" in shown


@pytest.mark.usefixtures("_on_a_terminal")
def test_a_resumed_loop_begins_where_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in track(Loader(2), "training", total=10, completed=8):
        pass
    shown = capsys.readouterr().out
    assert "8/10" in shown or "9/10" in shown
    assert "10/10" in shown


@pytest.mark.usefixtures("_on_a_terminal")
def test_a_tracked_loader_stands_for_the_loader() -> None:
    tracked = track(Loader(), "training", total=100)
    assert len(tracked) == 3
    assert tracked.dataset == "a data set"
    assert list(tracked) == list(tracked) == [0, 1, 2]
    with pytest.raises(AttributeError, match="nothing"):
        _ = tracked.nothing


@pytest.mark.usefixtures("_on_a_terminal")
def test_a_loop_without_a_length_is_counted_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(map(str, range(4)), "images")) == ["0", "1", "2", "3"]
    assert list(track((number for number in range(4)), "images")) == [0, 1, 2, 3]
    assert "4/?" in capsys.readouterr().out


@pytest.mark.usefixtures("_on_a_terminal")
def test_an_evaluation_within_the_training_has_its_own_bar(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for _ in track(Loader(2), "training"):
        assert list(track(Loader(5), "scoring")) == [0, 1, 2, 3, 4]
    shown = capsys.readouterr().out
    assert "training" in shown
    assert "scoring" in shown


@pytest.mark.usefixtures("_on_a_terminal")
def test_a_bar_ends_with_its_loop_also_after_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    def failing() -> None:
        for _ in track(Loader(), "training"):
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    capsys.readouterr()
    console().print("after")
    assert capsys.readouterr().out == "after\n"
