from dataclasses import fields, replace

import pytest
import torch

from detengine.evaluation.evaluate import evaluate
from detengine.evaluation.predictions_file import (
    PredictionWriter,
    load_class_names,
    load_predictions,
    remove_predictions,
    stored_image_ids,
)


def _write(folder, class_names, predictions, ranks=1):
    for rank in range(ranks):
        with PredictionWriter(folder, class_names, rank) as writer:
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


def test_predictions_come_in_files_of_a_few_megabytes_and_in_their_order(case, tmp_path):
    with PredictionWriter(tmp_path, case.class_names, bytes_of_a_file=300) as writer:
        for image_id, prediction in case.predictions.items():
            writer.add(image_id, prediction)
            writer.end_batch()
    names = {path.name for path in tmp_path.iterdir()}
    assert names > {"predictions.pth", "predictions_0001.pth", "predictions_0002.pth"}
    stored = dict(load_predictions(tmp_path))
    assert list(stored) == list(case.predictions)
    for image_id, prediction in stored.items():
        _assert_same(prediction, case.predictions[image_id])
    shares = [list(load_predictions(tmp_path, share=(rank, 2))) for rank in range(2)]
    assert sorted(k for share in shares for k, _ in share) == sorted(case.predictions)


def test_a_file_ends_with_a_batch(case, tmp_path):
    with PredictionWriter(tmp_path, case.class_names, bytes_of_a_file=1) as writer:
        for image_id, prediction in case.predictions.items():
            writer.add(image_id, prediction)
        assert not list(tmp_path.iterdir())
        writer.end_batch()
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.pth"]


def test_without_files_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there are no predictions at .*predictions\.pth"):
        load_predictions(tmp_path)


def test_what_is_stored_of_one_origin_is_told_from_that_of_another(case, tmp_path):
    first, second, *_ = case.predictions
    assert stored_image_ids(tmp_path, "these weights") is None
    for image_id in (first, second):
        with PredictionWriter(tmp_path, case.class_names, origin="these weights") as writer:
            writer.add(image_id, case.predictions[image_id])
    assert stored_image_ids(tmp_path, "these weights") == [first, second]
    assert stored_image_ids(tmp_path, "other weights") is None
    (tmp_path / "note.txt").write_text("stays")
    remove_predictions(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


@pytest.mark.parametrize("is_damaged", [True, False])
def test_of_a_file_that_cannot_be_read_nothing_is_gone_on_with(case, tmp_path, caplog, is_damaged):
    first, second, *_ = case.predictions
    for image_id in (first, second):
        with PredictionWriter(tmp_path, case.class_names, origin="these weights") as writer:
            writer.add(image_id, case.predictions[image_id])
    last = tmp_path / "predictions_0001.pth"
    if is_damaged:
        last.write_bytes(b"")
    else:
        torch.save({"format": 1}, last)
    assert stored_image_ids(tmp_path, "these weights") is None
    assert f"no prediction in {tmp_path} is gone on with: {last}" in caplog.text


def test_where_there_are_files_no_image_more_is_no_file_more(case, tmp_path):
    first, *_ = case.predictions
    for image_ids in ([first], [], []):
        with PredictionWriter(tmp_path, case.class_names) as writer:
            for image_id in image_ids:
                writer.add(image_id, case.predictions[image_id])
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.pth"]


def test_only_tensors_and_plain_types_are_stored(case, tmp_path):
    _write(tmp_path, case.class_names, case.predictions)
    columns = torch.load(tmp_path / "predictions.pth", weights_only=True)
    assert columns["format"] == 2
    assert columns["categories"] == list(case.class_names)
    assert columns["image_ids"].tolist() == list(case.predictions)
    assert columns["boxes_xyxy"].shape == (columns["offsets"][-1], 4)


def test_an_interrupted_run_leaves_what_it_has_predicted(case, tmp_path):
    first, second, *_ = case.predictions

    def predict_one_and_stop():
        with PredictionWriter(tmp_path, case.class_names) as writer:
            writer.add(first, case.predictions[first])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_one_and_stop()
    assert [image_id for image_id, _ in load_predictions(tmp_path)] == [first]
    with PredictionWriter(tmp_path, case.class_names) as writer:
        writer.add(second, case.predictions[second])
    assert [image_id for image_id, _ in load_predictions(tmp_path)] == [first, second]
    assert load_class_names(tmp_path) == case.class_names


@pytest.mark.parametrize("kept", [0, 10, 1000])
def test_a_damaged_file_is_named(case, tmp_path, kept):
    _write(tmp_path, case.class_names, case.predictions)
    path = tmp_path / "predictions.pth"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"predictions\.pth is no file of predictions, or it is"):
        list(load_predictions(tmp_path))


def test_a_flipped_bit_is_found_in_whatever_column(case, tmp_path):
    _write(tmp_path, case.class_names, case.predictions)
    path = tmp_path / "predictions.pth"
    content, expected = path.read_bytes(), torch.load(path)
    for column in ("rle_bytes", "boxes_xyxy", "scores"):
        place = content.index(expected[column].numpy().tobytes()) + 5
        flipped = bytes([content[place] ^ 4])
        path.write_bytes(content[:place] + flipped + content[place + 1 :])
        with pytest.raises(ValueError, match=r"predictions\.pth is damaged: its part .*data/\d"):
            list(load_predictions(tmp_path))


@pytest.mark.parametrize("name", ["sizes", "offsets", "scores", "labels", "rle_offsets"])
def test_columns_that_are_not_there_or_do_not_fit_are_named(case, tmp_path, name):
    _write(tmp_path, case.class_names, case.predictions)
    path = tmp_path / "predictions.pth"
    columns = torch.load(path)
    for wrong in ({}, {name: columns[name][:-1]}, {name: 7}):
        torch.save({k: v for k, v in columns.items() if k != name} | wrong, path)
        with pytest.raises(ValueError, match=f"no file of predictions: .*{name}"):
            list(load_predictions(tmp_path))


def test_a_file_of_other_things_is_not_opened_and_nobody_is_advised_to(tmp_path):
    path = tmp_path / "predictions.pth"
    torch.save({"format": 2, "categories": tmp_path}, path)
    with pytest.raises(ValueError, match=r"it holds other things than numbers and text$"):
        load_class_names(path)
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"or COCO's results in a \.json file\.$"):
        load_class_names(path)


def test_predictions_with_different_parts_cannot_share_a_file(case, tmp_path):
    writer = PredictionWriter(tmp_path, case.class_names)
    first, second, *_ = case.predictions
    writer.add(first, case.predictions[first])
    with pytest.raises(
        ValueError, match=f"image {second} has labels, that of image {first} has la"
    ):
        writer.add(second, replace(case.predictions[second], rles=None))


def test_a_file_of_another_format_is_refused(case, tmp_path):
    torch.save({"format": 1}, tmp_path / "predictions.pth")
    with pytest.raises(ValueError, match="has the format 1, but this version reads 2"):
        list(load_predictions(tmp_path))
