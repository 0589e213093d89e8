"""Ranks that die, fail, freeze or never come: the others end in time, name it, and go on from it.

Each kind of fault is made at every place where ranks talk: what two ranks call of torch.distributed
in a training with scoring is numbered, and the fault made before and after such a call.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch.distributed as dist

import detengine
from processes import environments_of_ranks
from resume.conftest import Run, differences, new_run, unbroken  # noqa: F401 (fixtures)
from two_hosts import ADDRESSES, hosts, ip  # noqa: F401 (a fixture)

pytestmark = [
    pytest.mark.faults,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        not (dist.is_available() and dist.is_gloo_available()),
        reason="this torch has no gloo to join two processes with",
    ),
]

PROGRAM = Path(__file__).parent / "faulty_program.py"
SETTINGS = {
    "MODEL.BUILDER": "tiny_detectors:without_randomness",
    "SOLVER.MAX_ITER": 4,
    "SOLVER.CHECKPOINT_PERIOD": 3,
    "SOLVER.TEST_PERIOD": 2,
    "SOLVER.LOG_PERIOD": 2,
    "DISTRIBUTED.TIMEOUT": 0.5,
}
SECONDS = 150.0
AT_ONCE = 3
"""Runs that are made beside each other: most of their time, they wait."""
KILLED = "is gone without a word: its process was killed"


class Trial(NamedTuple):
    """A fault of one rank of a run. number: of the call, from 1."""

    run: Run
    rank: int
    number: int
    when: str
    do: str

    @property
    def faults(self) -> list[dict[str, Any]]:
        fault = {"at": "collective", "number": self.number, "when": self.when, "do": self.do}
        return [fault if rank == self.rank else {} for rank in range(2)]

    def __str__(self) -> str:
        return f"{self.do} of rank {self.rank} {self.when} call {self.number}"


class Ended(NamedTuple):
    """What became of all ranks. seconds: from the first one's start to the last one's end."""

    codes: list[int]
    said: list[str]
    seconds: float


def start(run: Run, faults: Sequence[dict[str, Any]], *, resume: bool = False) -> Any:
    """The ranks of a run, and where each of them prints."""
    environments = environments_of_ranks(len(faults))
    outputs = [run.folder.with_suffix(f".rank{rank}") for rank in range(len(faults))]
    for output in outputs:
        output.unlink(missing_ok=True)
    ranks = [
        run.server.start(
            program=str(PROGRAM),
            arguments=run.arguments(resume=resume, scored=True, settings={}),
            output=str(output),
            environment=environment | {"FAULT": json.dumps(fault)},
        )
        for environment, fault, output in zip(environments, faults, outputs, strict=True)
    ]
    return ranks, outputs


def play(run: Run, faults: Sequence[dict[str, Any]], *, resume: bool = False) -> Ended:
    [ended] = play_beside([(run, faults)], resume=resume)
    return ended


def play_beside(
    runs: Sequence[tuple[Run, Sequence[dict[str, Any]]]], *, resume: bool = False
) -> Iterator[Ended]:
    """Several runs at once."""
    begin = time.monotonic()
    started = [start(run, faults, resume=resume) for run, faults in runs]
    for ranks, outputs in started:
        codes = [rank.wait(SECONDS) for rank in ranks]
        said = [output.read_text() for output in outputs]
        yield Ended(codes, said, time.monotonic() - begin)


@pytest.fixture(scope="module")
def calls(new_run: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> list[str]:  # noqa: F811
    """The names of all that rank 0 calls of torch.distributed in the run."""
    path = tmp_path_factory.mktemp("calls") / "names"
    ended = play(new_run(SETTINGS), [{"names": str(path)}, {}])
    assert ended.codes == [0, 0], ended.said
    return path.read_text().split()


def spread(all_of_them: list[Any], number: int) -> list[Any]:
    """So many of them, from the first to the last."""
    number = min(number, len(all_of_them))
    return [all_of_them[i * len(all_of_them) // number] for i in range(number)]


def make_all(trials: list[Trial], same: Callable[[Run], list[str]], word: str) -> float:
    """Make the faults and resume each run; the longest that ranks took to their end.

    word: a pattern of what is said of the rank, in which RANK stands for it.
    """
    longest = 0.0
    for place in range(0, len(trials), AT_ONCE):
        some = trials[place : place + AT_ONCE]
        ended = list(play_beside([(trial.run, trial.faults) for trial in some]))
        resumed = list(play_beside([(trial.run, [{}, {}]) for trial in some], resume=True))
        for trial, broken, whole in zip(some, ended, resumed, strict=True):
            survivor = 1 - trial.rank
            assert broken.codes[survivor] == 1, (str(trial), broken)
            assert broken.codes[trial.rank] != 0, (str(trial), broken)
            told = re.search(word.replace("RANK", str(trial.rank)), "".join(broken.said))
            assert told, (str(trial), broken)
            assert whole.codes == [0, 0], (str(trial), whole)
            assert same(trial.run) == [], str(trial)
            longest = max(longest, broken.seconds)
    return longest


@pytest.mark.parametrize(
    "do",
    [
        pytest.param("SIGKILL", marks=pytest.mark.endurance),
        pytest.param("RuntimeError", marks=pytest.mark.endurance),
        pytest.param("_exit(3)", marks=pytest.mark.endurance),
        pytest.param("SystemExit", marks=pytest.mark.endurance),
    ],
)
def test_a_rank_that_is_lost_at_any_collective_is_named_and_the_run_goes_on_from_it(
    do: str,
    calls: list[str],
    new_run: Any,  # noqa: F811
    unbroken: Any,  # noqa: F811
    differences: Any,  # noqa: F811
    times: Any,
    record_fault: Any,
) -> None:
    """But for the first call, which is how they meet, and the last, where they part already."""
    places = [
        (rank, number, when)
        for number in range(2, len(calls))
        for rank in (0, 1)
        for when in ("before", "after")
    ]
    quick, full = {"SIGKILL": (1, 60), "RuntimeError": (1, 16)}.get(do, (8, 8))
    chosen = spread(places, times(quick, full))
    trials = [Trial(new_run(SETTINGS), *place, do) for place in chosen]
    expected = unbroken(SETTINGS, scored=True, ranks=2)
    word = {
        "SIGKILL": f"rank RANK {KILLED}|rank [01] (could not join|has found no|waits for)",
        "_exit(3)": f"rank RANK {KILLED}|rank [01] (could not join|has found no|waits for)",
        "RuntimeError": "RuntimeError: made to fail",
        "SystemExit": f"SystemExit 3|could not join|rank RANK {KILLED}",  # the last: as they meet
    }[do]
    seconds = make_all(trials, lambda run: differences(run, expected), word)
    kinds = len({calls[trial.number - 1] for trial in trials})
    record_fault(
        "Ranks",
        f"a rank is lost in a collective: {do}",
        made=f"before or after one of the {len(calls)} calls that two ranks make of each other",
        promised="the other ends with 1 and names it; resumed, the run ends with the same bits",
        tried=f"{len(trials)} ranks lost, at {kinds} kinds of calls",
        happened=f"all named and all the same; over {seconds:.0f} s after the start at most",
    )


OTHERWISE = {
    "SEED": "7",
    "SOLVER.MAX_ITER": "6",
    "SOLVER.IMS_PER_BATCH": "4",
    "SOLVER.BASE_LR": "0.1",
    "SOLVER.LOG_PERIOD": "1",
    "SOLVER.TEST_PERIOD": "1",
    "DATASETS.TRAIN": "('shapes_val',)",
    "DATASETS.TEST": "('shapes_train',)",
    "MODEL.BUILDER": "tiny_detectors:with_dropout",
    "DTYPE": "bfloat16",
}


def test_ranks_that_were_given_other_things_are_refused_with_the_difference(
    new_run: Any,  # noqa: F811
    tmp_path: Path,
    times: Any,
    record_fault: Any,
) -> None:
    kinds = [*OTHERWISE, "annotations", "WORLD_SIZE"]
    chosen = kinds[: times(1, len(kinds))]
    for key in chosen:
        run = new_run(SETTINGS)
        said = _said_with_another(run, key, tmp_path)
        assert re.search(
            {
                "annotations": r"data set 'shapes_train' is 7 images with annotations of sha256 "
                r"\w+, for disc, bar, wedge, on rank 0 and 6 images .* on rank 1",
                "WORLD_SIZE": "WORLD_SIZE is 2 on rank 0, but 3 on rank 1",
            }.get(
                key, rf"the ranks were not given the same: .*{key} is .* on rank 0 and .* rank 1"
            ),
            said,
        ), (key, said)
        assert said.count("not given the same") == (key != "WORLD_SIZE")
        assert list(run.folder.parent.glob("run/model_*")) == []
    record_fault(
        "Ranks",
        "ranks with another configuration, other data or another number of ranks",
        made=f"one of two ranks is given another {', '.join(chosen)}",
        promised="all end with 1 before the first step, and one says what differs, on which rank",
        tried=f"{len(chosen)} runs",
        happened="all were refused with the difference",
    )


def _said_with_another(run: Run, key: str, folder: Path) -> str:
    """What both ranks print, when rank 1 is given something else."""
    settings: dict[str, Any] = {}
    environments = environments_of_ranks(2)
    if key == "annotations":
        settings = {"DATASETS.DEFINE.shapes_train.ANNOTATIONS": _without_one_image(run, folder)}
    elif key == "WORLD_SIZE":
        environments[1]["WORLD_SIZE"] = "3"
    else:
        settings = {key: OTHERWISE[key]}
    ranks = [
        run.start(scored=True, settings=settings if rank else {}, environment=environment)
        for rank, environment in enumerate(environments)
    ]
    assert [rank.wait(SECONDS) for rank in ranks] == [1, 1], run.output()
    return run.output()


def _without_one_image(run: Run, folder: Path) -> Path:
    content = json.loads((run.config.parent / "train.json").read_text())
    content["images"] = content["images"][:-1]
    path = folder / "other.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.endurance
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_frozen_ends_the_run_in_time_and_itself_when_it_thaws(
    rank: int,
    calls: list[str],
    new_run: Any,  # noqa: F811
    unbroken: Any,  # noqa: F811
    differences: Any,  # noqa: F811
    record_fault: Any,
) -> None:
    expected = unbroken(SETTINGS, scored=True, ranks=2)
    places = spread(list(range(6, len(calls))), 2)  # those that the watchdog sees
    for place in places:
        run = new_run(SETTINGS | {"DISTRIBUTED.TIMEOUT": 0.2})
        trial = Trial(run, rank, place, "before", "SIGSTOP")
        ranks, outputs = start(run, trial.faults)
        assert ranks[1 - rank].wait(SECONDS) == 1
        said = outputs[1 - rank].read_text()
        assert re.search(
            f"for rank {rank}, which does not answer|rank {rank} does not answer any more", said
        ), (str(trial), said)
        ranks[rank].signal(signal.SIGCONT)
        assert ranks[rank].wait(SECONDS) == 1, outputs[rank].read_text()
        run.settings |= {"DISTRIBUTED.TIMEOUT": 0.5}
        whole = play(run, [{}, {}], resume=True)
        assert whole.codes == [0, 0], whole
        assert differences(run, expected) == []
    record_fault(
        "Ranks",
        f"rank {rank} is frozen",
        made="SIGSTOP before a collective; SIGCONT when the other has ended",
        promised="the other ends after DISTRIBUTED.TIMEOUT (here 12 s), names it; it ends itself "
        "when it goes on; resumed, the run ends with the same bits",
        tried=f"{len(places)} times",
        happened="all ended, were named, and ended the same",
    )


@pytest.mark.endurance
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_never_comes_is_named_when_the_time_is_over(
    rank: int,
    new_run: Any,  # noqa: F811
    record_fault: Any,
) -> None:
    """The time is DISTRIBUTED.TIMEOUT and a minute."""
    run = new_run(SETTINGS | {"DISTRIBUTED.TIMEOUT": 0.01})
    faults: list[dict[str, Any]] = [{}, {}]
    faults[rank] = {"at": "start", "do": "SIGKILL"}
    begin = time.monotonic()
    ranks, outputs = start(run, faults)
    assert ranks[1 - rank].wait(120) == 1
    seconds = time.monotonic() - begin
    assert re.search(
        "rank 1 did not come to rank 0|rank 1 has found no rank 0 at 127",
        outputs[1 - rank].read_text(),
    )
    record_fault(
        "Ranks",
        f"rank {rank} dies before the ranks have met",
        made="SIGKILL at its start",
        promised="the other waits for DISTRIBUTED.TIMEOUT and a minute, and names it",
        tried="1 rank, DISTRIBUTED.TIMEOUT 0.6 s",
        happened=f"named after {seconds:.0f} s",
    )


def command_of(run: Run, launcher: Sequence[str], *, resume: bool = False) -> list[str]:
    """The run under torchrun, or with no launcher, by itself."""
    arguments = run.arguments(resume=resume, scored=True, settings={})
    program = [*launcher, str(PROGRAM)] if launcher else [str(PROGRAM)]
    return [sys.executable, *program, *arguments]


def environment_of(fault: dict[str, Any], **more: str) -> dict[str, str]:
    paths = [Path(detengine.__file__).parents[1], PROGRAM.parents[1] / "resume"]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "OMP_NUM_THREADS": "1",
        "FAULT": json.dumps(fault),
        **more,
    }


@pytest.mark.endurance
def test_under_torchrun_a_rank_that_is_killed_is_restarted_with_all_and_ends_the_same(
    calls: list[str],
    new_run: Any,  # noqa: F811
    unbroken: Any,  # noqa: F811
    differences: Any,  # noqa: F811
    record_fault: Any,
) -> None:
    expected = unbroken(SETTINGS, scored=True, ranks=2)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    trials = [(rank, 1 + rank * len(calls) // 2 + 6) for rank in (0, 1)]
    for rank, number in trials:
        run = new_run(SETTINGS)
        fault = {"at": "collective", "number": number, "when": "before", "do": "SIGKILL"}
        ended = subprocess.run(
            command_of(run, [*launcher, "--max-restarts=1"], resume=True),
            env=environment_of(fault | {"rank": rank}),
            capture_output=True, text=True, timeout=200,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        assert f"rank {rank} {KILLED}" in ended.stderr or "Signal 9" in ended.stderr, ended.stderr
        assert differences(run, expected) == []
    record_fault(
        "Ranks",
        "a rank is killed under torchrun --max-restarts=1",
        made="SIGKILL before a collective of the first start",
        promised="torchrun starts all of them again, and the run ends with the same bits",
        tried=f"{len(trials)} ranks",
        happened="both ended with 0 and the same bits",
    )


@pytest.mark.endurance
def test_a_network_that_goes_down_ends_both_hosts_in_time_and_the_run_goes_on_from_it(
    hosts: list[str],  # noqa: F811
    new_run: Any,  # noqa: F811
    unbroken: Any,  # noqa: F811
    differences: Any,  # noqa: F811
    record_fault: Any,
) -> None:
    """Two network namespaces, a rank in each; packets are lost without a word."""
    settings = SETTINGS | {"SOLVER.MAX_ITER": 120, "SOLVER.CHECKPOINT_PERIOD": 7}
    settings |= {"SOLVER.TEST_PERIOD": 0, "DATASETS.TEST": "()"}
    run = new_run(settings | {"DISTRIBUTED.TIMEOUT": 0.1})
    environments = environments_of_ranks(2)
    outputs = [run.folder.with_suffix(f".host{rank}") for rank in (0, 1)]
    started = []
    for host, output, environment in zip(hosts, outputs, environments, strict=True):
        place = {"MASTER_ADDR": ADDRESSES[0], "GLOO_SOCKET_IFNAME": "eth0"}
        with output.open("w") as file:
            started.append(
                subprocess.Popen(
                    ["ip", "netns", "exec", host, *command_of(run, [])],
                    stdout=file, stderr=file, env=environment_of({}, **(environment | place)),
                )
            )  # fmt: skip
    try:
        run.wait_for("iter: 20 ")
        ip("-n", hosts[1], "link", "set", "eth0", "down")
        begin = time.monotonic()
        codes = [host.wait(120) for host in started]
        seconds = time.monotonic() - begin
    finally:
        for host in started:
            host.kill()
            host.wait()
    said = "".join(output.read_text() for output in outputs)
    assert codes == [1, 1], said
    assert re.search("rank [01],? .*does not answer|cannot reach each other", said), said
    run.settings |= {"DISTRIBUTED.TIMEOUT": 0.5}
    whole = play(run, [{}, {}], resume=True)
    assert whole.codes == [0, 0], whole
    assert differences(run, unbroken(settings, scored=True, ranks=2)) == []
    record_fault(
        "Ranks",
        "the network between two hosts goes down",
        made="ip link set eth0 down, in a network namespace, among the steps",
        promised="both end with 1 after DISTRIBUTED.TIMEOUT (here 6 s), and one says which rank "
        "does not answer; resumed, the run ends with the same bits",
        tried="1 cut",
        happened=f"both had ended after {seconds:.0f} s, and the rest was the same",
    )
