"""What stands on a terminal, as a terminal emulator has it after the bytes of a real one."""

import fcntl
import os
import pty
import struct
import termios
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from signal import SIGINT
from typing import NamedTuple

import pyte
import pytest
from rich.console import Console
from rich.text import Text

from detengine.monitor.display import TerminalDisplay
from processes import ForkServer

TERMINAL = {
    "TERM": "xterm-256color",
    "TTY_COMPATIBLE": "1",  # wins over a FORCE_COLOR of who runs the tests
    **dict.fromkeys(("TTY_INTERACTIVE", "NO_COLOR", "COLUMNS", "LINES"), ""),
}
PROGRAM = Path(__file__).with_name("watched_program.py")
HEIGHT = 30


class Session(NamedTuple):
    """moments: the screen each time that something was written; the last one is what remains."""

    moments: list[str]
    sent: bytes
    code: int
    cursor_is_hidden: bool

    @property
    def end(self) -> str:
        return self.moments[-1]


Watch = Callable[..., Session]


def read(terminal: int) -> bytes:
    """What comes next; nothing at the end."""
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux's way to say that nobody has the other side any more
        return b""


@pytest.fixture(scope="module")
def watch(fork_server: ForkServer) -> Watch:
    """(*arguments, width=100, interrupt_at="", program=PROGRAM, **environment) -> what was seen.

    interrupt_at: the text at which Ctrl-C is pressed. program: None for the command line.
    """

    def run(
        *arguments: str,
        width: int = 100,
        interrupt_at: str = "",
        program: Path | None = PROGRAM,
        **environment: str,
    ) -> Session:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, width, 0, 0))
        process = fork_server.start(
            program=str(program or ""),
            arguments=arguments,
            output=os.ttyname(theirs),
            environment=TERMINAL | environment,
        )
        screen = pyte.Screen(width, HEIGHT)
        stream = pyte.ByteStream(screen)
        moments, sent = [], b""
        while written := read(ours):
            if not moments:
                os.close(theirs)  # it is open there by now, and its end is the session's
            sent += written
            stream.feed(written)
            moments.append("\n".join(line.rstrip() for line in screen.display).rstrip())
            if interrupt_at and interrupt_at in moments[-1]:
                interrupt_at = ""
                process.signal(SIGINT)
        os.close(ours)
        return Session(moments, sent, process.wait(), screen.cursor.hidden)

    return run


@pytest.fixture(scope="module")
def training(watch: Watch) -> Session:
    return watch("well", "training")


def test_of_a_training_its_lines_and_its_last_state_remain(training: Session) -> None:
    assert training.code == 0
    assert not training.cursor_is_hidden
    *lines, bar, loss, speed, lr, score, after = training.end.splitlines()
    assert [line.split(" ", 1)[-1].strip() for line in lines if "program.py" not in line] == [
        "before", "beware", 'warnings.warn("of old things", stacklevel=1)', "printed",
    ]  # fmt: skip
    assert "40/40 in 0:0" in bar
    assert loss.startswith("loss     0.5000")
    assert speed.startswith("speed    200.0 images/s")
    assert lr.split() == ["lr", "0.100000", "memory", "100", "MB"]
    assert score == "score    shapes_val  bbox AP 25.0 (best)  iteration 20"
    assert after.endswith("after")


def test_what_comes_between_stands_above_the_view_which_stays_the_last_thing(
    training: Session,
) -> None:
    for text in ("beware", "of old things", "printed"):
        moment = next(each for each in training.moments if text in each)
        assert moment.index(text) < moment.index("training")
    assert "warnings.warn" in training.end
    assert b"a plain line" not in training.sent


def test_a_scoring_within_the_training_has_its_bar_below_and_leaves_nothing(
    training: Session,
) -> None:
    during = [each for each in training.moments if "scoring shapes_val" in each]
    assert during
    for moment in during:
        assert moment.index("training") < moment.index("scoring shapes_val")
        assert "20/40" in moment
    assert "scoring" not in training.end


def test_an_error_stands_below_what_was_reached_on_a_narrow_terminal_too(watch: Watch) -> None:
    session = watch("error", "training", width=60)
    assert session.code == 1
    assert not session.cursor_is_hidden
    lines = session.end.splitlines()
    assert [line for line in lines if " 30/40 in 0:0" in line]
    assert "score    shapes_val  bbox AP 25.0 (best)  iteration 20" in lines
    assert lines[-1] == "error: broken"


def test_an_error_takes_the_bar_of_a_scoring_away(watch: Watch) -> None:
    session = watch("error", "scoring")
    assert any("scoring" in moment for moment in session.moments)
    assert "scoring" not in session.end
    assert session.end.endswith("error: broken")
    assert not session.cursor_is_hidden


def test_ctrl_c_leaves_the_terminal_whole(watch: Watch) -> None:
    session = watch("never", "scoring", interrupt_at="29/40")
    assert session.code == 1
    assert not session.cursor_is_hidden
    assert "KeyboardInterrupt" in session.end
    assert "scoring" not in session.end.split("KeyboardInterrupt")[1]


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(watch: Watch) -> None:
    session = watch("well", "scoring", TERM="dumb")
    assert "detengine.program INFO: a plain line, iter: 40" in session.end
    assert b"\x1b" not in session.sent
    assert "40/40" not in session.end


class Gone(StringIO):
    """A terminal that has been closed."""

    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")


def test_a_terminal_that_is_gone_ends_the_view_and_not_the_work(
    caplog: pytest.LogCaptureFixture,
) -> None:
    console = Console(file=Gone(), force_terminal=True, width=80)
    display = TerminalDisplay(console)
    with display.showing(lambda: Text("one")), display.showing(lambda: Text("two")):
        display.step()
    (warning,) = caplog.records
    assert "nothing is shown from here on: OSError" in warning.getMessage()


def test_what_is_shown_is_drawn_at_its_begin_and_at_its_end() -> None:
    texts = iter(("begun", "ended"))
    file = StringIO()
    display = TerminalDisplay(Console(file=file, force_terminal=True, width=80))
    current = [next(texts)]
    with display.showing(lambda: Text(current[0]), keep=True):
        assert file.getvalue().endswith("begun")
        current[0] = next(texts)
    assert file.getvalue().rstrip().endswith("ended\n\x1b[?25h")


def test_it_can_be_shown_again_afterwards() -> None:
    display = TerminalDisplay(Console(file=StringIO(), force_terminal=True, width=80))
    for _ in range(2):
        with pytest.raises(KeyError), display.showing(lambda: Text("one")):
            raise KeyError
    display.end()


@pytest.mark.parametrize("width", [60, 100, 160])
def test_a_whole_training_is_shown_and_leaves_its_record(
    watch: Watch, tiny_config: Path, tmp_path: Path, width: int
) -> None:
    settings = ["SOLVER.TEST_PERIOD", "2", "SOLVER.LOG_PERIOD", "1", "TEST.PICTURES", "0"]
    arguments = ["train", "-c", str(tiny_config), "OUTPUT_DIR", str(tmp_path / "run"), *settings]
    session = watch(*arguments, program=None, width=width)
    assert session.code == 0
    assert not session.cursor_is_hidden
    assert any("scoring shapes_val" in moment for moment in session.moments)
    *lines, last = session.end.splitlines()
    assert "iteration 4" in last
    assert any("4/4 in" in line for line in lines)
    assert " iter: 4 " not in session.end
    assert " iter: 4 " in (tmp_path / "run/log.txt").read_text()
