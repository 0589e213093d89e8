from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from detengine.checkpoint.files import load_file
from detengine.checkpoint.readers import read_file
from detengine.checkpoint.safetensors_file import load_safetensors, to_metadata

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "a.count": torch.tensor(3)}
WHOLE = save(TENSORS, to_metadata(["cat", "dog"], "SEED: 0\n"))


def test_tensors_class_names_and_configuration_come_back(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(WHOLE)
    entries = read_file(path)
    assert entries["model"].keys() == TENSORS.keys()
    assert all(torch.equal(entries["model"][name], tensor) for name, tensor in TENSORS.items())
    assert (entries["categories"], entries["config"]) == (["cat", "dog"], "SEED: 0\n")


def test_files_of_others_have_only_tensors(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(TENSORS, path)
    assert load_safetensors(path).keys() == {"model"}
    save_file(TENSORS, path, {"format": "pt"})
    assert load_safetensors(path).keys() == {"model"}


def test_tensors_outlive_their_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(WHOLE)
    tensor = load_safetensors(path)["model"]["a.weight"]
    path.write_bytes(bytes(len(WHOLE)))
    assert torch.equal(tensor, TENSORS["a.weight"])


@pytest.mark.parametrize("length", range(0, len(WHOLE), 7))
def test_a_truncated_file_is_an_error(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(WHOLE[:length])
    with pytest.raises(ValueError, match=r"x\.safetensors is (truncated|empty)"):
        load_safetensors(path)


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 7))
@settings(max_examples=200, deadline=None)
def test_a_flipped_bit_is_an_error_or_a_file_of_as_many_numbers(
    tmp_path_factory: pytest.TempPathFactory, place: int, bit: int
) -> None:
    mutated = bytearray(WHOLE)
    mutated[place] ^= 1 << bit
    path = tmp_path_factory.getbasetemp() / "flipped.safetensors"
    path.write_bytes(mutated)
    try:
        entries = load_safetensors(path)
    except ValueError:
        return
    assert sum(tensor.numel() for tensor in entries["model"].values()) <= 8 * 7  # bytes of numbers


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"categories": "["}, "'categories' in the metadata of .* are no JSON"),
        ({"categories": "3"}, "'categories' in .* are no list of class names: 3"),
        ({"categories": "[1]"}, "are no list of class names"),
    ],
)
def test_metadata_that_were_tampered_with_are_an_error(
    tmp_path: Path, metadata: dict[str, str], message: str
) -> None:
    path = tmp_path / "x.safetensors"
    save_file(TENSORS, path, metadata)
    with pytest.raises(ValueError, match=message):
        load_safetensors(path)


def test_what_is_no_file_of_weights_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        load_safetensors(path)
    save_file({}, path)
    with pytest.raises(ValueError, match="holds no tensors"):
        load_safetensors(path)
    torch.save({"a": torch.ones(1)}, path)
    with pytest.raises(ValueError, match="no safetensors file"):
        load_safetensors(path)
    path.rename(tmp_path / "y.pth")
    path.write_bytes(WHOLE)
    path.rename(tmp_path / "x.pth")
    with pytest.raises(ValueError, match="is not a checkpoint"):
        load_file(tmp_path / "x.pth")


def test_a_wrong_checksum_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(WHOLE)
    (tmp_path / "x.safetensors.sha256").write_text(f"{'0' * 64}  x.safetensors\n")
    with pytest.raises(ValueError, match="is damaged: its sha256 is"):
        load_safetensors(path)
