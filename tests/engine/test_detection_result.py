"""What is found in a picture, read, filtered, drawn and handed on."""

import builtins
import warnings
from dataclasses import FrozenInstanceError, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from detengine.engine.detection_result import DetectionResult
from detengine.report.draw import draw_prediction
from detengine.structures.prediction import Prediction

IMAGE = torch.full((3, 480, 600), 128, dtype=torch.uint8)
BOXES = torch.tensor([[50.0, 60, 150, 160], [300, 200, 500, 400], [10, 10, 90, 50]])


def make_result(**fields: Any) -> DetectionResult:
    """Three detections: two cats, from score 0.9 on, and a dog; a square mask in each box."""
    given: dict[str, Any] = {
        "labels": torch.tensor([1, 2, 1]),
        "mask_probs": torch.ones(3, 28, 28),
        **fields,
    }
    prediction = Prediction(BOXES, torch.tensor([0.9, 0.6, 0.3]), (480, 600), **given)
    return DetectionResult(prediction, ("cat", "dog"), IMAGE)


@pytest.fixture(scope="module")
def supervision() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it would be faster with OpenCV
        return pytest.importorskip("supervision")


def test_it_reads_as_what_was_found() -> None:
    result = make_result()
    assert len(result) == 3
    assert str(result) == "2 cat, 1 dog"
    assert repr(result) == ("<2 cat, 1 dog in 600 x 480 pixels, scores 0.30 to 0.90, with masks>")
    assert result.class_names == ("cat", "dog", "cat")
    first, *_ = result
    assert first.class_name == "cat"
    assert first.box_xyxy == (50.0, 60.0, 150.0, 160.0)
    assert first.rle == (result.rles or [])[0]


def test_nothing_found_is_a_result_too() -> None:
    result = make_result().filtered(0.95)
    assert (len(result), list(result), str(result)) == (0, [], "nothing")
    assert result.masks is not None
    assert result.masks.shape == (0, 480, 600)
    assert result.to_coco(1) == []
    assert np.array_equal(np.asarray(result.draw()), IMAGE.permute(1, 2, 0).numpy())


def test_it_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        make_result().classes = ()  # type: ignore[misc]


def test_it_is_filtered_by_score_and_class() -> None:
    result = make_result()
    assert result.filtered(0.6).scores.tolist() == pytest.approx([0.9, 0.6])
    cats = result.filtered(classes=["cat"])
    assert cats.class_names == ("cat", "cat")
    assert cats.rles == [(result.rles or [])[0], (result.rles or [])[2]]
    with pytest.raises(ValueError, match=r"'cow': no class of the model, which has cat, dog"):
        result.filtered(classes=["cow"])
    with pytest.raises(ValueError, match=r"expected a list of names: \['cat'\]"):
        result.filtered(classes="cat")


def test_dense_masks_are_those_of_the_run_lengths() -> None:
    result = make_result()
    assert result.masks is not None
    assert result.masks.dtype == torch.bool
    for mask, rle in zip(result.masks, result.rles or [], strict=True):
        encoded = coco_mask.encode(np.asfortranarray(mask.numpy(), np.uint8))
        assert encoded == rle
    assert make_result(mask_probs=None).masks is None


def test_the_drawing_is_that_of_what_is_from_the_score_on() -> None:
    result = make_result()
    expected = draw_prediction(
        IMAGE, BOXES[:2], torch.tensor([1, 2]), ("cat", "dog"), result.scores[:2],
        masks=(result.rles or [])[:2],
    )  # fmt: skip
    assert np.array_equal(np.asarray(result.draw(0.5)), np.asarray(expected))
    assert result.draw(scale=0.5).size == (300, 240)
    shown = Image.open(BytesIO(result._repr_png_()))
    assert np.array_equal(np.asarray(shown), np.asarray(expected))


