import hashlib
import urllib.request
from pathlib import Path

import pytest
from torchvision.models import get_model_weights

from detengine.checkpoint.catalog import find_source, find_weights
from detengine.checkpoint.conversion import Conventions

MASK_RCNN = "torchvision://maskrcnn_resnet50_fpn_v2"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache's folder; torch.hub's is in the folder `torch` beside it."""
    monkeypatch.setenv("DETENGINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_MODEL_ZOO", str(tmp_path / "old"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "cache"


def test_torchvisions_models_have_its_own_addresses_and_the_digits_in_them() -> None:
    for name, member in (
        ("maskrcnn_resnet50_fpn_v2", None),
        ("fasterrcnn_resnet50_fpn", "COCO_V1"),
        ("resnet50", "IMAGENET1K_V1"),
        ("resnet50", "IMAGENET1K_V2"),
    ):
        source = find_source(f"torchvision://{name}{f'/{member}' if member else ''}")
        assert source is not None
        weights = get_model_weights(name)[member or "DEFAULT"]
        assert source.address == weights.url
        assert source.file_name.rpartition("-")[2] == f"{source.sha256}.pth"
        assert source.sha256 is not None
        assert len(source.sha256) == 8


def test_torchvisions_detectors_have_the_names_of_their_labels_each_once() -> None:
    source = find_source(MASK_RCNN)
    assert source is not None
    assert source.class_names[:2] == ("person", "bicycle")
    assert (source.class_names[11], source.class_names[12]) == ("N/A 12", "stop sign")
    assert len(set(source.class_names)) == 90
    trunk = find_source("torchvision://resnet50")
    assert trunk is not None
    assert trunk.class_names == ()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision://resnet51", r"torchvision has no model 'resnet51'; did you mean .*resnet50"),
        ("torchvision://resnet50/V3", r"no such weights of resnet50, but IMAGENET1K_V1, .*DEFAULT"),
        ("timm://resnet51", r"timm has no model 'resnet51'; did you mean .*resnet50"),
        ("timm://resnet50.b", r"timm has no such weights of resnet50, but .*resnet50\.a1_in1k"),
    ],
)
def test_an_unknown_model_or_unknown_weights_get_the_known_ones(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_weights(name)


@pytest.mark.parametrize("name", ["timm://resnet50", "timm://resnet50.a1_in1k"])
def test_timms_models_are_looked_for_where_timm_looks_for_them(name: str, cache: Path) -> None:
    source = find_source(name)
    assert source is not None
    assert source.address.endswith("/timm/resnet50.a1_in1k/resolve/main/model.safetensors")
    assert source.conventions == Conventions(bgr255=False)
    cache.mkdir()
    (cache / "timm_resnet50.a1_in1k.safetensors").write_bytes(b"weights")
    assert find_weights(name) == cache / "timm_resnet50.a1_in1k.safetensors"


def test_a_file_whose_sha256_does_not_begin_as_its_name_says_is_refused(cache: Path) -> None:
    source = find_source(MASK_RCNN)
    assert source is not None
    cache.mkdir()
    (cache / source.file_name).write_bytes(b"not it")
    digest = hashlib.sha256(b"not it").hexdigest()
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"is {digest}, but .* begins with {source.sha256}"):
            find_weights(MASK_RCNN)
        (cache / f"{source.file_name}.sha256").write_text(f"{digest}  {source.file_name}\n")


def test_what_torch_hub_downloaded_is_looked_for_and_compared_too(tmp_path: Path) -> None:
    source = find_source(MASK_RCNN)
    assert source is not None
    folder = tmp_path / "torch/hub/checkpoints"
    folder.mkdir(parents=True)
    (folder / source.file_name).write_bytes(b"not it")
    with pytest.raises(ValueError, match=rf"{folder}/\S+ are damaged, or are others"):
        find_weights(MASK_RCNN)


@pytest.mark.parametrize("name", [MASK_RCNN, "timm://resnet50"])
def test_a_published_model_without_the_net_is_an_error_that_says_what_to_do(
    name: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # where nobody listens
    monkeypatch.setattr(urllib.request, "_opener", None)  # it has read the variable before
    source = find_source(name)
    assert source is not None
    with pytest.raises(OSError, match=r"could not be downloaded: .*refused") as error:
        find_weights(name)
    assert f"the weights {source.address} are not on this machine" in str(error.value)
    assert f"put it at {cache}/{source.file_name}, or set DETENGINE_CACHE" in str(error.value)
