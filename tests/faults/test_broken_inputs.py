"""Hundreds of broken data sets: each ends in an error that names it, is counted, or is harmless."""

import hashlib
import logging
import re
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from detengine.config.load import load_config
from detengine.config.schema import Config
from detengine.data.build import build_datasets, make_data_loader, make_training_loader
from detengine.data.recognition import recognise
from detengine.doctor.data_sets import examine_data
from detengine.structures.finding import Finding
from detengine.structures.ground_truth import GroundTruth
from fault_record import asked_for_faults
from faults import (
    broken_coco,
    broken_files,
    broken_images,
    broken_names,
    broken_scenes,
    broken_voc,
    broken_yolo,
)
from faults.broken_inputs import Break, Case, Counted, Harmless, Kind, Refused
from faults.coco_oracle import assert_equal_to_pycocotools
from faults.sound_inputs import MODEL, write_sound

pytestmark = [
    pytest.mark.faults,
    pytest.mark.filterwarnings("ignore::UserWarning:PIL"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]

THEMES = {
    "images": broken_images.CASES,
    "COCO": broken_coco.CASES,
    "VOC": broken_voc.CASES,
    "YOLO": broken_yolo.CASES,
    "run files": broken_files.CASES,
    "names": broken_names.CASES,
    "LVIS and Cityscapes": broken_scenes.CASES,
}
SECONDS = 60
"""That no case may last, on a busy machine."""


class Seen(NamedTuple):
    """What a training sees. truth: None if it was not read; findings: the doctor's."""

    error: Exception | None = None
    digest: str = ""
    pixels: str = ""
    logged: str = ""
    findings: tuple[Finding, ...] = ()
    truth: GroundTruth | None = None


class TookTooLongError(BaseException):
    """No case may hang."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    def end(*_: object) -> None:
        raise TookTooLongError

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Kind], Path]:
    """(kind) -> a folder with the sound data set of that kind, to be copied."""
    root = tmp_path_factory.mktemp("sound")

    def folder_of(kind: Kind) -> Path:
        if not (root / kind).is_dir():
            write_sound(kind, root / kind)
        return root / kind

    return folder_of


@pytest.fixture(scope="module")
def seen_of_sound() -> dict[Kind, Seen]:
    """What was seen of each kind's sound data set, so that it is looked at once."""
    return {}


@pytest.fixture
def look(
    sound: Callable[[Kind], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> Callable[..., Seen]:
    """(kind, break, overrides) -> what a training and the doctor see of that data set."""

    def seen(kind: Kind, spoil: Break | None, overrides: tuple[str, ...] = ()) -> Seen:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(sound(kind), folder)
        if spoil is not None:
            spoil(folder)
        monkeypatch.chdir(folder)
        logging.getLogger("detengine").propagate = True
        caplog.clear()
        with caplog.at_level(logging.INFO, "detengine"), at_most(SECONDS):
            return _look(kind, overrides, caplog)

    return seen


def _look(kind: Kind, overrides: tuple[str, ...], caplog: pytest.LogCaptureFixture) -> Seen:
    try:
        cfg = _configuration(kind, overrides)
    except (ValueError, OSError) as error:
        return Seen(error)
    error: Exception | None = None
    truth, digest, pixels = None, "", ""
    try:
        truth, digest, pixels = _read(cfg)
    except (ValueError, OSError) as refusal:
        error = refusal
    logged = "\n".join(record.getMessage() for record in caplog.records)
    findings = examine_data(cfg, lambda _: None).findings
    return Seen(error, digest, pixels, logged, tuple(findings), truth)


def _configuration(kind: Kind, overrides: tuple[str, ...]) -> Config:
    """Of the run in this folder; of a folder that is recognised, as `train --data` finds it."""
    if kind not in ("folder", "file"):
        return _of_sound_file(kind, overrides)
    if kind == "file":
        return load_config(Path("run.yaml"), overrides)
    found = recognise(Path())
    Path("run.yaml").write_text(MODEL)
    pairs: dict[str, Any] = {
        "DATASETS.DEFINE": dict(found.definitions),
        "DATASETS.TRAIN": list(found.train),
        "DATASETS.TEST": list(found.val),
    }
    return load_config(
        Path("run.yaml"), [word for pair in pairs.items() for word in map(str, pair)]
    )


@cache
def _of_sound_file(kind: Kind, overrides: tuple[str, ...]) -> Config:
    """Each is read once: its paths start at the folder that is worked in."""
    return load_config(Path("run.yaml"), overrides)


def _read(cfg: Config) -> tuple[GroundTruth, str, str]:
    """All of the data sets through a training's loader; digests of what is in them."""
    if not cfg.DATASETS.TRAIN:
        make_data_loader(cfg)  # refuses
    datasets = build_datasets(cfg, cfg.DATASETS.TRAIN, for_scoring=True)
    digest, pixels = hashlib.sha256(), hashlib.sha256()
    for dataset in datasets:
        digest.update(dataset.ground_truth().digest().encode())
        for index in range(len(dataset)):
            image, target, _ = dataset[index]
            pixels.update(image.contiguous().numpy().data)
            for key in ("boxes", "labels", "keypoints"):
                if key in target:
                    digest.update(target[key].numpy().tobytes())  # type: ignore[literal-required]
    for _ in make_training_loader(cfg, datasets, 0, rank=0, world_size=1):
        pass
    return datasets[0].ground_truth(), digest.hexdigest(), pixels.hexdigest()


ALL = [(theme, case) for theme, cases in THEMES.items() for case in cases]
CUT = re.compile(r"cut at (\d+) of ")
"""In the names of the cases that cut a file somewhere."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """All cases where faults are asked for, else every fourth of those that are unlike others."""
    if "case" not in metafunc.fixturenames:
        return
    chosen = ALL
    if not asked_for_faults(metafunc.config):
        chosen = [each for each in ALL if is_unlike_others(each[1])][::4]
    names = [f"{theme}, {case.name}" for theme, case in chosen]
    metafunc.parametrize(("theme", "case"), chosen, ids=names)


def is_unlike_others(case: Case) -> bool:
    """Whether it is no cut at one place of many, or one of a quarter of these."""
    found = CUT.search(case.name)
    return found is None or int(found[1]) % 4 == 3


def test_each_is_refused_by_name_or_counted_or_harmless(
    theme: str,
    case: Case,
    look: Callable[..., Seen],
    seen_of_sound: dict[Kind, Seen],
    held: Counter[tuple[str, str]],
    record_fault: Callable[..., None],
) -> None:
    seen = look(case.kind, case.spoil, case.overrides)
    if isinstance(case.promise, Refused):
        _assert_refused(seen, case.promise)
    elif isinstance(case.promise, Counted):
        _assert_counted(seen, case.promise)
    else:
        _assert_as_the_other(seen, case, look, seen_of_sound)
    if case.kind in ("coco", "keypoints") and seen.truth is not None and seen.error is None:
        assert_equal_to_pycocotools(seen.truth, Path("a.json"))
        held[theme, "oracle"] += 1
    held[theme, type(case.promise).__name__] += 1
    _record(theme, held, record_fault)


@pytest.fixture(scope="module")
def held() -> Counter[tuple[str, str]]:
    """How many cases of a theme kept which promise."""
    return Counter()


def _record(theme: str, held: Counter[tuple[str, str]], record_fault: Callable[..., None]) -> None:
    """A row for all that have been tried of a theme, the last of which is complete."""
    refused, counted, harmless = (held[theme, each] for each in ("Refused", "Counted", "Harmless"))
    compared = held[theme, "oracle"]
    equal = f", {compared} of them as pycocotools reads and scores them" if compared else ""
    record_fault(
        "Data",
        f"broken {theme}",
        made="one thing of a sound data set is broken",
        promised="an error that names it, of reader and doctor alike; or a count; or the numbers "
        "of sound data",
        tried=f"{refused + counted + harmless} data sets",
        happened=f"{refused} refused by name, {counted} counted, {harmless} read as sound ones"
        + equal,
    )


def _assert_refused(seen: Seen, promise: Refused) -> None:
    assert seen.error is not None, "it was read"
    message = str(seen.error)
    assert re.search(promise.pattern, message, re.DOTALL), message
    assert len(message) < 5000
    if seen.findings or seen.logged:
        errors = [f"{e.where}: {e.what} {e.cure}" for e in seen.findings if e.severity == "error"]
        assert re.search(promise.pattern, "\n".join(errors), re.DOTALL), errors


def _assert_counted(seen: Seen, promise: Counted) -> None:
    assert seen.error is None, seen.error
    said = [f"{each.what} {each.cure}" for each in seen.findings]
    assert re.search(promise.pattern, "\n".join([seen.logged, *said])), (seen.logged, said)


def _assert_as_the_other(
    seen: Seen, case: Case, look: Callable[..., Seen], seen_of_sound: dict[Kind, Seen]
) -> None:
    assert isinstance(case.promise, Harmless)
    assert seen.error is None, seen.error
    assert not [each for each in seen.findings if each.severity == "error"]
    like = case.promise.like
    if like is None and case.kind not in seen_of_sound:
        seen_of_sound[case.kind] = look(case.kind, None)
    other = seen_of_sound[case.kind] if like is None else look(case.kind, like, case.overrides)
    assert other.error is None, other.error
    assert seen.digest == other.digest
    if case.promise.pixels:
        assert seen.pixels == other.pixels
