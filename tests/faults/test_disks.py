"""All commands but `train`, of which tests/resume has its own, on a disk that is full or fails."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from full_disk import assert_all_is_whole, chosen
from processes import ForkServer

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3_000)]

SICK = Path(__file__).parents[1] / "sick_disk.py"
SETTINGS = {
    "SOLVER.MAX_ITER": "2",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": "8",
    "MODEL.RESNETS.RES2_OUT_CHANNELS": "16",
    "MODEL.RESNETS.BACKBONE_OUT_CHANNELS": "16",
    "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": "16",
    "MODEL.ROI_MASK_HEAD.CONV_LAYERS": "[8]",
    "TEST.PICTURES": "1",
    "REPORT": "True",
}
RUN, OUT, IMAGES = "{run}", "{out}", "{images}"
COMMANDS: dict[str, tuple[list[str], int]] = {
    "eval": (
        [
            *("eval", "-c", f"{RUN}/config.yaml", "--weights", f"{RUN}/model_final.pth"),
            *("--output-dir", OUT),
        ],
        110,
    ),
    "predict": (["predict", RUN, IMAGES, "--output-dir", OUT, "--score-threshold", "0"], 120),
    "convert to .pth": (["convert", f"{RUN}/model_final.pth", f"{OUT}/x.pth"], 110),
    "convert to .safetensors": (["convert", f"{RUN}/model_final.pth", f"{OUT}/x.safetensors"], 110),
    "report": (["report", RUN, "--output", f"{OUT}/report.html"], 60),
    "doctor": (["doctor", "-c", f"{RUN}/config.yaml", "--no-model", "--output-dir", OUT], 3),
    "compare": (
        [
            *("compare", f"{RUN}/inference/shapes_val", f"{RUN}/inference/shapes_val"),
            *("-c", f"{RUN}/config.yaml", "--iou-type", "bbox", "--samples", "2"),
            *("--output-dir", OUT),
        ],
        3,
    ),
    "show": (["show", "shapes_val", "-c", f"{RUN}/config.yaml", "--output-dir", OUT], 150),
    "export": (["export", RUN, f"{OUT}/x.onnx"], 150),
}
"""By name, what is typed, and more pages of 4 KiB than that writes."""


@pytest.fixture(scope="module")
def run(
    fork_server: ForkServer, tiny_config: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run's folder, trained and scored."""
    folder = tmp_path_factory.mktemp("disks") / "run"
    pairs = [word for pair in SETTINGS.items() for word in pair]
    arguments = ["train", "-c", str(tiny_config), "--output-dir", str(folder), *pairs]
    output = folder.with_suffix(".out")
    assert fork_server.start(arguments=arguments, output=str(output), environment={}).wait() == 0, (
        output.read_text()
    )
    return folder


@pytest.fixture
def command(
    fork_server: ForkServer, run: Path, tiny_config: Path, tmp_path: Path
) -> Callable[..., tuple[int, str]]:
    """(name, folder to write to, variables of sick_disk.py) -> exit code, and what was printed."""

    def start(name: str, out: Path, **sick: str) -> tuple[int, str]:
        images = tiny_config.parent / "images"
        arguments = [each.format(run=run, out=out, images=images) for each in COMMANDS[name][0]]
        output = tmp_path / "output"
        output.unlink(missing_ok=True)
        process = fork_server.start(
            program=str(SICK) if sick else "",
            arguments=arguments,
            output=str(output),
            environment=sick,
        )
        return process.wait(), output.read_text()

    return start


def assert_clear(output: str, cause: str) -> None:
    assert "Traceback" not in output, output
    last = output.rstrip().splitlines()[-1]
    said = rf"^error: (cannot (write|remove) \S+|the (output )?folder .* cannot be .*): {cause}"
    assert re.search(said, last), last
    assert "--output" in last


def names(quick: set[str]) -> list[Any]:
    return [
        name if name in quick else pytest.param(name, marks=pytest.mark.endurance)
        for name in COMMANDS
    ]


@pytest.mark.parametrize("name", names({"predict"}))
def test_a_command_whose_disk_is_full_ends_clearly_and_leaves_nothing_half_written(
    name: str, command: Any, new_disk: Any, times: Any, record_fault: Any
) -> None:
    most = COMMANDS[name][1]
    codes = []
    for pages in chosen(min(times(1, 8), most), most, [2, 1, most]):
        disk = new_disk(pages)
        out = disk.place / "out"
        if name.startswith(("convert", "export")):
            out.mkdir()
        code, output = command(name, out)
        codes.append(code)
        assert_all_is_whole(disk.place)
        if code:
            assert_clear(output, "No space left on device")
            assert re.search("MiB are free in .*make room", output), output[-300:]
        disk.vanish()
    record_fault(
        "Disks",
        f"the disk that `{name}` writes to is full",
        made="a tmpfs on which so many pages of 4 KiB are free",
        promised="a clear end, nothing half written",
        tried=f"{len(codes)} numbers of pages from 1 to {most}",
        happened=f"{sum(codes)} ended with the error, {codes.count(0)} had room enough",
    )


@pytest.mark.endurance
@pytest.mark.parametrize("name", [each for each in COMMANDS if each != "export"])
def test_whichever_call_the_disk_fails_a_command_ends_clearly(
    name: str, command: Any, tmp_path: Path, times: Any, record_fault: Any
) -> None:
    codes: list[int] = []
    call = 1
    while True:
        out = tmp_path / "out"
        out.mkdir(exist_ok=name.startswith("convert"))
        sick = {"FOLDER": str(out), "AT": str(call), "ERROR": "EIO", "LASTS": "0"}
        sick |= {"COUNT": str(tmp_path / "count")}
        if not name.startswith("convert"):
            out.rmdir()
        code, output = command(name, out, **{f"SICK_{key}": value for key, value in sick.items()})
        if int((tmp_path / "count").read_text()) < call:
            break
        codes.append(code)
        assert "Traceback" not in output
        if code:
            assert_clear(output, "Input/output error")
        assert_all_is_whole(out)
        shutil.rmtree(out, ignore_errors=True)
        call += 1 if call < 20 else 3
    record_fault(
        "Disks",
        f"a call of `{name}` to the system fails",
        made="the n-th fsync, rename, open, mkdir or unlink in its folder gives EIO",
        promised="a clear end, or a warning where a record is optional; nothing half written",
        tried=f"{len(codes)} n",
        happened=f"{sum(codes)} ended with the error, {codes.count(0)} with a warning",
    )
