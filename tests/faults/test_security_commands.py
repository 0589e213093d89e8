"""What commands reach for: no network, no program, no file but in their folders."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import detengine
from detengine.config.load import difference, load_config, recordable, to_yaml
from detengine.run_report.git_commit import git_commit
from detengine.run_report.record import begin_session, now
from fault_record import Record
from faults.hostile_data import FILES, write_hostile_data
from processes import ForkServer

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]  # all commands in one fixture

SECRET = "secret-of-the-environment"
AUDITED = Path(__file__).parent / "audited_program.py"
_CALLS = "trace=connect,sendto,sendmsg,sendmmsg"
# git, and what torch and platform ask of the machine
_PROGRAMS = re.compile(r"\['git', .*|\['(lscpu|uname|file)'.*|.*ldconfig.*|.*detengine.*")


class Sandbox:
    """A home, a folder for what is temporary, one to work in, and commands that are audited."""

    def __init__(self, folder: Path, server: ForkServer) -> None:
        self.folder, self.server = folder, server
        self.log = folder / "audit"
        self.number = 0
        self.before: set[str] = set()
        self.printed: list[str] = []
        for name in ("home", "tmp", "work", "cache"):
            (folder / name).mkdir()
        self.environment = {
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "tmp"),
            "DETENGINE_CACHE": str(folder / "cache"),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "TORCHINDUCTOR_CACHE_DIR": str(folder / "cache"),
            "MPLCONFIGDIR": str(folder / "cache"),
            **dict.fromkeys(("WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY"), SECRET),
        }

    def run(self, *command: object, code: int = 0) -> str:
        """What the command printed."""
        self.number += 1
        output = self.folder / f"output{self.number}"
        process = self.server.start(
            program=str(AUDITED),
            arguments=[str(self.log), *map(str, command)],
            output=str(output),
            environment=self.environment,
            folder=str(self.folder / "work"),
        )
        ended = process.wait(900)
        printed = output.read_text()
        assert ended == code, printed
        return printed

    def seen(self, kind: str) -> list[str]:
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [what for each, what in lines if each == kind]

    def files(self) -> set[str]:
        """What there is in the sandbox, but for what is temporary, the audit and its outputs."""
        found = {path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*")}
        return {path for path in found if not re.match(r"audit|output\d+$", path)}


PLANTED = {
    "run": (
        *("log.txt", "metrics.jsonl", "run.lock", "results.json", "per_class.json"),
        *("config.yaml.tmp", "environment.json.tmp", "report.html.tmp", "last_checkpoint.tmp"),
        *("model_final.pth.tmp", "model_final.pth.sha256.tmp", "report.html"),
        *("inference/hostile/predictions.tmp", "inference/hostile/bbox.json.tmp"),
        "pictures/hostile/1_<b onclick=alert(1)>&amp;.png",
    ),
    "found": ("predictions.json.part", "predictions.json", *FILES[:2]),
}
"""Names in output folders at which somebody put a link to a file elsewhere."""


@pytest.fixture(scope="module")
def sandbox(
    tmp_path_factory: pytest.TempPathFactory,
    fork_server: ForkServer,
    times: Callable[[int, int], int],
) -> Sandbox:
    """After some commands, in folders that others have put links in."""
    folder = tmp_path_factory.mktemp("sandbox")
    config = write_hostile_data(folder / "data")
    sandbox = Sandbox(folder, fork_server)
    victims = folder / "victims"
    victims.mkdir()
    for output, names in PLANTED.items():
        for number, name in enumerate(names):
            victim = victims / f"{output}{number}"
            victim.write_text("" if name == "report.html" else "mine\n")
            (folder / "out" / output / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "out" / output / name).symlink_to(victim)
    run, found, shown = folder / "out/run", folder / "out/found", folder / "out/shown"
    checkpoint, images = run / "model_final.pth", folder / "data/images"
    commands: list[list[object]] = [
        ["train", "-c", config, "--output-dir", run],
        ["predict", run, images, "--output-dir", found, "--overwrite", "--score-threshold", "0"],
        ["report", run],
        ["eval", "-c", config, "--weights", checkpoint, "--output-dir", folder / "out/eval"],
        ["doctor", "-c", config],
        ["show", "hostile", "-c", config, "--output-dir", shown],
        ["analyze", run / "inference/hostile", "-c", config, "--output-dir", folder / "out/a"],
        ["convert", checkpoint, folder / "out/weights.safetensors"],
        ["train", "-c", run / "config.yaml", "--resume", "SOLVER.MAX_ITER", "6"],
    ]
    sandbox.before = sandbox.files()
    sandbox.printed = [sandbox.run(*each) for each in commands[: times(2, len(commands))]]
    return sandbox


def test_commands_reach_for_nothing_but_their_folders(
    sandbox: Sandbox, record_fault: Record
) -> None:
    made = sandbox.files() - sandbox.before
    assert {path for path in made if not path.startswith(("out/", "cache/", "tmp/"))} == set()
    places = ("out", "cache", "tmp", "data/.detengine-doctor-")  # the last beside OUTPUT_DIR
    allowed = tuple(str(sandbox.folder / name) for name in places)
    elsewhere = {
        path for path in sandbox.seen("path")
        if not path.startswith((*allowed, "/dev/", "/proc/")) and "__pycache__" not in path
    }  # fmt: skip
    assert elsewhere == set()
    assert sandbox.seen("network") == []
    assert [each for each in sandbox.seen("program") if not _PROGRAMS.fullmatch(each)] == []
    written = len(set(sandbox.seen("path")))
    record_fault(
        "Security",
        "what commands reach for",
        made="train, predict, report, eval, doctor, show, analyze, convert and --resume on "
        "data whose names are markup, templates, shell and options; every call of Python's audited",
        promised="no connection, no program but git, no file but in the output folder and the "
        "cache",
        tried=f"{len(sandbox.printed)} commands",
        happened=f"0 connections; {written} files and folders written, all in the output folder, "
        "the cache or the folder of temporary files",
    )


def test_links_that_others_put_into_output_folders_are_not_followed(
    sandbox: Sandbox, record_fault: Record
) -> None:
    changed = [
        f"{output}/{name}"
        for output, names in PLANTED.items()
        for number, name in enumerate(names)
        if (sandbox.folder / "victims" / f"{output}{number}").read_text()
        != ("" if name == "report.html" else "mine\n")
    ]
    assert changed == []
    assert (sandbox.folder / "out/run/report.html").stat().st_size > 1000
    planted = sum(map(len, PLANTED.values()))
    record_fault(
        "Security",
        "links in an output folder",
        made="links to files elsewhere, under the names that a run, a report and predict write, "
        "and those they write aside",
        promised="each is replaced, and no file elsewhere is written",
        tried=f"{planted} links, {len(sandbox.printed)} commands",
        happened=f"{planted} files elsewhere as they were",
    )


def test_no_secret_is_in_what_a_run_leaves(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, record_fault: Record
) -> None:
    files = [path for path in (sandbox.folder / "out").rglob("*") if path.is_file()]
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
    address = "https://example.org/x.pth?X-Signature=secret"
    weights = ["MODEL.WEIGHT", f"{address}#sha256={'0' * 64}"]
    monkeypatch.setattr("sys.argv", ["detengine", "train", "-c", "x.yaml", *weights])
    cfg = load_config(None, weights)
    assert weights[1] == cfg.MODEL.WEIGHT  # which is fetched
    written = [
        begin_session("train", torch.device("cpu"), now()).command,
        to_yaml(cfg),
        difference(cfg),
        str(recordable(cfg)),
    ]
    assert all(f"https://example.org/x.pth#sha256={'0' * 64}" in text for text in written)
    assert not any("secret" in text for text in written)
    record_fault(
        "Security",
        "secrets",
        made="keys and tokens among the environment's variables; weights at an address that is "
        "signed",
        promised="in no file of a run, nor in what is sent to W&B",
        tried=f"{len(files)} files, {len(written)} kinds of records",
        happened="none of them there",
    )


@pytest.mark.endurance
def test_no_system_call_of_a_training_reaches_beyond_this_machine(
    tmp_path: Path, record_fault: Record
) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is missing")
    config = write_hostile_data(tmp_path / "data")
    log = tmp_path / "calls"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "detengine", "train", "-c", str(config)]
    done = subprocess.run(
        [strace, "-f", "-qq", "-e", _CALLS, "-s", "300", "-o", str(log), *command],
        env=os.environ | {"PYTHONPATH": str(Path(detengine.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    if "PTRACE" in done.stderr or "ptrace" in done.stderr:
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr
    calls = log.read_text()
    connected = re.findall(r"connect\(.*htons\((\d+)\).*?\"([\d.:a-f]+)\"", calls)
    foreign = [each for port, each in connected if port != "53" and not _is_of_this_machine(each)]
    # torchrun and gloo ask a name server for this machine's own name and address
    asked = re.findall(r"\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0(.*?)\"", calls)
    assert foreign == []
    own = socket.gethostname().partition(".")[0]
    assert [name for name in asked if own not in name and "4arpa" not in name] == []
    assert connected  # the ranks did meet
    record_fault(
        "Security",
        "connections of two ranks",
        made="a training on two ranks under strace",
        promised="the ranks meet on this machine, and nothing else is asked",
        tried=f"{len(connected)} connections in its system calls",
        happened="all to this machine, or to ask for its own address, as gloo and torchrun do",
    )


def _is_of_this_machine(address: str) -> bool:
    own = subprocess.run(["hostname", "-I"], capture_output=True, text=True).stdout.split()
    plain = address.removeprefix("::ffff:")
    return plain.startswith("127.") or plain in ("0.0.0.0", "::", "::1", *own)


def test_a_repository_in_the_working_folder_runs_no_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_fault: Record
) -> None:
    """As of an archive that was unpacked and is worked in."""
    git = shutil.which("git")
    if git is None:
        pytest.skip("git is missing")
    work, ran, program = tmp_path / "work", tmp_path / "it_ran", tmp_path / "program.sh"
    program.write_text(f"#!/bin/sh\ntouch {ran}\ncat\n")
    program.chmod(0o755)
    (tmp_path / "included").write_text(f"[core]\nfsmonitor = {program}\n")
    work.mkdir()
    monkeypatch.chdir(work)
    (work / "file.txt").write_text("one")
    (work / ".gitattributes").write_text("* filter=own\n")

    def run_git(*arguments: str) -> str:
        command = [git, "-c", "user.name=n", "-c", "user.email=e", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    run_git("init")
    run_git("add", ".")
    run_git("commit", "-m", "first")
    commit = run_git("rev-parse", "HEAD")
    assert git_commit() == commit
    (work / "file.txt").write_text("two")
    assert git_commit() == f"{commit}, with changes"
    keys = {
        **dict.fromkeys(("core.fsmonitor", "core.sshCommand", "diff.external"), program),
        **dict.fromkeys(("filter.own.clean", "filter.own.process"), program),
        "remote.origin.uploadpack": program,
        "include.path": tmp_path / "included",
    }
    for key, value in keys.items():
        run_git("config", key, str(value))
        found = git_commit()
        run_git("config", "--unset", key)
        assert found is not None
        assert found.startswith(f"{commit}; not looked for changes")
        assert not ran.exists(), key
    record_fault(
        "Security",
        "a repository that names programs",
        made="a working folder whose .git/config has core.fsmonitor, a filter, an include, ...",
        promised="the commit is recorded, and none of them runs",
        tried=f"{len(keys)} keys",
        happened="the commit each time, no program ran",
    )
