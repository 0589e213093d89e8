import argparse
import hashlib
import os
import pickle
import shutil
import subprocess
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from detengine.checkpoint.files import load_file, save_file


class RunsCode:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("echo this must never run",)


def checkpoint(value: float = 1.0) -> dict[str, object]:
    return {"model": {"weight": torch.full((40, 50), value)}, "iteration": 7, "nested": [(1, None)]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model_0000007.pth"


def test_what_was_saved_comes_back(path: Path) -> None:
    save_file(path, checkpoint())
    data = load_file(path)
    assert torch.equal(data["model"]["weight"], torch.ones(40, 50))
    assert {name: data[name] for name in data if name != "model"} == {
        "iteration": 7,
        "nested": [(1, None)],
    }


def test_the_same_data_give_the_same_bytes_under_any_name(path: Path) -> None:
    other = path.with_name("other.pth")
    save_file(path, checkpoint())
    save_file(other, load_file(path))
    assert path.read_bytes() == other.read_bytes()


def test_the_checksum_is_the_one_sha256sum_writes_and_checks(path: Path) -> None:
    save_file(path, checkpoint())
    line = path.with_name(path.name + ".sha256").read_text()
    assert line == f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
    if shutil.which("sha256sum"):
        command = ["sha256sum", "--check", "--strict", f"{path.name}.sha256"]
        subprocess.run(command, cwd=path.parent, check=True, capture_output=True)


def test_nothing_is_left_beside_the_file_and_its_checksum(path: Path) -> None:
    save_file(path, checkpoint())
    save_file(path, checkpoint(2.0))
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name, f"{path.name}.sha256"]


