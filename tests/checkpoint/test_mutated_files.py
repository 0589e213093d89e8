"""Whatever a file of weights holds, loading it loads it or ends in a clear error."""

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from detengine.checkpoint.checkpointer import Checkpointer

CALLS = b"cposix\nsystem\n(S'echo this must never run'\ntR"
"""Opcodes that call os.system."""
OPCODES = st.sampled_from(
    [CALLS, b".", b"0", b"2", b"(", b"t", b"}", b"]", b"N", b"a", b"s", b"u", b"R", b"b", b"Q",
     b"h\x00", b"j\xff\xff\xff\x7f", b"q\xff", b"\x81", b"\x85", b"\x8a\x04\xff\xff\xff\x7f",
     b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n"]
)  # fmt: skip


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def bytes_of() -> dict[str, bytes]:
    """By suffix, a whole file of the model's weights."""
    state = make_model().state_dict()
    entries: dict[str, Any] = {"format": 1, "model": dict(state), "categories": ["cat"]}
    entries |= dict.fromkeys(("optimizer", "scheduler", "precision"))
    entries["ema"] = {"updates": 3, "weights": dict(state)}
    archive = io.BytesIO()
    torch.save(entries | {"iteration": 3, "config": ""}, archive)
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    return {
        ".pth": archive.getvalue(),
        ".pkl": pickle.dumps({"blobs": arrays}, protocol=2),
        ".safetensors": to_safetensors(dict(state)),
    }


WHOLE = bytes_of()
KINDS = st.sampled_from(sorted(WHOLE))


@st.composite
def truncated(draw: st.DrawFn, content: bytes) -> bytes:
    return content[: draw(st.integers(0, len(content) - 1))]


@st.composite
def with_other_bits(draw: st.DrawFn, content: bytes) -> bytes:
    damaged = bytearray(content)
    for bit in draw(st.lists(st.integers(0, 8 * len(content) - 1), min_size=1, max_size=5)):
        damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


@st.composite
def with_other_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    place = draw(st.integers(0, len(content)))
    return content[:place] + draw(st.binary(max_size=30)) + content[place + 10 :]


@st.composite
def with_opcodes(draw: st.DrawFn, content: bytes) -> bytes:
    """Into a pickle, or that of an archive."""
    if content[:2] == b"PK":
        entries = entries_of(content)
        [name] = [name for name in entries if name.endswith("data.pkl")]
        return to_archive(entries | {name: draw(with_opcodes(entries[name]))})
    place = draw(st.integers(0, len(content)))
    return content[:place] + b"".join(draw(st.lists(OPCODES, min_size=1))) + content[place:]


@st.composite
def with_other_entries(draw: st.DrawFn, content: bytes) -> bytes:
    """An archive whose entries are in another order, some renamed, exchanged or gone."""
    if content[:2] != b"PK":
        return draw(with_other_bytes(content))
    entries = entries_of(content)
    names = draw(st.permutations(sorted(entries)))
    kept = names[draw(st.integers(0, 2)) :]
    values = draw(st.permutations([entries[name] for name in kept])) if draw(st.booleans()) else [
        entries[name] for name in kept
    ]  # fmt: skip
    prefix = draw(st.sampled_from(["", "", "x/", "../"]))
    return to_archive({prefix + name: value for name, value in zip(kept, values, strict=True)})


def entries_of(archive: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        return {name: file.read(name) for name in file.namelist()}


def to_archive(entries: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for name, value in entries.items():
            file.writestr(name, value)
    return content.getvalue()


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, bytes]:
    """A suffix, and the content of a file."""
    kind = draw(KINDS)
    content = WHOLE[kind]
    of_parts = draw(st.sampled_from([None, with_opcodes, with_other_entries]))
    if of_parts is not None:
        content = draw(of_parts(content))
    of_bytes = draw(st.sampled_from([None, truncated, with_other_bits, with_other_bytes]))
    if of_bytes is not None:
        content = draw(of_bytes(content))
    return draw(st.sampled_from([kind, kind, *sorted(WHOLE)])), content


def load(path: Path) -> dict[str, Tensor]:
    """The weights that come into a model, if any do."""
    model = make_model()
    Checkpointer(model).load(path, strict=False)
    return model.state_dict()


@pytest.mark.parametrize("suffix", sorted(WHOLE))
def test_the_files_are_loaded_as_they_are(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"x{suffix}").write_bytes(WHOLE[suffix])
    loaded = load(tmp_path / f"x{suffix}")
    assert all(torch.equal(loaded[n], tensor) for n, tensor in make_model().state_dict().items())


# Strange objects make torch warn where it cannot raise, so that the warning is an error of its own.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(file=mutated())
def test_a_mutated_file_is_loaded_or_ends_in_a_clear_error(
    tmp_path: Path, file: tuple[str, bytes]
) -> None:
    suffix, content = file
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    message = ""
    try:
        load(path)
    except (ValueError, OSError) as error:
        message = str(error)
    assert path.name in message or not message


@pytest.mark.skipif(os.name != "posix", reason="names posix.system")
@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_no_place_in_a_file_lets_code_run(
    tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"x{suffix}"
    entries = entries_of(WHOLE[".pth"])
    inner = entries["archive/data.pkl"] if suffix == ".pth" else WHOLE[".pkl"]
    for place in range(2, len(inner), 17):
        content = inner[:place] + CALLS + inner[place:]
        if suffix == ".pth":
            content = to_archive(entries | {"archive/data.pkl": content})
        path.write_bytes(content)
        with pytest.raises(ValueError, match=path.name):
            load(path)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("content", [np.random.default_rng(0).bytes(n) for n in (1, 100, 10_000)])
@pytest.mark.parametrize("suffix", sorted(WHOLE))
def test_random_bytes_are_no_weights(tmp_path: Path, suffix: str, content: bytes) -> None:
    (tmp_path / f"x{suffix}").write_bytes(content)
    with pytest.raises(ValueError, match=f"x{suffix}"):
        load(tmp_path / f"x{suffix}")
