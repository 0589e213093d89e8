"""The program: its commands, and what becomes of an error. Nothing here imports torch."""

import errno
import os
import sys
from contextlib import suppress
from typing import NoReturn

import typer

from detengine.cli.app import EXIT_ERROR, app
from detengine.cli.data_commands import data
from detengine.cli.export_command import exporting
from detengine.cli.report_command import reporting
from detengine.cli.scoring_commands import scoring
from detengine.cli.training_commands import files, training, trying
from detengine.cli.using_commands import using
from detengine.distributed.out_of_memory import is_out_of_memory
from detengine.distributed.report import (
    PeerFailedError,
    is_said_by_another,
    launched_rank,
    message_of,
    tell_launcher,
    with_rank,
)
from detengine.untrusted.text import printable

# In the order in which one meets them; the help lists them so.
for commands in (data, training, scoring, reporting, using, exporting, files, trying):
    app.add_typer(commands)

DEBUG = "--debug"

FULL_DISK_CURE = (
    ". What was being written is not complete. Make room, or write to another disk (--output-dir, "
    "--output, OUTPUT_DIR)."
)


def main() -> None:
    """Run a command. A mistake of the user's is one paragraph; --debug shows where it was found."""
    # OpenMP's threads wait in a busy loop, so that anything else on their cores holds a step up
    # for seconds. A step of the demo on two cores, beside one busy process: 2.6 s by default,
    # 0.6 s with this; alone 0.23 s and 0.25 s.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    if launched_rank() is not None:
        # torch warns with its C++ stack, in every rank, of a lost rank that we name in one line.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        run([each for each in sys.argv[1:] if each != DEBUG])  # wherever it stands
    except PeerFailedError as error:
        refuse(error, str(error))
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        refuse(error, message_of(error) + full_disk_cure(error))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            end_if_said(error)
            raise
        refuse(error, message_of(error))
    except Exception as error:
        end_if_said(error)
        raise


def run(arguments: list[str]) -> None:
    """The command of these arguments; where the memory is not enough for it, with what that was."""
    try:
        app(arguments)
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException:  # also the panic of a part in Rust
        if "torch" not in sys.modules:
            raise
        from detengine.engine.out_of_memory import telling_what_memory_was_for

        with telling_what_memory_was_for():
            raise


def full_disk_cure(error: Exception) -> str:
    """What is to be said behind a full disk's bare message, which names no place."""
    is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return FULL_DISK_CURE if is_full and "free" not in str(error) else ""


def refuse(error: Exception, message: str) -> NoReturn:
    """End with the message. Called while the error is handled, which --debug lets through.

    Of several ranks with the same message one says it; a rank but the first says its number.
    """
    if DEBUG in sys.argv[1:]:
        raise error
    if not is_said_by_another(error, message):
        with suppress(OSError):  # nobody may be there to read it
            typer.secho(printable(with_rank(error, message)), err=True, fg=typer.colors.RED)
    tell_launcher(message)
    sys.exit(EXIT_ERROR)


def end_if_said(error: Exception) -> None:
    """End quietly where another rank shows the traceback; else this one has its rank behind it."""
    rank, message = launched_rank(), f"{type(error).__name__}: {error}"
    tell_launcher(message)
    if rank is not None:
        if is_said_by_another(error, message):
            sys.exit(EXIT_ERROR)
        error.add_note(f"on rank {rank}")
