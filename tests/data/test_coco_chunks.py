import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as oracle

from detengine.data import coco, coco_file
from detengine.data.annotations import FoundImages
from detengine.data.chunk_processes import Chunk, read_chunks
from detengine.data.coco import load_coco
from detengine.data.coco_chunks import ChunkReader, KnownIds, known_ids_from_bytes
from detengine.data.coco_file import CocoFile, read_json
from detengine.data.coco_objects import ObjectReader
from detengine.data.object_columns import columns_from_bytes, columns_of
from detengine.structures.categories import Categories

MakeCoco = Callable[..., Path]
KNOWN = KnownIds(np.array([7, 3]), np.array([[20, 30], [25, 15]]), np.array([10, 20]))
PLAIN = {"id": 5, "image_id": 3, "category_id": 20, "bbox": [1, 2, 3.5, 4], "area": 14}
TRIANGLE = [[1, 1, 9, 1, 9, 9]]

anything = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 1 << 70), st.floats(allow_nan=False), st.text(),
    st.lists(st.one_of(st.integers(-9, 9), st.booleans(), st.text())),
    st.just(TRIANGLE), st.just({"size": [25, 15], "counts": [375]}), st.just([1, 2, 2, 3, 4, 0]),
)  # fmt: skip
keys = st.sampled_from(
    [*PLAIN, "iscrowd", "segmentation", "keypoints", "num_keypoints", "score", "attributes"]
)


def _slow(entries: list[Any]) -> Any:
    text = Chunk(orjson.dumps(entries)[1:-1])
    file = CocoFile(Path("a.json"), [], [], [text], (0, 0, 0))
    images = FoundImages([7, 3], ["7", "3"], [(20, 30), (25, 15)])
    return ObjectReader(file, Categories(("a", "b"), (10, 20)), images, 0).read_chunk(0, 0)


def _same(left: Any, right: Any) -> bool:
    return bool(left.to_bytes() == right.to_bytes())


@given(st.lists(st.dictionaries(keys, anything, max_size=3), min_size=1, max_size=3))
def test_what_is_read_typed_is_what_is_read_one_by_one(changes: list[dict[str, Any]]) -> None:
    entries = [{**PLAIN, **change} for change in changes]
    try:
        text = orjson.dumps(entries)[1:-1]
    except TypeError:  # beyond 64 bits
        text = json.dumps(entries).encode()[1:-1]
    found = ChunkReader(KNOWN).read(text)
    if found is not None:
        assert _same(found, _slow(orjson.loads(b"[" + text + b"]")))


def test_the_three_kinds_of_mask_and_keypoints_are_read_typed() -> None:
    dense = np.asfortranarray(np.random.default_rng(0).integers(0, 2, (25, 15), dtype=np.uint8))
    counts = oracle.encode(dense)["counts"].decode()
    entries = [
        {**PLAIN, "segmentation": TRIANGLE * 2, "keypoints": [1, 2, 2]},
        {**PLAIN, "segmentation": {"size": [25, 15], "counts": counts}, "iscrowd": 1},
        {**PLAIN, "segmentation": {"size": [25, 15], "counts": [300, 75]}, "num_keypoints": 4},
        {**PLAIN, "segmentation": []},
    ]
    found = ChunkReader(KNOWN).read(orjson.dumps(entries)[1:-1])
    assert found is not None
    assert _same(found, _slow(entries))
    assert found.masks[0] == oracle.merge(oracle.frPyObjects(TRIANGLE, 25, 15))["counts"]
    assert _same(columns_from_bytes(found.to_bytes()), found)


@pytest.mark.parametrize(
    "change",
    [
        {"image_id": 4}, {"image_id": 3.0}, {"image_id": 1 << 64}, {"category_id": 11},
        {"id": True}, {"id": "5"}, {"bbox": [1, 2, 3]}, {"bbox": None}, {"area": None},
        {"area": "1"}, {"iscrowd": 2}, {"segmentation": [[1, 2, 3]]}, {"segmentation": "x"},
        {"segmentation": [[1e308] * 6]}, {"segmentation": {"size": [9, 9], "counts": [81]}},
        {"keypoints": ["x"]}, {"num_keypoints": 1.5},
    ],
)  # fmt: skip
def test_whatever_is_doubtful_is_left_to_the_reader_that_can_speak(change: dict[str, Any]) -> None:
    reader = ChunkReader(KNOWN)
    assert reader.read(json.dumps(PLAIN).encode()) is not None
    assert reader.read(json.dumps({**PLAIN, **change}).encode()) is None


@pytest.mark.parametrize("text", [b"{}", b"3", b"", b"{", b'{"id": NaN}', b"\xff", b"[" * 5000])
def test_what_is_no_annotation_is_not_read(text: bytes) -> None:
    found = ChunkReader(KNOWN).read(text)
    assert found is None or len(found) == 0


def test_what_is_known_comes_back_from_bytes() -> None:
    again = known_ids_from_bytes(KNOWN.to_bytes())
    assert again.image_sizes.tolist() == [[20, 30], [25, 15]]
    assert again.category_ids.tolist() == [10, 20]


