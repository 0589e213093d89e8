"""What a process and its children hold, read from /proc while they run."""

import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import NamedTuple

PROC = Path("/proc")


class Footprint(NamedTuple):
    """Of processes and their descendants at one moment; what they hold is counted together.

    position: how far they have come, in whatever they do. resident: kB of memory that is no
    file's, of the processes themselves. of_children: likewise, of their descendants. pss: kB of
    all of them, what they share divided among those who share it. shared: mappings of shared
    memory.
    """

    position: int
    resident: int
    of_children: int
    pss: int
    descriptors: int
    threads: int
    children: int
    shared: int


COUNTS = ("descriptors", "threads", "children", "shared")
BLOCKS_TO_COME = 2
"""Of four that a worker may have, two are in use at once from the beginning."""


def footprint(pids: Sequence[int], position: int = 0) -> Footprint:
    """Raises FileNotFoundError or ProcessLookupError where a process, or a child, has ended."""
    children = [each for pid in pids for each in descendants(pid)]
    whole = [*pids, *children]
    return Footprint(
        position,
        sum(map(resident_kb, pids)),
        sum(map(resident_kb, children)),
        sum(map(pss_kb, whole)),
        sum(len(list((PROC / str(each) / "fd").iterdir())) for each in whole),
        sum(_number(each, "status", "Threads") for each in whole),
        len(children),
        sum(map(shared_mappings, whole)),
    )


def resident_kb(pid: int) -> int:
    """Anonymous and shared memory that is in RAM: not the pages of libraries and other files."""
    return _number(pid, "status", "RssAnon") + _number(pid, "status", "RssShmem")


def pss_kb(pid: int) -> int:
    return _number(pid, "smaps_rollup", "Pss")


def shared_mappings(pid: int) -> int:
    maps = (PROC / str(pid) / "maps").read_text()
    return len(re.findall(r" /dev/shm/| /torch_| /memfd:", maps))


def descendants(pid: int) -> list[int]:
    """Children and theirs, those of all threads."""
    found: list[int] = []
    for thread in (PROC / str(pid) / "task").iterdir():
        for child in map(int, (thread / "children").read_text().split()):
            found += [child, *descendants(child)]
    return found


def _number(pid: int, file: str, name: str) -> int:
    text = (PROC / str(pid) / file).read_text()
    match = re.search(rf"^{name}:\s+(\d+)", text, re.MULTILINE)
    if match is None:  # a process that is a zombie has no memory
        raise ProcessLookupError(pid)
    return int(match[1])


def has_ended(pid: int) -> bool:
    """Also where nobody has asked for its exit code yet."""
    try:
        state = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def watch(pids: Sequence[int], position: Callable[[], int], *, every: float) -> list[Footprint]:
    """The processes' footprints, one each `every` seconds, until one of them has ended.

    A moment in which a child begins or ends has none.
    """
    found = []
    while not any(map(has_ended, pids)):
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            found.append(footprint(pids, position()))
        time.sleep(every)
    return found


def growth(samples: Sequence[Footprint], name: str) -> float:
    """The median over the last quarter of the way less that over the second one."""
    way = max(each.position for each in samples)
    early = [getattr(each, name) for each in samples if way / 4 <= each.position < way / 2]
    late = [getattr(each, name) for each in samples if each.position >= way * 3 / 4]
    return median(late) - median(early)


def raise_if_growing(samples: Sequence[Footprint], *, most_mb: float, workers: int = 0) -> str:
    """Raise AssertionError unless counts stay and memory grows by so little; what it was, in words.

    workers: of the loaders. Each may still take one of its few blocks of shared memory into use
    (data/shared_batches): a descriptor and a mapping in two processes.
    """
    grown = {name: growth(samples, name) for name in Footprint._fields[1:]}
    trace = "\n".join(map(str, samples[:: max(1, len(samples) // 40)]))
    assert grown["threads"] == grown["children"] == 0, trace
    assert grown["descriptors"] == grown["shared"], trace
    assert 0 <= grown["shared"] <= BLOCKS_TO_COME * 2 * workers, trace
    own, of_children = grown["resident"] / 1024, grown["of_children"] / 1024
    assert own < most_mb, trace
    assert of_children < most_mb, trace
    counts = ", ".join(
        f"{median([getattr(each, name) for each in samples]):.0f} {name} ({grown[name]:+.0f})"
        for name in COUNTS
    )
    memory = f"memory {own:+.1f} MB"
    return f"{memory}, of workers {of_children:+.1f} MB; {counts}" if workers else memory
