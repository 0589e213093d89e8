from dataclasses import fields, replace

import pytest
import torch

from detengine.evaluation.evaluate import evaluate
from detengine.evaluation.predictions_file import (
    PredictionWriter,
    load_class_names,
    load_predictions,
)


def _write(folder, class_names, predictions, ranks=1):
    for rank in range(ranks):
        with PredictionWriter(folder, class_names, rank, world_size=ranks) as writer:
            for image_id, prediction in list(predictions.items())[rank::ranks]:
                writer.add(image_id, prediction)


def _assert_same(one, other):
    for field in fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_predictions_are_read_back_as_they_were(case, tmp_path):
    _write(tmp_path / "new", case.class_names, case.predictions)
    stored = dict(load_predictions(tmp_path / "new"))
    assert list(stored) == list(case.predictions)
    for image_id, prediction in stored.items():
        _assert_same(prediction, case.predictions[image_id])
    assert load_class_names(tmp_path / "new") == case.class_names


def test_keypoints_and_boxes_without_labels_are_kept_too(case, tmp_path):
    given = {
        image_id: replace(
            each,
            labels=None,
            rles=None,
            keypoints=torch.rand(len(each), 17, 3),
            keypoint_scores=torch.rand(len(each), 17),
        )
        for image_id, each in case.predictions.items()
    }
    _write(tmp_path, case.class_names, given)
    for image_id, prediction in load_predictions(tmp_path):
        _assert_same(prediction, given[image_id])


def test_mask_probabilities_are_stored_as_encoded_masks(case, tmp_path):
    given = {
        image_id: replace(each, rles=None, mask_probs=torch.rand(len(each), 28, 28))
        for image_id, each in case.predictions.items()
    }
    _write(tmp_path, case.class_names, given)
    for image_id, prediction in load_predictions(tmp_path):
        _assert_same(prediction, given[image_id].encoded())


@pytest.mark.parametrize("ranks", [2, 3, 20])
def test_the_files_of_all_ranks_are_scored_as_one(case, tmp_path, ranks):
    _write(tmp_path, case.class_names, case.predictions, ranks)
    result = evaluate(case.ground_truth, load_predictions(tmp_path), case.class_names, ("segm",))
    assert result == evaluate(
        case.ground_truth, case.predictions.items(), case.class_names, ("segm",)
    )


def test_the_file_of_an_earlier_run_with_more_ranks_is_not_read(case, tmp_path):
    _write(tmp_path, case.class_names, case.predictions, ranks=3)
    _write(tmp_path, case.class_names, case.predictions)
    assert len(list(load_predictions(tmp_path))) == len(case.predictions)


def test_a_missing_file_of_a_rank_is_an_error(case, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no .*predictions\.pth"):
        list(load_predictions(tmp_path))
    _write(tmp_path, case.class_names, case.predictions, ranks=3)
    (tmp_path / "predictions_rank2.pth").unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no .*predictions_rank2\.pth"):
        list(load_predictions(tmp_path))


def test_only_tensors_and_plain_types_are_stored(case, tmp_path):
    _write(tmp_path, case.class_names, case.predictions)
    columns = torch.load(tmp_path / "predictions.pth", weights_only=True)
    assert columns["format"] == 1
    assert columns["categories"] == list(case.class_names)
    assert columns["image_ids"].tolist() == list(case.predictions)
    assert columns["boxes_xyxy"].shape == (columns["offsets"][-1], 4)


def test_an_interrupted_run_leaves_no_file_and_the_old_one_stays(case, tmp_path):
    with pytest.raises(KeyboardInterrupt), PredictionWriter(tmp_path, case.class_names):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    _write(tmp_path, case.class_names, case.predictions)
    with pytest.raises(KeyboardInterrupt), PredictionWriter(tmp_path, ("other",)):
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.pth"]
    assert load_class_names(tmp_path) == case.class_names


def test_predictions_with_different_parts_cannot_share_a_file(case, tmp_path):
    writer = PredictionWriter(tmp_path, case.class_names)
    first, second, *_ = case.predictions
    writer.add(first, case.predictions[first])
    with pytest.raises(
        ValueError, match=f"image {second} has labels, that of image {first} has la"
    ):
        writer.add(second, replace(case.predictions[second], rles=None))


def test_a_file_of_another_format_is_refused(case, tmp_path):
    torch.save({"format": 2}, tmp_path / "predictions.pth")
    with pytest.raises(ValueError, match="has the format 2, but this version reads 1"):
        list(load_predictions(tmp_path))