def _many(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is cut, and of many chunks."""
    monkeypatch.setattr(coco_file, "_WORTH_CUTTING", 0)
    monkeypatch.setattr(coco_file, "_CHUNK_BYTES", 300)
    monkeypatch.setattr(coco, "_WORTH_HELPERS", 4)
    return path


@pytest.fixture
def annotations() -> list[dict[str, Any]]:
    box = {"category_id": 10, "bbox": [2, 3, 4.5, 6]}
    return [
        {**box, "image_id": 1 + n % 2, "segmentation": [[1, 1, 9, 1, 9, 9 + n / 7]]}
        | ({"id": 2 * n + 1, "area": n / 3} if n != 17 else {})
        for n in range(40)
    ]


def _change(path: Path, **content: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | content))


@pytest.mark.parametrize("cores", [0, 2])
def test_a_file_in_chunks_is_the_file_in_one_piece(
    make_coco: MakeCoco,
    annotations: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
) -> None:
    path = make_coco([(20, 30), (25, 35)], annotations)
    whole = load_coco(path, None, "pets")
    _many(path, monkeypatch)
    monkeypatch.setattr(coco, "number_of_helpers", lambda: cores)
    assert len(read_json(path, "pets").chunks) > 10
    assert load_coco(path, None, "pets").digest() == whole.digest()
    assert whole.annotation_ids.tolist().count(18) == 1  # the one without an id: its position


@pytest.mark.parametrize(
    "extra",
    [
        {"parts": [{"a": 1}, {"b": 2}] * 60},
        {"note": 'a text with }, { in it and "annotations": [' * 20},
        {"categories": [{"x": 1}]},
        {"note": "\u00e4\u4e00\U0001f600" * 200},
    ],
)
def test_objects_and_texts_inside_of_annotations_do_not_mislead(
    make_coco: MakeCoco,
    annotations: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    extra: dict[str, Any],
) -> None:
    path = make_coco([(20, 30), (25, 35)], annotations)
    plain = load_coco(path, None, "pets").digest()
    _change(path, annotations=[{**each, **extra} for each in annotations])
    assert load_coco(path, None, "pets").digest() == plain
    _many(path, monkeypatch)
    assert load_coco(path, None, "pets").digest() == plain


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category_id": 3}, "annotation 61 has the unknown category 3"),
        ({"bbox": [99, 3, 4, 5]}, "the box of annotation 61 lies entirely outside"),
        ({"id": 3}, "annotation id 3 stands 2 times"),
        ({"keypoints": [1, 2]}, "keypoints of annotation 61 must be 0 times"),
    ],
)
def test_in_chunks_the_errors_are_those_of_one_piece(
    make_coco: MakeCoco,
    annotations: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    message: str,
) -> None:
    annotations[30] |= change
    path = _many(make_coco([(20, 30), (25, 35)], annotations), monkeypatch)
    monkeypatch.setattr(coco, "number_of_helpers", lambda: 2)
    with pytest.raises(ValueError, match=message):
        load_coco(path, None, "pets")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"bbox": [2', '"bbox": [NaN'),
        ("}, {", "},, {"),
        ("}, {", "} {"),
        ('"area": ', '"area": 0'),
    ],
)
def test_in_chunks_no_json_is_refused(
    make_coco: MakeCoco,
    annotations: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    old: str,
    new: str,
) -> None:
    path = _many(make_coco([(20, 30), (25, 35)], annotations), monkeypatch)
    before, mark, after = path.read_text().partition('"annotations"')
    parts = after.split(old)
    path.write_text(before + mark + old.join(parts[:20]) + new + old.join(parts[20:]))
    with pytest.raises(ValueError, match="is no complete JSON file"):
        load_coco(path, None, "pets")


def test_a_second_list_of_annotations_does_not_silently_win(
    make_coco: MakeCoco, annotations: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _many(make_coco([(20, 30), (25, 35)], annotations), monkeypatch)
    path.write_text(path.read_text()[:-1] + ', "annotations": []}')
    with pytest.raises(ValueError, match="has 'annotations' 2 times"):
        load_coco(path, None, "pets")


def test_keypoints_that_differ_between_chunks_are_refused(
    make_coco: MakeCoco, annotations: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    annotations[2] |= {"keypoints": [1, 2, 2]}
    path = _many(make_coco([(20, 30), (25, 35)], annotations), monkeypatch)
    points = load_coco(path, None, "pets").keypoints
    assert points is not None
    assert points.shape == (40, 1, 3)
    _change(path, annotations=[*annotations[:-1], {**annotations[-1], "keypoints": [1, 2, 2] * 2}])
    with pytest.raises(ValueError, match="keypoints of annotation 79 must be 1 times"):
        load_coco(path, None, "pets")


def test_a_helper_that_dies_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    text = b",".join([json.dumps(PLAIN).encode()] * 5)
    (tmp_path / "a").write_bytes(text)
    chunks = [Chunk(text, 0)] * 6
    monkeypatch.setattr("detengine.data.chunk_processes._PROGRAM", "raise SystemExit")
    with (tmp_path / "a").open("rb") as file:
        found = list(read_chunks(KNOWN, chunks, file, 2))
    assert [each is not None and len(each) for each in found] == [5] * 6
    assert "going on without it" in caplog.text
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with (tmp_path / "a").open("rb") as file:
        assert all(each is not None for each in read_chunks(KNOWN, chunks, file, 2))


def test_a_helper_imports_no_torch() -> None:
    program = "import sys, detengine.data.chunk_processes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_no_annotations_make_empty_columns() -> None:
    assert len(columns_of([])) == 0
    assert columns_of([]).boxes_xywh.shape == (0, 4)
