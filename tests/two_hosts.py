"""Two hosts on one machine: network namespaces, joined by a cable that can be cut."""

import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

ADDRESSES = ("10.213.7.1", "10.213.7.2")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """The names of two network namespaces with an address each, joined by eth0."""
    names = [f"detengine-{os.getpid()}-{number}" for number in (1, 2)]
    try:
        for name in names:
            ip("netns", "add", name)
        ends = [["eth0", "netns", name] for name in names]
        ip("link", "add", *ends[0], "type", "veth", "peer", *ends[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-n", name, "link", "set", device, "up")
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", "") or str(error)
        _remove(names)
        pytest.skip(f"no network namespaces can be made here: {reason.strip()}")
    yield names
    _remove(names)


def _remove(names: list[str]) -> None:
    if shutil.which("ip"):
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
