import hashlib
from pathlib import Path

import pytest
import torch
from torch import nn

from detengine.checkpoint.checkpointer import Checkpointer
from detengine.checkpoint.export import SUFFIXES, export_weights
from detengine.checkpoint.readers import read_file


class Small(nn.Module):
    """A piece of a ResNet that every format has names for, with tied and strided tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.body = nn.Module()
        self.backbone.body.layer1 = nn.Sequential(nn.Module())
        self.backbone.body.layer1[0].conv1 = nn.Conv2d(4, 4, 1, bias=False)
        self.backbone.body.layer1[0].conv2 = nn.Conv2d(4, 4, 3, bias=False)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_was_written_fills_the_model_again(tmp_path: Path, suffix: str) -> None:
    model, other = Small(), Small()
    path = tmp_path / f"x{suffix}"
    count = export_weights(path, model.state_dict(), model, class_names=["cat"], config="SEED: 0\n")
    assert count == 2
    entries = Checkpointer(other, class_names=["cat"]).load(path)
    assert (entries["categories"], entries["config"]) == (["cat"], "SEED: 0\n")
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_checksum_stands_beside_and_nothing_else_is_left(tmp_path: Path, suffix: str) -> None:
    model = Small()
    path = tmp_path / f"x{suffix}"
    for _ in range(2):  # the second time over the first
        nn.init.normal_(model.backbone.body.layer1[0].conv1.weight)
        export_weights(path, model.state_dict(), model)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert (tmp_path / f"x{suffix}.sha256").read_text() == f"{digest}  x{suffix}\n"
        assert read_file(path)["model"]
    assert len(list(tmp_path.iterdir())) == 2


def test_tensors_that_share_memory_or_are_no_rows_are_written_too(tmp_path: Path) -> None:
    base = torch.arange(12.0).view(3, 4)
    state = {"whole": base, "part": base[1], "turned": base.T}
    export_weights(tmp_path / "x.safetensors", state, nn.Module())
    read = read_file(tmp_path / "x.safetensors")["model"]
    assert all(torch.equal(read[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("suffix", [".onnx", "", ".PTH"])
def test_another_suffix_is_an_error_that_names_those_there_are(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(ValueError, match=r"expected \.pth, \.safetensors, \.pkl"):
        export_weights(tmp_path / f"x{suffix}", {}, nn.Module())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_folder_that_is_not_there_is_an_error_that_names_it(tmp_path: Path, suffix: str) -> None:
    model = Small()
    with pytest.raises(OSError, match="gone"):
        export_weights(tmp_path / f"gone/x{suffix}", model.state_dict(), model)
