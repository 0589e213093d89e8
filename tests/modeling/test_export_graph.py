"""What is exported, run by torch: it finds what the model finds."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from detengine.config.schema import Config
from detengine.exporting import cut_of
from detengine.modeling.build import build_detection_model
from detengine.modeling.export_agreement import Agreement
from detengine.modeling.export_onnx import TORCH, make_exportable, raise_if_torch_too_old
from modeling.exportable_models import (
    ARITHMETIC,
    C4,
    KEYPOINTS,
    PREDECESSOR,
    RETINANET,
    SMALL,
    speaking_up,
)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="mask r-cnn"),
        pytest.param(KEYPOINTS, id="keypoint r-cnn"),
        pytest.param({"MODEL.CLS_AGNOSTIC_BBOX_REG": "True"}, id="one box for all classes"),
        pytest.param({f"{ARITHMETIC}.MIN_DETECTION_SIZE": "12"}, id="no small ones"),
        pytest.param({f"{ARITHMETIC}.ROI_ALIGNED": "True"}, id="aligned"),
        pytest.param({"MODEL.RPN_ONLY": "True", "MODEL.MASK_ON": "False"}, id="proposals"),
        pytest.param(PREDECESSOR, id="the predecessor's arithmetic"),
        pytest.param(PREDECESSOR | KEYPOINTS, id="its keypoints"),
    ],
)
def test_an_r_cnn_finds_the_same_image_by_image_and_as_a_batch(
    settings: dict[str, str],
    make_config: Callable[..., Config],
) -> None:
    assert_same_detections(make_config(SMALL | settings))


def test_a_c4_model_finds_the_same(make_config: Callable[..., Config]) -> None:
    assert_same_detections(make_config(SMALL | C4))


@pytest.mark.parametrize("arithmetic", [{}, PREDECESSOR], ids=["continuous", "inclusive"])
def test_a_retinanet_finds_the_same(
    arithmetic: dict[str, str],
    make_config: Callable[..., Config],
) -> None:
    assert_same_detections(make_config(SMALL | RETINANET | arithmetic))


def assert_same_detections(cfg: Config) -> None:
    torch.manual_seed(0)
    model = speaking_up(build_detection_model(cfg))
    exportable = make_exportable(model)
    batch = torch.randint(0, 256, (2, 3, 97, 130), dtype=torch.uint8)
    batch[1] = batch[1] // 4 + 60
    agreement = Agreement()
    with torch.inference_mode():
        found = dict(zip(exportable.output_names, exportable(batch), strict=True))
        expected: list[dict[str, Tensor]] = model(list(batch))
    image_index = found.pop("image_index")
    for index, of_image in enumerate(expected):
        own = {name: values[image_index == index] for name, values in found.items()}
        assert len(own["scores"]) > 0
        assert own["scores"].diff().le(0).all(), "the best first"
        agreement.add(of_image, own, cut_of(model))
    assert agreement.problems() == []
    assert agreement.one_sided == 0
    assert max(agreement.worst.values()) < 1e-3


def test_the_model_is_copied_and_stays_as_it_was(make_config: Callable[..., Config]) -> None:
    model = build_detection_model(make_config(SMALL)).train()
    before = [type(part) for part in model.modules()]
    make_exportable(model)
    assert [type(part) for part in model.modules()] == before
    assert model.training


def test_deformable_convolutions_are_refused_with_their_key(
    make_config: Callable[..., Config],
) -> None:
    deformed = {"MODEL.RESNETS.STAGE_WITH_DCN": "(False, True, True, False)"}
    body = {"MODEL.BACKBONE.CONV_BODY": "R-50-FPN"}
    model = build_detection_model(make_config(SMALL | body | deformed))
    with pytest.raises(ValueError, match="STAGE_WITH_DCN"):
        make_exportable(model)


def test_a_foreign_model_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear; exported are"):
        make_exportable(nn.Linear(1, 1))


@pytest.mark.parametrize("version", ["2.6.0+cu124", "2.8.1"])
def test_a_torch_whose_exporter_cannot_is_refused_with_the_one_that_can(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    with pytest.raises(ImportError, match=rf"needs torch {TORCH} or newer, but {version[:5]}"):
        raise_if_torch_too_old()


def test_one_that_can_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for version in (f"{TORCH}.0", "2.14.1+cu130", "3.0"):
        monkeypatch.setattr(torch, "__version__", version)
        raise_if_torch_too_old()
