"""What TensorBoard and Weights & Biases have of a run that was killed and resumed."""

import json
import re
from collections import Counter
from pathlib import Path
from signal import SIGKILL
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import IMAGES, EventAccumulator

SETTINGS = {
    "SINKS": ("tensorboard",),
    "SOLVER.TEST_PERIOD": 10,
    "TEST.PICTURES": 1,
    "SOLVER.BEST_METRIC": "bbox/AP",
    "SOLVER.MAX_ITER": 30,
}


def events_of(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder / "tensorboard"), size_guidance={IMAGES: 0}).Reload()


def test_killed_and_resumed_a_run_has_every_step_once_in_tensorboard(new_run: Any) -> None:
    run = new_run(SETTINGS)
    assert run.train(scored=True, signal_at=("iter: 17 ", SIGKILL)) == -SIGKILL, run.output()
    assert run.train(scored=True, resume=True, signal_at=("saved .*0020", SIGKILL)) == -SIGKILL
    assert run.train(scored=True, resume=True) == 0, run.output()
    events = events_of(run.folder)
    expected = Counter(
        (name, line["iteration"])
        for line in map(json.loads, (run.folder / "metrics.jsonl").read_text().splitlines())
        for name in line.keys() - {"iteration"}
    )
    seen = Counter(
        (name, event.step) for name in events.Tags()["scalars"] for event in events.Scalars(name)
    )
    assert seen == expected
    assert max(seen.values()) == 1
    (pictures,) = events.Tags()["images"]
    assert pictures.startswith("pictures/shapes_val/")
    assert [event.step for event in events.Images(pictures)] == [10, 20, 30]


def test_sinks_may_be_given_anew_and_change_no_bit(
    new_run: Any, unbroken: Any, differences: Any
) -> None:
    run = new_run()
    assert run.train(signal_at=("iter: 17 ", SIGKILL)) == -SIGKILL
    assert run.train(resume=True, settings={"SINKS": ("tensorboard",)}) == 0, run.output()
    assert differences(run, unbroken()) == []
    steps = [event.step for event in events_of(run.folder).Scalars("train/loss")]
    done = re.search(r"(\d+) of 40 iterations are done", run.log())
    assert done is not None
    assert steps == list(range(int(done[1]) + 1, 41))
