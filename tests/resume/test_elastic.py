"""torchrun --max-restarts: a rank is killed, and the group starts again by itself."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

import detengine
from processes import environments_of_ranks

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()),
    reason="this torch has no gloo to join two processes with",
)


def test_ranks_meet_anew_in_the_store_that_torchrun_keeps_for_all_restarts(
    new_run: Any, unbroken: Any, differences: Any
) -> None:
    """The store still has the addresses of the ranks that are dead."""
    run = new_run()
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    kept = {"MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    for signal_at, code in ((("iter: 12 ", signal.SIGKILL), -signal.SIGKILL), (None, 0)):
        ranks = [
            run.start(resume=True, environment=own | kept, signal_at=signal_at)
            for own in environments_of_ranks(2)
        ]
        assert [rank.wait(20) for rank in ranks] == [code] * 2, run.output()
    assert differences(run, unbroken(ranks=2)) == []


@pytest.mark.slow
@pytest.mark.timeout(90)
def test_a_group_that_torchrun_restarts_ends_with_the_weights_of_an_undisturbed_run(
    new_run: Any, unbroken: Any, differences: Any
) -> None:
    """Rank 1 is killed between two checkpoints; what had been done since is done again."""
    run = new_run()
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    arguments = run.arguments(resume=True, scored=False, settings={})
    environment = os.environ | {
        "PYTHONPATH": str(Path(detengine.__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
    }
    with run.output_path.open("w") as output:
        torchrun = subprocess.Popen(
            [sys.executable, *launcher, "--max-restarts=2", "-m", "detengine", *arguments],
            stdout=output, stderr=output, env=environment,
        )  # fmt: skip
        try:
            run.wait_for("iter: 12 ")
            os.kill(_rank_1_of(torchrun.pid), signal.SIGKILL)
            assert torchrun.wait(60) == 0, run.output()
        finally:
            torchrun.terminate()  # and its ranks with it
            torchrun.wait()
    assert run.log().count("Start training") == 2
    assert f" of {run.settings['SOLVER.MAX_ITER']} iterations are done" in run.log()
    assert differences(run, unbroken(ranks=2)) == []


def _rank_1_of(torchrun: int) -> int:
    """The process, of torchrun's, that was told to be rank 1."""
    children = Path(f"/proc/{torchrun}/task/{torchrun}/children").read_text().split()
    [rank_1] = [
        child for child in children if b"\0RANK=1\0" in Path(f"/proc/{child}/environ").read_bytes()
    ]
    return int(rank_1)