def test_a_picture_given_by_its_path_is_read_again_to_be_drawn(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(IMAGE.permute(1, 2, 0).numpy()).save(path)
    result = replace(make_result(), source=path)
    assert result.path == path
    assert np.array_equal(np.asarray(result.draw()), np.asarray(make_result().draw()))
    path.unlink()
    with pytest.raises(FileNotFoundError):
        result.draw()


def test_coco_entries_have_all_parts_and_the_ids_that_are_asked_for() -> None:
    first, second, _ = make_result().to_coco(42)
    assert list(first) == ["image_id", "category_id", "bbox", "segmentation", "score"]
    assert first["bbox"] == [50, 60, 100, 100]
    assert (first["image_id"], first["category_id"], second["category_id"]) == (42, 1, 2)
    assert isinstance(first["segmentation"]["counts"], str)
    entries = make_result().to_coco(42, category_ids={"dog": 18, "cat": 17, "cow": 1})
    assert [each["category_id"] for each in entries] == [17, 18, 17]
    with pytest.raises(ValueError, match=r"no id to 'dog', which was found; it has cat"):
        make_result().to_coco(42, category_ids={"cat": 1})


@pytest.mark.usefixtures("supervision")
def test_inclusive_boxes_are_handed_on_as_continuous_ones() -> None:
    result = replace(make_result(), inclusive_pixels=True)
    assert result.boxes_xyxy.tolist() == BOXES.tolist()
    assert result.to_coco(1)[0]["bbox"] == [50, 60, 101, 101]
    assert result.to_supervision().xyxy[0].tolist() == [50, 60, 151, 161]
    assert result.rles == make_result().rles


def test_supervision_gets_the_same_detections(supervision: Any) -> None:
    detections = make_result().to_supervision()
    assert detections.xyxy.tolist() == BOXES.tolist()
    assert detections.class_id.tolist() == [0, 1, 0]
    assert detections.data["class_name"].tolist() == ["cat", "dog", "cat"]
    assert detections.confidence.tolist() == pytest.approx([0.9, 0.6, 0.3])
    assert np.array_equal(detections.mask, make_result().masks)
    assert isinstance(detections, supervision.Detections)
    assert make_result(mask_probs=None).to_supervision().mask is None
    assert len(make_result().filtered(1).to_supervision()) == 0
    proposals = make_result(labels=None).to_supervision()
    assert proposals.data["class_name"].tolist() == ["object"] * 3


def test_without_supervision_the_command_that_installs_it_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "supervision":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="`pip install supervision`"):
        make_result().to_supervision()


def test_classes_without_names_are_called_by_their_labels_and_proposals_objects() -> None:
    nameless = replace(make_result(), classes=("cat",))
    assert nameless.class_names == ("cat", "2", "cat")
    assert nameless.draw().size == (600, 480)
    proposals = make_result(labels=None)
    assert proposals.class_names == ("object",) * 3
    assert [each["category_id"] for each in proposals.to_coco(1)] == [1, 1, 1]
    assert proposals.draw().size == (600, 480)


def test_keypoints_are_drawn_from_their_score_on_and_a_persons_are_connected() -> None:
    points = torch.stack([torch.linspace(60, 140, 17), torch.linspace(70, 150, 17)], dim=1)
    keypoints = torch.cat([points, torch.ones(17, 1)], dim=1).expand(3, 17, 3)
    scores = torch.full((3, 17), 5.0)
    scores[:, 3:] = -1
    result = make_result(mask_probs=None, keypoints=keypoints, keypoint_scores=scores)
    plain = np.asarray(make_result(mask_probs=None).draw(0.9))
    some, all_ = (np.asarray(result.draw(0.9, keypoint_threshold=t)) for t in (2.0, -2.0))
    changed = (some != plain).any(axis=2)
    assert changed[70, 60]
    assert not changed[100:, 100:].any()
    assert ((all_ != plain).any(axis=2)).sum() > 2 * changed.sum()
    assert len(result.to_coco(1)[0]["keypoints"]) == 51
