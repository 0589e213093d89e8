"""For all tests: a tiny run on drawn shapes, two ranks, and a count of what is read by the host."""

import json
import logging
import math
import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from PIL import Image, ImageDraw
from torch.utils._python_dispatch import TorchDispatchMode

from detengine.monitor.logs import close_logging
from fault_record import (  # noqa: F401 (pytest finds its hooks and fixtures here)
    pytest_addoption,
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_sessionfinish,
    record_fault,
    times,
)
from full_disk import new_disk  # noqa: F401 (a fixture)
from https_server import certificate, https_server, make_certificate  # noqa: F401
from processes import SECONDS, ForkServer

CONFIG = """\
CONVENTIONS: modern
OUTPUT_DIR: {folder}/run
REPORT: False
DATASETS:
  ROOT: {folder}
  DEFINE:
    shapes_train: {{FORMAT: coco, IMAGES: images, ANNOTATIONS: train.json}}
    shapes_val: {{FORMAT: coco, IMAGES: images, ANNOTATIONS: val.json}}
    voc_train: {{FORMAT: voc, ROOT: voc, SPLIT: train}}
    voc_val: {{FORMAT: voc, ROOT: voc, SPLIT: val}}
  TRAIN: [shapes_train]
  TEST: [shapes_val]
INPUT: {{MIN_SIZE_TRAIN: [96], MAX_SIZE_TRAIN: 128, MIN_SIZE_TEST: 96, MAX_SIZE_TEST: 128}}
DATALOADER: {{NUM_WORKERS: 0}}
MODEL:
  DEVICE: cpu
  MASK_ON: True
  BACKBONE: {{CONV_BODY: R-18-FPN, NORM: GN, FREEZE_CONV_BODY_AT: 0}}
  RESNETS: {{STEM_OUT_CHANNELS: 16, RES2_OUT_CHANNELS: 64, BACKBONE_OUT_CHANNELS: 32}}
  RPN:
    ANCHOR_STRIDE: [4, 8]
    ANCHOR_SIZES: [24, 48]
    PRE_NMS_TOP_N_TRAIN: 200
    FPN_POST_NMS_TOP_N_TRAIN: 100
    FPN_POST_NMS_TOP_N_TEST: 50
  ROI_HEADS: {{BATCH_SIZE_PER_IMAGE: 32, POSITIVE_FRACTION: 0.5}}
  ROI_BOX_HEAD:
    POOLER_SCALES: [0.25, 0.125]
    POOLER_SAMPLING_RATIO: 1
    MLP_HEAD_DIM: 128
  ROI_MASK_HEAD:
    POOLER_SCALES: [0.25, 0.125]
    POOLER_SAMPLING_RATIO: 1
    CONV_LAYERS: [32, 32]
SOLVER:
  OPTIMIZER: adamw
  SCHEDULE: onecycle
  BASE_LR: 0.003
  IMS_PER_BATCH: 2
  MAX_ITER: 4
  LOG_PERIOD: 2
TEST: {{IMS_PER_BATCH: 2, PICTURES: 2}}
"""

CATEGORY_IDS = {"disc": 3, "bar": 7, "wedge": 20}
COLOURS = {"disc": (250, 210, 90), "bar": (90, 200, 250), "wedge": (240, 110, 190)}


@pytest.fixture(autouse=True)
def _left_as_it_was() -> Iterator[None]:
    """No test hears another one's log."""
    yield
    close_logging()


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tests are small: more threads gain nothing, and would make sums depend on the machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def write_tiny_run() -> Callable[[Path], Path]:
    """(folder) -> the path of a configuration; its data are written into the folder, too.

    shapes_train, shapes_val: COCO, 7 and 4 JPEGs, polygons of three classes (disc, bar, wedge), the
    last training image without any; voc_train, voc_val: boxes of the same images in VOC's layout.
    """
    return _write_tiny_run


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of a tiny run, and its data; to be read only. Give it an OUTPUT_DIR."""
    return _write_tiny_run(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def interrupted_at() -> Callable[[str], AbstractContextManager[None]]:
    """(text) -> a block in which Ctrl-C is pressed when the log has a line with that text."""
    return _interrupted_at


@contextmanager
def _interrupted_at(text: str) -> Iterator[None]:
    class PressCtrlC(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if text in record.getMessage():
                os.kill(os.getpid(), signal.SIGINT)

    handler = PressCtrlC()
    logging.getLogger("detengine").addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger("detengine").removeHandler(handler)


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    server = ForkServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def run_ranks(
    fork_server: ForkServer, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., list[str]]:
    """(count, program, *arguments, codes=None, seconds=60) -> what each rank printed.

    program: a file, or None for the command line of detengine. codes: the ranks' exit codes; None
    if all end well.
    """

    def run(
        count: int,
        program: Path | None,
        *arguments: object,
        codes: Sequence[int] | None = None,
        seconds: float = SECONDS,
    ) -> list[str]:
        output = tmp_path_factory.mktemp("ranks") / "output"
        processes = fork_server.start_ranks(count, program, arguments, output)
        ended = [process.wait(seconds) for process in processes]
        printed = [Path(f"{output}.rank{rank}").read_text() for rank in range(count)]
        assert ended == list(codes or [0] * count), "\n".join(printed)
        return printed

    return run


@pytest.fixture(scope="module")
def two_ranks(
    request: pytest.FixtureRequest,
    run_ranks: Callable[..., list[str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> list[dict[str, Any]]:
    """What the test's neighbour ranks_program.py saw on each of two processes."""
    folder = tmp_path_factory.mktemp("two_ranks")
    run_ranks(2, request.path.parent / "ranks_program.py", folder)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


