import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from damage import flips, truncations
from detengine.config.load import load_config
from detengine.data.annotation_cache import DependsOn, cache_folder, cached
from detengine.data.build import load_truth
from detengine.data.coco import load_coco, parse_coco
from detengine.data.coco_file import read_json
from detengine.data.lvis import load_lvis
from detengine.structures.ground_truth import GroundTruth
from processes import ForkServer

MakeCoco = Callable[..., Path]
BOX = {"image_id": 1, "category_id": 10, "bbox": [2, 3, 4.5, 6]}
MASKED = [{**BOX, "segmentation": [[1, 1, 9, 1, 9, 9 + n]]} for n in range(3)]
LARGE = 5 << 20


class Reader:
    """Reads COCO files whatever their size, through a folder, and counts how often it read."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.reads = 0

    def __call__(self, path: Path, images: Path | None = None, **options: Any) -> GroundTruth:
        def read() -> tuple[GroundTruth, DependsOn]:
            self.reads += 1
            return parse_coco(read_json(path, "pets"), images), ()

        options = {"smallest": 0, "settled_seconds": 0.0} | options
        return cached(self.folder, path, images, "coco", read, **options)


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    return Reader(tmp_path / "cache")


def _packed(reader: Reader) -> Path:
    assert reader.folder is not None
    [place] = reader.folder.glob("*.packed")
    return place


def _pad(path: Path, length: int = LARGE) -> None:
    """Blanks at the end are JSON, too."""
    path.write_text(path.read_text() + " " * length)


def test_what_is_mapped_is_what_was_read(make_coco: MakeCoco, reader: Reader) -> None:
    path = make_coco([(20, 30), (5, 5)], MASKED)
    plain = load_coco(path, None, "pets")
    assert [reader(path).digest() for _ in range(3)] == [plain.digest()] * 3
    assert reader.reads == 1


def test_without_a_folder_or_for_a_small_file_nothing_is_written(
    make_coco: MakeCoco, reader: Reader
) -> None:
    path = make_coco([(20, 30)], MASKED)
    for options in ({"smallest": 1 << 20}, {"smallest": 1 << 20}):
        reader(path, **options)
    Reader(None)(path)
    assert reader.reads == 2
    assert reader.folder is not None
    assert not reader.folder.exists()


def test_keypoints_and_what_lvis_says_come_back(make_coco: MakeCoco, tmp_path: Path) -> None:
    path = make_coco([(20, 30)], [{**MASKED[0], "keypoints": [1, 2, 2]}, BOX])
    content = json.loads(path.read_text())
    content["images"][0] |= {"neg_category_ids": [20], "not_exhaustive_category_ids": [10]}
    for entry in content["categories"]:
        entry |= {"frequency": "c", "keypoints": ["tip"]}
    path.write_text(json.dumps(content))
    _pad(path)
    _age(path, path.parent)
    plain = load_lvis(path, path.parent, "pets")
    first, second = (
        load_lvis(path, path.parent, "pets", cache=tmp_path / "cache") for _ in range(2)
    )
    assert first.digest() == second.digest() == plain.digest()
    assert second.keypoint_names == ("tip",)
    assert second.federated is not None
    assert second.federated.frequencies == ("c", "c")


def _age(*paths: Path) -> None:
    """A file's last change of any kind cannot be set back: wait until it is some time ago."""
    newest = max(path.stat().st_ctime for path in paths)
    time.sleep(max(0.0, newest + 2.1 - time.time()))


def test_a_changed_file_is_read_again(make_coco: MakeCoco, reader: Reader) -> None:
    path = make_coco([(20, 30)], MASKED)
    before = reader(path)
    was = path.stat()
    digest = before.digest()
    text = path.read_text().replace("4.5", "5.5")
    path.write_text(text)
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))  # as rsync and tar do
    assert path.stat().st_size == was.st_size
    after = reader(path)
    assert after.boxes_xywh[0].tolist() == [2, 3, 5.5, 6]
    assert reader.reads == 2
    assert before.digest() == digest  # what was mapped stays what it was


def test_a_file_that_has_just_been_changed_is_not_kept(make_coco: MakeCoco, reader: Reader) -> None:
    path = make_coco([(20, 30)], MASKED)
    for _ in range(2):
        reader(path, settled_seconds=60.0)
    assert reader.reads == 2
    assert not list(reader.folder.glob("*.packed"))  # type: ignore[union-attr]


def test_a_file_that_changes_while_it_is_read_is_not_kept(
    make_coco: MakeCoco, reader: Reader
) -> None:
    path = make_coco([(20, 30)], MASKED)

    def read() -> tuple[GroundTruth, DependsOn]:
        truth = load_coco(path, None, "pets")
        _pad(path, 1)
        return truth, ()

    cached(reader.folder, path, None, "coco", read, smallest=0, settled_seconds=0.0)
    assert not list(reader.folder.glob("*.packed"))  # type: ignore[union-attr]


