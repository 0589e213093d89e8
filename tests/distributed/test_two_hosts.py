"""`detengine train` on two hosts: network namespaces, with a torchrun each, joined by a cable."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import detengine
from detengine.checkpoint.files import load_file
from two_hosts import ADDRESSES, hosts  # noqa: F401 (a fixture)

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()),
    reason="this torch has no gloo to join two hosts with",
)

SETTINGS = ["SOLVER.MAX_ITER", "4", "MODEL.MASK_ON", "False", "TEST.PICTURES", "0"]


def start_host(name: str, address: str, arguments: list[str], output: Path) -> subprocess.Popen:
    """torchrun with one rank on this host; the other host's meets it on the first one."""
    launcher = [
        "--nnodes=2",
        "--nproc-per-node=1",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={ADDRESSES[0]}:29400",
        "--rdzv-id=two",
        f"--rdzv-conf=is_host={address == ADDRESSES[0]}",  # these hosts' names have no addresses
        f"--local-addr={address}",
    ]
    command = [sys.executable, "-m", "torch.distributed.run", *launcher, "-m", "detengine"]
    with output.open("w") as file:
        return subprocess.Popen(
            ["ip", "netns", "exec", name, *command, *arguments],
            stdout=file,
            stderr=file,
            env=os.environ
            | {
                "PYTHONPATH": str(Path(detengine.__file__).parents[1]),
                "OMP_NUM_THREADS": "1",
                "GLOO_SOCKET_IFNAME": "eth0",
            },
        )


@pytest.mark.timeout(90)
def test_two_hosts_give_the_weights_and_the_results_of_two_ranks_on_one(
    hosts: list[str],  # noqa: F811
    run_ranks: Callable[..., list[str]],
    tiny_config: Path,
    tmp_path: Path,
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    command = ["train", "-c", str(tiny_config), *SETTINGS, "OUTPUT_DIR"]
    outputs = [tmp_path / f"{name}.txt" for name in hosts]
    started = [
        start_host(name, address, [*command, str(there)], output)
        for name, address, output in zip(hosts, ADDRESSES, outputs, strict=True)
    ]
    try:
        codes = [host.wait(40) for host in started]
    finally:
        for host in started:
            host.kill()
            host.wait()
    assert codes == [0, 0], "\n".join(output.read_text() for output in outputs)
    run_ranks(2, None, *command, here, seconds=30)

    ends = [load_file(folder / "model_final.pth")["model"] for folder in (there, here)]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    results = [json.loads((folder / "results.json").read_text()) for folder in (there, here)]
    assert results[0] == results[1]
    assert "iter: 4 " in outputs[0].read_text() + outputs[1].read_text()
