import os
import pickle
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detengine.checkpoint.array_pickle import load_pickle


class RunsCode:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("echo this must never run",)


class TakesAnExtension:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return __import__, ("antigravity",)


def pickled(path: Path, data: object, protocol: int = 2) -> Path:
    path.write_bytes(pickle.dumps(data, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<i8"])
def test_arrays_of_any_protocol_and_byte_order_come_back(
    tmp_path: Path, protocol: int, dtype: str
) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    data = {"blobs": {"a_w": array}, "cfg": "MODEL: {}", "iteration": 3}
    tensors = load_pickle(pickled(tmp_path / "x.pkl", data, protocol))
    assert list(tensors) == ["model"]
    assert torch.equal(tensors["model"]["a_w"].double(), torch.arange(6.0).view(2, 3).double())


def test_a_bare_dict_of_arrays_is_read_too(tmp_path: Path) -> None:
    path = pickled(tmp_path / "x.pkl", {"fc6_b": np.ones(3, np.float32)})
    assert torch.equal(load_pickle(path)["model"]["fc6_b"], torch.ones(3))


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("thing", "name"),
    [
        (RunsCode(), r"(posix|nt)\.system"),
        (TakesAnExtension(), r"(builtins|__builtin__)\.__import__"),
        (Counter(), r"collections\.Counter"),
        (np.float32(1), r"numpy\.core\.multiarray\.scalar"),
        (np.ma.zeros(3), r"numpy\.ma\.core\._mareconstruct"),
    ],
)
def test_a_pickle_that_asks_for_more_than_arrays_is_not_opened(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], thing: object, name: str, protocol: int
) -> None:
    path = pickled(tmp_path / "x.pkl", {"blobs": {"a_w": thing}}, protocol)
    with pytest.raises(ValueError, match=rf"holds the Python object {name}, .* could run any code"):
        load_pickle(path)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_pickle_is_an_error(tmp_path: Path, share: float) -> None:
    path = pickled(tmp_path / "x.pkl", {"blobs": {"a_w": np.ones(100)}})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"x\.pkl is truncated or no pickle of Caffe2"):
        load_pickle(path)


def test_a_pickle_may_hold_an_ordered_dict_as_state_dicts_are(tmp_path: Path) -> None:
    data = OrderedDict(model=OrderedDict(a=np.ones(2)), __author__="x")
    assert torch.equal(load_pickle(pickled(tmp_path / "x.pkl", data))["model"]["a"], torch.ones(2))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([1, 2], "holds no weights but a list"),
        ({"blobs": {}}, "holds no weights but a dict"),
        ({"model": {}, "__author__": "x"}, "holds no weights but a dict"),
        ({"blobs": {3: np.ones(1)}}, "have the name 3; expected text"),
        ({"blobs": {"a_w": "text"}}, "'a_w' .* is of the kind str; expected an array of numbers"),
        ({"blobs": {"a_w": np.array(["text"])}}, "is of the kind array of <U4"),
        ({"blobs": {"a_w": np.ones(1)}, "categories": "cat"}, "no list of class names: 'cat'"),
        ({"blobs": {"a_w": np.ones(1)}, "config": 3}, "'config' .* is no YAML text: 3"),
    ],
)
def test_a_pickle_without_weights_is_an_error(tmp_path: Path, data: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_pickle(pickled(tmp_path / "x.pkl", data))


def test_a_web_page_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_text("<!doctype html><html></html>")
    with pytest.raises(ValueError, match=r"x\.pkl is a web page"):
        load_pickle(tmp_path / "x.pkl")


def test_a_missing_file_and_a_wrong_checksum_are_errors(tmp_path: Path) -> None:
    path = pickled(tmp_path / "x.pkl", {"a_w": np.ones(2)})
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*y\.pkl.*there are: x\.pkl"):
        load_pickle(tmp_path / "y.pkl")
    (tmp_path / "x.pkl.sha256").write_text(f"{'0' * 64}  x.pkl\n")
    with pytest.raises(ValueError, match="is damaged: its sha256 is"):
        load_pickle(path)


def test_a_pickle_makes_no_array_larger_than_its_content(tmp_path: Path) -> None:
    shape = b"(\x8a\x05\x00\x00\x00\x00\x01t"  # (2**32,)
    (tmp_path / "x.pkl").write_bytes(b"\x80\x02}U\x03a_wcnumpy\nndarray\n(" + shape + b"tRs.")
    with pytest.raises(ValueError, match=r"x\.pkl is truncated or no pickle"):
        load_pickle(tmp_path / "x.pkl")


@pytest.mark.parametrize("dtype", ["longdouble", "complex64", "u8", "M8[s]"])
def test_an_array_of_no_kind_that_weights_have_is_an_error(tmp_path: Path, dtype: str) -> None:
    path = pickled(tmp_path / "x.pkl", {"a_w": np.zeros(2, dtype)})
    with pytest.raises(ValueError, match=r"'a_w' .* is of the kind array of .*array of numbers"):
        load_pickle(path)


def test_a_pickle_changes_nothing_for_the_next_one(tmp_path: Path) -> None:
    changes = b"\x80\x02cnumpy\ndtype\n(N}U\x0c__defaults__)stb."
    (tmp_path / "x.pkl").write_bytes(changes)
    with pytest.raises(ValueError, match=r"x\.pkl holds no weights"):
        load_pickle(tmp_path / "x.pkl")
    needs_defaults = b"cnumpy\ndtype\nU\x02f4\x85R"
    content = b"c_codecs\nencode\nU\x04\0\0\0\0U\x06latin1\x86R"
    array = b"cnumpy\nndarray\nK\x01\x85" + needs_defaults + content + b"\x87R"
    (tmp_path / "y.pkl").write_bytes(b"\x80\x02}U\x03a_w" + array + b"s.")
    assert torch.equal(load_pickle(tmp_path / "y.pkl")["model"]["a_w"], torch.zeros(1))


def test_a_memo_larger_than_the_file_is_refused_before_it_is_made(tmp_path: Path) -> None:
    path = tmp_path / "small.pkl"
    path.write_bytes(b"\x80\x02]r\xff\xff\xff\x03.")
    with pytest.raises(ValueError, match=r"it numbers an object 67108863, but has 9 bytes"):
        load_pickle(path)