def test_another_format_version_or_folder_is_another_result(
    make_coco: MakeCoco, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_coco([(20, 30)], MASKED)
    reader(path)
    reader(path, path.parent)
    assert reader.reads == 2
    monkeypatch.setattr("detengine.data.annotation_cache.READER", 0)
    reader(path)
    assert reader.reads == 3
    reader(path)
    assert reader.reads == 3


def test_a_change_in_a_folder_that_was_looked_into_is_seen(
    make_coco: MakeCoco, reader: Reader, tmp_path: Path
) -> None:
    path, looked_into = make_coco([(20, 30)], MASKED), tmp_path / "train2017"
    reads = []

    def read() -> tuple[GroundTruth, DependsOn]:
        reads.append(path)
        return load_coco(path, None, "pets"), (looked_into,)

    for make in (None, None, looked_into.mkdir, None, (looked_into / "1.jpg").touch, None):
        if make is not None:
            make()
        cached(reader.folder, path, None, "lvis", read, smallest=0, settled_seconds=0.0)
    assert len(reads) == 3


def test_a_refused_file_is_never_kept(make_coco: MakeCoco, reader: Reader) -> None:
    path = make_coco([(20, 30)], [*MASKED, {**BOX, "category_id": 3}])
    for _ in range(2):
        with pytest.raises(ValueError, match=r"annotation 3 .* has the unknown category 3"):
            reader(path)
    assert reader.reads == 2
    assert not list(reader.folder.glob("*.packed"))  # type: ignore[union-attr]


@pytest.mark.faults
def test_a_damaged_file_is_made_anew(
    make_coco: MakeCoco,
    reader: Reader,
    caplog: pytest.LogCaptureFixture,
    times: Any,
    record_fault: Any,
) -> None:
    path = make_coco([(20, 30)], MASKED)
    digest = reader(path).digest()
    whole = _packed(reader).read_bytes()
    damages = [whole[:1], whole[:35], whole[:36], whole[:37], *truncations(whole)]
    damages += flips(whole, times(40, 1000))
    for reads, damage in enumerate(damages, start=2):
        place = _packed(reader)
        aside = place.with_suffix(".bad")
        aside.write_bytes(damage)
        aside.replace(place)
        caplog.clear()
        assert reader(path).digest() == digest
        assert reader.reads == reads
        assert "it is made anew" in caplog.text
    assert _packed(reader).read_bytes() == whole
    record_fault(
        "Damage",
        "the cache of annotations",
        made="cut off at each 1/20 of its length; one bit flipped",
        promised="a warning, and it is made anew from the annotations",
        tried=f"{len(damages)} damages",
        happened="made anew, equal to the first",
    )


def test_a_file_of_something_else_in_its_place_is_made_anew(
    make_coco: MakeCoco, reader: Reader
) -> None:
    path = make_coco([(20, 30)], MASKED)
    digest = reader(path).digest()
    _packed(reader).write_bytes(b"detengine packed" + bytes(1000))
    assert reader(path).digest() == digest
    assert reader.reads == 2


def test_writing_to_a_mapped_tensor_changes_neither_file_nor_others(
    make_coco: MakeCoco, reader: Reader
) -> None:
    path = make_coco([(20, 30)], MASKED)
    truth = reader(path)
    content = _packed(reader).read_bytes()
    truth.boxes_xywh[0, 0] = 99.0
    assert _packed(reader).read_bytes() == content
    assert reader(path).boxes_xywh[0, 0] == 2


def test_a_folder_that_cannot_be_written_to_is_said_and_done_without(
    make_coco: MakeCoco, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = make_coco([(20, 30)], MASKED)
    (tmp_path / "file").write_text("no folder")
    reader = Reader(tmp_path / "file" / "cache")
    assert reader(path).digest() == load_coco(path, None, "pets").digest()
    assert "set DETENGINE_CACHE to a folder that can be written to" in caplog.text


def test_a_read_only_folder_that_has_it_is_mapped(make_coco: MakeCoco, reader: Reader) -> None:
    path = make_coco([(20, 30)], MASKED)
    digest = reader(path).digest()
    assert reader.folder is not None
    for each in reader.folder.iterdir():
        each.chmod(0o444)
    reader.folder.chmod(0o555)
    try:
        assert reader(path).digest() == digest
    finally:
        reader.folder.chmod(0o755)
    assert reader.reads == 1


_PROGRAM = """
import logging
import sys
from pathlib import Path
from detengine.data.coco import load_coco
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
truth = load_coco(Path(sys.argv[1]), None, "pets", cache=Path(sys.argv[2]))
print(truth.digest())
print(Path("/proc/self/maps").read_text().count(".packed"), "mappings")
"""


def test_of_processes_that_start_at_once_one_writes_and_all_map_it(
    make_coco: MakeCoco, tmp_path: Path
) -> None:
    path, cache = make_coco([(20, 30)], MASKED), tmp_path / "cache"
    _pad(path)
    _age(path)
    command = [sys.executable, "-c", _PROGRAM, str(path), str(cache)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = "".join(process.communicate()[0] for process in started)
    assert said.count(load_coco(path, None, "pets").digest()) == 3
    assert said.count("1 mappings") == 3
    assert said.count("are kept in") == 1
    assert len(list(cache.glob("*.packed"))) == 1
    assert not list(cache.glob("*.tmp"))


def test_the_image_folder_is_looked_at_on_every_start(make_coco: MakeCoco, tmp_path: Path) -> None:
    path, cache = make_coco([(20, 30)], MASKED), tmp_path / "cache"
    _pad(path)
    _age(path)
    load_coco(path, path.parent, "pets", cache=cache)
    assert len(list(cache.glob("*.packed"))) == 1
    (path.parent / "1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"'1\.png' as its first image"):
        load_coco(path, path.parent, "pets", cache=cache)


def test_sizes_that_were_asked_of_the_images_are_not_kept(
    make_coco: MakeCoco, tmp_path: Path
) -> None:
    path, cache = make_coco([(20, 30)], MASKED), tmp_path / "cache"
    content = json.loads(path.read_text())
    del content["images"][0]["width"]
    path.write_text(json.dumps(content))
    _pad(path)
    _age(path)
    load_coco(path, path.parent, "pets", cache=cache)
    assert not list(cache.glob("*.packed"))


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETENGINE_CACHE", "/somewhere")
    assert cache_folder() == Path("/somewhere/annotations")
    monkeypatch.delenv("DETENGINE_CACHE")
    assert cache_folder() == Path.home() / ".cache/detengine/annotations"


def test_a_mapped_data_set_survives_being_sent_to_a_process(
    make_coco: MakeCoco, reader: Reader
) -> None:
    path = make_coco([(20, 30)], MASKED)
    reader(path)
    truth = reader(path)
    assert replace(pickle.loads(pickle.dumps(truth))).digest() == truth.digest()


@pytest.mark.parametrize("switch", [True, False])
def test_the_configuration_switches_it_off(
    make_coco: MakeCoco, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switch: bool
) -> None:
    path = make_coco([(20, 30)], MASKED)
    _pad(path)
    _age(path)
    monkeypatch.setenv("DETENGINE_CACHE", str(tmp_path / "cache"))
    pets = {"FORMAT": "coco", "IMAGES": str(path.parent), "ANNOTATIONS": str(path)}
    datasets = {"DEFINE": {"pets": pets}, "TRAIN": ["pets"], "CACHE": switch}
    (tmp_path / "a.yaml").write_text(
        yaml.safe_dump({"CONVENTIONS": "modern", "DATASETS": datasets})
    )
    load_truth(load_config(tmp_path / "a.yaml"), "pets", for_scoring=False)
    assert len(list((tmp_path / "cache").rglob("*.packed"))) == int(switch)


PACKING = """
import os, sys, time
from pathlib import Path
from detengine.data.annotation_cache import cached
from detengine.data.coco import parse_coco
from detengine.data.coco_file import read_json

source, folder = Path(sys.argv[1]), Path(sys.argv[2])
truth = parse_coco(read_json(source, "pets"), None)
while True:
    os.utime(source)
    cached(folder, source, None, "coco", lambda: (truth, ()), smallest=0, settled_seconds=0.0)
"""


@pytest.mark.faults
@pytest.mark.endurance
@pytest.mark.timeout(900)
def test_killed_while_annotations_are_kept_the_next_process_reads_them_whole(
    make_coco: MakeCoco,
    reader: Reader,
    tmp_path: Path,
    fork_server: ForkServer,
    times: Callable[[int, int], int],
    record_fault: Callable[..., None],
) -> None:
    assert reader.folder is not None
    path = make_coco([(20, 30)], MASKED * 4_000)
    plain = load_coco(path, None, "pets").digest()
    program = tmp_path / "packing.py"
    program.write_text(PACKING)
    kills, halves, moments = times(1, 15), 0, random.Random(0)
    for _ in range(kills):
        process = fork_server.start(
            program=str(program),
            arguments=[str(path), str(reader.folder)],
            output=str(tmp_path / "output"),
            environment={},
        )
        deadline = time.monotonic() + 30
        while not list(reader.folder.glob("*.tmp")) and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.01))
        process.signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, (tmp_path / "output").read_text()
        halves += bool(list(reader.folder.glob("*.tmp")))
        os.utime(path)
        assert reader(path).digest() == plain
        assert not list(reader.folder.glob("*.tmp"))
    assert halves >= kills // 3
    record_fault(
        "Crashes",
        "killed while the packed annotations are written",
        made="`kill -9` of a process that writes them over and over",
        promised="the next process reads the annotations as they are, and no half file is left",
        tried=f"{kills} kills, {halves} of them with a file half written",
        happened="each time the same annotations; nothing left",
    )
