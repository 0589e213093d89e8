import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file as save_safetensors

from detengine.checkpoint.readers import read_file


def saved(path: Path, weights: dict[str, torch.Tensor], **entries: object) -> Path:
    torch.save({"model": weights, **entries}, path)
    return path


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".safetensors", ".bin", ""])
@pytest.mark.parametrize("kind", ["torch", "old torch", "pickle", "safetensors"])
def test_a_file_is_read_by_what_it_is_and_not_by_its_name(
    tmp_path: Path, kind: str, suffix: str
) -> None:
    if "torch" in kind and suffix == ".safetensors":
        pytest.skip("torch.load itself goes by this suffix")
    path = tmp_path / f"x{suffix}"
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"blobs": {"a": np.ones(3)}}, protocol=2))
    elif kind == "safetensors":
        save_safetensors({"a": torch.ones(3)}, path)
    else:
        torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=kind == "torch")
    assert torch.equal(read_file(path)["model"]["a"].double(), torch.ones(3).double())


@pytest.mark.parametrize(
    ("tensor", "kind"),
    [
        (torch.zeros(3).to_sparse(), r"torch\.float32, torch\.sparse_coo"),
        (torch.zeros(3, device="meta"), "the meta device, without any numbers"),
        (torch.zeros(3, dtype=torch.complex64), r"torch\.complex64"),
        (torch.zeros(3, dtype=torch.float8_e4m3fn), r"torch\.float8_e4m3fn"),
    ],
)
@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
def test_tensors_that_are_no_weights_are_named(
    tmp_path: Path, tensor: torch.Tensor, kind: str
) -> None:
    path = saved(tmp_path / "x.pth", {"fine": torch.zeros(1), "odd": tensor})
    with pytest.raises(ValueError, match=rf"'odd' in .*x\.pth is a tensor of {kind}; expected"):
        read_file(path)


def test_a_tensor_that_claims_more_than_its_file_has_is_refused(tmp_path: Path) -> None:
    huge = torch.zeros(1).expand(2**40)
    path = saved(tmp_path / "x.pth", {"huge": huge})
    with pytest.raises(ValueError, match=r"'huge' .* is said to have the shape \[1099511627776\]"):
        read_file(path)
    fine = {"a": torch.zeros(1)}
    path = saved(tmp_path / "x.pth", fine, format=1, ema={"weights": {"huge": huge}})
    with pytest.raises(ValueError, match=r"'huge' .* is said to have the shape"):
        read_file(path)


def test_weights_whose_names_are_no_text_are_refused(tmp_path: Path) -> None:
    torch.save({"model": {3: torch.zeros(1)}}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x\.pth (have the name 3|is no checkpoint)"):
        read_file(tmp_path / "x.pth")


def test_an_archive_that_unpacks_to_much_more_than_it_is_is_not_unpacked(tmp_path: Path) -> None:
    content = io.BytesIO()
    torch.save({"a": torch.zeros(10**6)}, content)
    with (
        zipfile.ZipFile(content) as whole,
        zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for name in whole.namelist():
            small.writestr(name, whole.read(name))
    with pytest.raises(ValueError, match=r"x\.pth would unpack to 4,0.* although it has"):
        read_file(tmp_path / "x.pth")


def test_entries_of_other_programs_are_not_taken_for_ours(tmp_path: Path) -> None:
    weights = {"a": torch.zeros(1)}
    path = saved(tmp_path / "x.pth", weights, config={"lr": 0.1}, categories=["cat"], epoch=3)
    assert read_file(path).keys() == {"model", "epoch"}
    path = saved(tmp_path / "x.pth", weights, format=1, config="SEED: 0", categories=["cat"])
    assert read_file(path)["categories"] == ["cat"]
