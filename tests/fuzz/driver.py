"""What all programs of fuzzing share: what a reader promises, and how atheris is made to try it.

    python tests/fuzz/fuzz_coco.py -max_total_time=600

Each program names a reader's seeds, its mutations and its promise as a `Target`. What breaks the
promise is written into `fuzzing/<reader>/found` in the current folder, one file for each place in
the code where it comes from, and the search goes on; a hang and a dead process end it, as libFuzzer
reports them. `corpus` beside it has the files with new coverage, with which the next search begins.
All arguments are libFuzzer's.
"""

import logging
import os
import resource
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import TypeVar

CASES = Path(__file__).parent / "cases"
"""Files that once broke a promise, by reader: they are replayed by tests/faults/test_fuzz.py."""
FOLDERS = ("found", "corpus", "working")
SOURCE = "/src/detengine/"
LONGEST_INPUT = 8192
LONGEST_LINE = 2500
"""Characters of a message's line; the longest that is meant has ten names and five paths."""
MOST_LINES = 30
"""Of a message; a configuration's mistakes have a line each."""
SECONDS = 5
"""Of a processor, that one input may take, with coverage being counted."""
ENDLESS = 100
"""Seconds by the clock, on a busy machine too, after which libFuzzer ends it all."""
MEBIBYTES = 4096
"""A search may add to what its process has when it begins: an input, and atheris, which grows."""

T = TypeVar("T")
Mutate = Callable[[bytes, Random], bytes]


@dataclass(frozen=True)
class Target:
    """A reader. check raises whatever it finds wrong; mutate makes another file of one."""

    name: str
    seeds: Callable[[], list[bytes]]
    check: Callable[[bytes, Path], None]
    mutate: Mutate


def instrumented() -> AbstractContextManager[None]:
    """A block whose imports of detengine count their coverage; nothing, where a test replays."""
    if Path(sys.argv[0]).resolve().parent != Path(__file__).resolve().parent:
        return nullcontext()
    import atheris

    return atheris.instrument_imports(include=["detengine"])


def outcome(read: Callable[[], T], named: str) -> T | None:
    """What is read, or None where that was refused as is promised: clearly, naming the file."""
    try:
        return read()
    except (ValueError, OSError) as error:
        raise_if_unclear(str(error), named, error)
        return None


def raise_if_unclear(message: str, named: str, error: BaseException | None = None) -> None:
    """Raise AssertionError unless it is one paragraph, of reasonable length, with the name."""
    lines = message.split("\n")
    broken = [
        rule
        for rule, is_kept in (
            ("names the file", named in message),
            ("is one paragraph", "\n\n" not in message.strip("\n")),
            ("is of reasonable length", max(map(len, lines)) <= LONGEST_LINE),
            ("has few lines", len(lines) <= MOST_LINES),
        )
        if not is_kept
    ]
    if broken:
        raise AssertionError(f"no message that {', '.join(broken)}: {message[:300]!r}") from error


def replay(target: Target, data: bytes, folder: Path) -> None:
    """Try one file, with what is a warning as an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        target.check(data, folder)


def fuzz(target: Target) -> None:
    """Search until libFuzzer's limits (-max_total_time, -runs) end it. Never returns."""
    import atheris

    logging.disable(logging.CRITICAL)
    found, corpus, working = (Path("fuzzing", target.name, each) for each in FOLDERS)
    for folder in (found, corpus, working):
        folder.mkdir(parents=True, exist_ok=True)
    cases = [path.read_bytes() for path in sorted((CASES / target.name).glob("*"))]
    for number, seed in enumerate([*target.seeds(), *cases]):
        (corpus / f"seed{number}").write_bytes(seed)
    known: set[str] = set()

    def try_one(data: bytes) -> None:
        began = time.process_time()
        try:
            replay(target, data, working.resolve())
            assert time.process_time() - began < SECONDS, "too slow"
        except Exception as error:
            _keep(found, data, error, known)

    def mutate(data: bytes, longest: int, seed: int) -> bytes:
        generator = Random(seed)
        if generator.random() < 0.1:
            return bytes(atheris.Mutate(data, longest))
        return target.mutate(data, generator)[:longest]

    _limit_memory()
    limits = [f"-timeout={ENDLESS}", f"-max_len={LONGEST_INPUT}", f"-artifact_prefix={found}/"]
    atheris.Setup([*sys.argv, *limits, str(corpus)], try_one, custom_mutator=mutate)
    atheris.Fuzz()


def _limit_memory() -> None:
    """What asks for more fails, and is found; the machine is shared."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + MEBIBYTES * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _keep(found: Path, data: bytes, error: Exception, known: set[str]) -> None:
    """Write it down, unless the same was found before: from the same lines of the code."""
    lines = [
        f"{frame.filename.partition(SOURCE)[2]}:{frame.lineno}"
        for each in (error, error.__cause__)
        if each is not None
        for frame in traceback.extract_tb(each.__traceback__)
        if SOURCE in frame.filename
    ]
    last = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{type(error).__name__} {lines[-3:]} {last.name}:{last.lineno}"
    if isinstance(error, AssertionError):
        place += str(error)[:40]
    if place in known or len(known) > 200:
        return
    known.add(place)
    name = sha256(place.encode()).hexdigest()[:12]
    (found / name).write_bytes(data)
    text = "".join(traceback.format_exception(error))
    (found / f"{name}.txt").write_text(text, errors="backslashreplace")
    print(f"FOUND {name}: {type(error).__name__}: {str(error)[:300]!r} {lines[-2:]}", flush=True)
