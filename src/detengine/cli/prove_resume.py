"""demo --prove-resume: a training that is killed and resumed ends like one that never was."""

import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import typer

from detengine.checkpoint.files import load_file
from detengine.cli.app import EXIT_ERROR

ITERATIONS = 120
PERIOD = 25
"""Iterations from one checkpoint to the next, so that the kill costs some that are done again."""
POLL_SECONDS = 0.05


def prove_resume(config_file: Path, settings: Sequence[str], folder: Path) -> None:
    """Train twice, once with `kill -9` half-way, and compare the final weights.

    Both are trainings of their own process, and are not scored. settings: KEY VALUE pairs beside
    the file. Ends with exit code 1 if the weights differ or a training fails.
    """
    command = [sys.executable, "-m", "detengine", "train", "-c", str(config_file), "--skip-test"]
    keys = [
        *settings,
        *("SOLVER.MAX_ITER", str(ITERATIONS)),
        *("SOLVER.CHECKPOINT_PERIOD", str(PERIOD)),
        *("SOLVER.LOG_PERIOD", "10"),
    ]
    unbroken, killed = folder / "unbroken", folder / "killed"
    typer.echo(f"1. {ITERATIONS} iterations, unbroken, in {unbroken}")
    _run([*command, *keys, "OUTPUT_DIR", str(unbroken)])
    typer.echo(f"2. The same in {killed}, until kill -9")
    iteration = _kill_half_way([*command, *keys, "OUTPUT_DIR", str(killed)], killed)
    left = (killed / "last_checkpoint").read_text().strip()
    typer.echo(f"   killed after iteration {iteration} was logged; {left} is its last checkpoint")
    typer.echo("3. Resumed: the same command with --resume")
    _run([*command, "--resume", *keys, "OUTPUT_DIR", str(killed)])
    digests = [digest_of_weights(each / "model_final.pth") for each in (unbroken, killed)]
    typer.echo(f"\nsha256 of the final weights\n  unbroken  {digests[0]}\n  resumed   {digests[1]}")
    if digests[0] != digests[1]:
        typer.echo("error: the weights differ; please report this with both folders", err=True)
        raise typer.Exit(EXIT_ERROR)
    typer.echo("Equal, bit for bit.")


def digest_of_weights(checkpoint: Path) -> str:
    """The sha256 of a checkpoint's weights: each tensor's name, dtype, shape and bytes, by name.

    Not of the file, which holds the iterations' times, too.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(load_file(checkpoint)["model"].items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _run(command: Sequence[str]) -> None:
    finished = subprocess.run(command, stdout=subprocess.DEVNULL)
    if finished.returncode:
        raise typer.Exit(finished.returncode)  # it has said why


def _kill_half_way(command: Sequence[str], folder: Path) -> int:
    """Start the training, kill it when half of it is logged, and give the iteration."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            iteration = _last_iteration(folder / "metrics.jsonl")
            if iteration >= ITERATIONS // 2:
                process.send_signal(signal.SIGKILL)
                process.wait()
                return iteration
            time.sleep(POLL_SECONDS)
    finally:
        process.kill()
    typer.echo("error: the training ended before it could be killed", err=True)
    raise typer.Exit(process.returncode or EXIT_ERROR)


def _last_iteration(metrics: Path) -> int:
    whole_lines = metrics.read_text().split("\n")[:-1] if metrics.exists() else []
    return int(json.loads(whole_lines[-1])["iteration"]) if whole_lines else 0