class HostReads(TorchDispatchMode):
    """Counts what makes the host wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero"):
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def host_reads(monkeypatch: pytest.MonkeyPatch) -> HostReads:
    """Enter it where nothing may be read; its `counts` say what was."""
    mode = HostReads()
    for name in ("cpu", "tolist", "numpy", "item"):
        original = getattr(torch.Tensor, name)

        def counted(self: Any, *args: Any, _name: str = name, _original: Any = original) -> Any:
            mode.counts[_name] += 1
            return _original(self, *args)

        monkeypatch.setattr(torch.Tensor, name, counted)
    return mode


class Shape(NamedTuple):
    """A polygon of a class. corners: (x, y) in pixels."""

    name: str
    corners: list[tuple[float, float]]

    def box_xyxy(self) -> tuple[float, float, float, float]:
        xs, ys = zip(*self.corners, strict=True)
        return min(xs), min(ys), max(xs), max(ys)


class Picture(NamedTuple):
    """A drawn image. size: (width, height)."""

    name: str
    size: tuple[int, int]
    shapes: list[Shape]


def _write_tiny_run(folder: Path) -> Path:
    names_of_image = ["disc bar", "wedge disc", "bar wedge", "disc", "wedge", "bar disc", ""]
    train = [_picture(f"train_{i}", names.split()) for i, names in enumerate(names_of_image)]
    val = [_picture(f"val_{i}", names.split()) for i, names in enumerate(names_of_image[:4])]
    for name, pictures in (("train", train), ("val", val)):
        _write_coco(folder, name, pictures)
        _write_voc(folder / "voc", name, pictures)
    path = folder / "tiny.yaml"
    path.write_text(CONFIG.format(folder=folder))
    return path


def _picture(name: str, class_names: list[str]) -> Picture:
    """Shapes side by side, of 32 pixels or more."""
    generator = random.Random(name)
    width, height = size = generator.choice([(128, 96), (112, 100), (96, 120)])
    room = width / max(len(class_names), 1)
    shapes = []
    for place, class_name in enumerate(class_names):
        wide, high = generator.uniform(0.7, 0.9) * min(room, 64), generator.uniform(32, 60)
        left = round(place * room + generator.uniform(0.02, 0.98) * (room - wide))
        top = round(generator.uniform(0, height - high))
        box = (left, top, left + round(wide), top + round(high))
        shapes.append(Shape(class_name, _corners(class_name, box)))
    return Picture(name, size, shapes)


def _corners(name: str, box: tuple[int, int, int, int]) -> list[tuple[float, float]]:
    x1, y1, x2, y2 = box
    if name == "bar":
        return [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
    if name == "wedge":
        return [((x1 + x2) / 2, y1), (x2, y2), (x1, y2)]
    turns = [math.tau * step / 32 for step in range(32)]
    return [
        ((x1 + x2) / 2 + (x2 - x1) / 2 * math.cos(t), (y1 + y2) / 2 + (y2 - y1) / 2 * math.sin(t))
        for t in turns
    ]


def _draw(picture: Picture) -> Image.Image:
    image = Image.new("RGB", picture.size, (30, 35, 45))
    draw = ImageDraw.Draw(image)
    for shape in picture.shapes:
        draw.polygon(shape.corners, fill=COLOURS[shape.name])
    return image


def _write_coco(folder: Path, name: str, pictures: list[Picture]) -> None:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for image_id, picture in enumerate(pictures, start=100):
        _draw(picture).save(folder / "images" / f"{picture.name}.jpg", quality=95)
        width, height = picture.size
        images.append(
            {"id": image_id, "file_name": f"{picture.name}.jpg", "width": width, "height": height}
        )
        for shape in picture.shapes:
            annotations.append(_annotation(len(annotations) + 1, image_id, shape))
    categories = [{"id": i, "name": category} for category, i in CATEGORY_IDS.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / f"{name}.json").write_text(json.dumps(content))


def _annotation(annotation_id: int, image_id: int, shape: Shape) -> dict[str, Any]:
    x1, y1, x2, y2 = shape.box_xyxy()
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": CATEGORY_IDS[shape.name],
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "segmentation": [[number for corner in shape.corners for number in corner]],
    }


def _write_voc(root: Path, split: str, pictures: list[Picture]) -> None:
    for part in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (root / part).mkdir(parents=True, exist_ok=True)
    stems = "".join(f"{picture.name}\n" for picture in pictures)
    (root / "ImageSets/Main" / f"{split}.txt").write_text(stems)
    for picture in pictures:
        _draw(picture).save(root / "JPEGImages" / f"{picture.name}.jpg", quality=95)
        objects = ""
        for shape in picture.shapes:
            x1, y1, x2, y2 = shape.box_xyxy()
            objects += (
                f"<object><name>{shape.name}</name><bndbox><xmin>{x1 + 1}</xmin>"
                f"<ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
            )
        page = f"<annotation><filename>{picture.name}.jpg</filename>{objects}</annotation>"
        (root / "Annotations" / f"{picture.name}.xml").write_text(page)