@pytest.mark.parametrize("has_checksum", [True, False])
@pytest.mark.parametrize("killed_at", [0, 1, 2])
def test_killed_at_any_rename_the_file_is_the_old_or_the_new_one_whole(
    path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int, has_checksum: bool
) -> None:
    save_file(path, checkpoint(1.0))
    if not has_checksum:
        path.with_name(path.name + ".sha256").unlink()
    renames = 0
    rename = os.replace

    def killed(source: Path, target: Path) -> None:
        nonlocal renames
        if renames == killed_at:
            raise KeyboardInterrupt
        renames += 1
        rename(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save_file(path, checkpoint(2.0))
    monkeypatch.undo()
    expected = 2.0 if killed_at == 2 else 1.0
    assert load_file(path)["model"]["weight"][0, 0] == expected
    save_file(path, checkpoint(3.0))
    assert load_file(path)["model"]["weight"][0, 0] == 3.0


@pytest.mark.parametrize("killed_at", [0, 1])
def test_killed_at_the_first_checkpoint_there_is_none_and_not_half_a_one(
    path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    names: list[str] = []

    def killed(source: Path, target: Path) -> None:
        if len(names) == killed_at:
            raise KeyboardInterrupt
        names.append(Path(target).name)
        Path(source).rename(target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save_file(path, checkpoint())
    assert not path.exists()
    assert names == [f"{path.name}.sha256"][:killed_at]  # the checksum is in place first


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (np.float64(0.5), "numpy.float64"),
        (np.zeros(3), "numpy.ndarray"),
        (Path("x"), "pathlib"),
        (argparse.Namespace(), "argparse.Namespace"),
        ({1, 2}, "builtins.set"),
    ],
)
def test_a_value_that_is_not_plain_is_refused_with_its_place(
    path: Path, value: object, kind: str
) -> None:
    data = {**checkpoint(), "meters": {"loss": [1.0, value]}}
    with pytest.raises(TypeError, match=rf"\['meters'\]\['loss'\]\[1\] is a {kind}.*tolist\(\)"):
        save_file(path, data)
    assert not list(path.parent.iterdir())


def test_a_key_that_is_not_plain_is_refused(path: Path) -> None:
    with pytest.raises(TypeError, match=r"\['meters'\], a key is a numpy.int64"):
        save_file(path, {**checkpoint(), "meters": {np.int64(1): 1}})


def test_a_bare_state_dict_is_a_model(path: Path) -> None:
    torch.save(OrderedDict(weight=torch.ones(2)), path)
    data = load_file(path)
    assert list(data) == ["model"]
    assert torch.equal(data["model"]["weight"], torch.ones(2))


def test_a_file_of_before_torch_1_6_is_read(path: Path) -> None:
    torch.save(checkpoint(), path, _use_new_zipfile_serialization=False)
    assert load_file(path)["iteration"] == 7


def test_a_missing_file_is_an_error_that_lists_what_is_there(path: Path) -> None:
    save_file(path, checkpoint())
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*x\.pth.*: model_0000007\.pth"):
        load_file(path.with_name("x.pth"))
    with pytest.raises(FileNotFoundError, match=r"There is no \.pth file in .*nowhere"):
        load_file(path.parent / "nowhere" / "x.pth")


def test_a_folder_is_an_error_that_lists_what_is_in_it(path: Path) -> None:
    save_file(path, checkpoint())
    with pytest.raises(IsADirectoryError, match=r"is a folder.*model_0000007\.pth"):
        load_file(path.parent)


def test_an_empty_file_is_an_error(path: Path) -> None:
    path.touch()
    with pytest.raises(ValueError, match="is empty: its writing was cut off"):
        load_file(path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_a_truncated_file_is_an_error(path: Path, zipped: bool, share: float) -> None:
    torch.save(checkpoint(), path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"is truncated: .* cut off \([\d,]+ bytes are there\)"):
        load_file(path)


def test_every_flipped_bit_is_noticed(path: Path) -> None:
    save_file(path, checkpoint())
    whole = path.read_bytes()
    for position in range(0, len(whole), len(whole) // 20):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"is damaged: its sha256 is .* Copy it again"):
            load_file(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_would_run_code_is_not_opened(
    path: Path, zipped: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.save({"model": RunsCode()}, path, _use_new_zipfile_serialization=zipped)
    named = r" \(posix\.system\)" if zipped and os.name == "posix" else ""
    with pytest.raises(ValueError, match=rf"holds Python objects{named}, .* could run any code"):
        load_file(path)
    assert capfd.readouterr().out == ""


def test_a_plain_pickle_that_would_run_code_is_not_opened(
    path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path.write_bytes(pickle.dumps({"model": RunsCode()}, protocol=2))
    with pytest.raises(ValueError, match=r"holds Python objects, .* could run any code"):
        load_file(path)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("content", [b"hello, this is text\n", b"\x89PNG\r\n", b"{}", b"\x00" * 99])
def test_a_file_that_torch_did_not_write_is_an_error(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"is not a checkpoint: torch\.save did not write it"):
        load_file(path)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ({"state_dict": {"a": torch.ones(1)}, "epoch": 3}, r"a dict of state_dict \(dict\), epoch"),
        ({}, "an empty dict"),
        ([torch.ones(1)], "a list"),
        (3, "a int"),
        ({"model": {}}, r"a dict of model \(dict\), and under 'model' an empty dict"),
        ({"model": {"model": {"a": torch.ones(1)}}}, r".*under 'model' a dict of model \(dict\)"),
        ({"model": {"a": torch.ones(1), "b": 3}}, r".* a dict of a \(Tensor\), b \(int\)"),
        (dict.fromkeys(map(str, range(20))), r"a dict of 0 \(NoneType\), .*, \.\.\."),
    ],
)
def test_a_torch_file_without_a_model_is_an_error_that_says_what_is_in_it(
    path: Path, data: object, found: str
) -> None:
    torch.save(data, path)
    with pytest.raises(ValueError, match=rf"is no checkpoint: it holds {found}.*; expected a dict"):
        load_file(path)


@pytest.mark.parametrize("start", [b"<!DOCTYPE html>", b"\n <html>", b"\xef\xbb\xbf<?xml version"])
def test_a_web_page_in_the_place_of_weights_is_called_one(path: Path, start: bytes) -> None:
    path.write_bytes(start + b"<body>404 Not Found</body></html>")
    with pytest.raises(ValueError, match=r"is a web page and no weights.*delete it, and fetch"):
        load_file(path)


def test_a_missing_folder_is_an_error_that_names_it_and_the_cure(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*gone; create it or set"):
        save_file(tmp_path / "gone" / "x.pth", checkpoint())


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes anywhere")
def test_a_folder_without_permission_is_an_error_that_names_it_and_the_cure(path: Path) -> None:
    path.parent.chmod(0o500)
    with pytest.raises(PermissionError, match="may not be written to; allow it or set another"):
        save_file(path, checkpoint())


def test_a_full_disk_is_an_error_and_leaves_the_old_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(path, checkpoint(1.0))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device; [\d,]+ MiB are free in .*; make"):
        save_file(path, checkpoint(2.0))
    assert load_file(path)["model"]["weight"][0, 0] == 1.0
    assert not list(path.parent.glob("*.tmp"))
