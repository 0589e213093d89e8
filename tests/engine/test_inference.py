"""Running a detector over a data set: pixels, modes, files, and what is refused."""

import logging

import pytest
import torch

from detengine.engine.inference import compute_on_dataset, inference
from detengine.evaluation.expected import ExpectedResultsError
from detengine.evaluation.predictions_file import load_predictions

CPU = torch.device("cpu")


def test_predictions_are_in_the_pixels_of_the_stored_image(detector, make_evaluation_loader):
    found = dict(compute_on_dataset(detector, make_evaluation_loader(3), CPU))
    assert list(found) == [100, 101, 102]
    assert found[101].boxes_xyxy.tolist() == [[0, 0, 40, 20]]
    assert found[101].size == (20, 40)


def test_a_batch_has_ended_when_its_last_prediction_was_taken(detector, make_evaluation_loader):
    taken, at_ends = [], []
    loader = make_evaluation_loader(5)
    for image_id, _ in compute_on_dataset(
        detector, loader, CPU, after_batch=lambda: at_ends.append(len(taken))
    ):
        taken.append(image_id)
    assert at_ends == [2, 4, 5]


def test_a_perfect_detector_scores_one(detector, make_evaluation_loader):
    result = inference(detector, make_evaluation_loader(5), "toy", device="cpu")
    assert result.metrics["bbox"]["AP"] == pytest.approx(1.0)


def test_the_mode_returns_after_an_exception_in_the_middle(detector, make_evaluation_loader):
    detector.train()
    loader = make_evaluation_loader(1)
    batches = [batch._replace(targets=[{}]) for batch in loader]
    with pytest.raises(ValueError, match="image_size"):
        list(compute_on_dataset(detector, batches, CPU))
    assert detector.training
    assert detector.dropout.training


def test_an_image_that_was_not_predicted_is_an_error(detector, make_evaluation_loader):
    with pytest.raises(ValueError, match="102"):
        inference(detector, make_evaluation_loader(3, [100, 101]), "toy", device="cpu")


def test_stored_predictions_are_the_ones_that_were_scored(
    detector, make_evaluation_loader, tmp_path
):
    inference(detector, make_evaluation_loader(3), "toy", device="cpu", output_folder=tmp_path)
    stored = dict(load_predictions(tmp_path))
    assert sorted(stored) == [100, 101, 102]
    assert stored[100].boxes_xyxy.tolist() == [[0, 0, 40, 20]]


def test_inclusive_boxes_are_scored_and_stored_up_to_the_far_edge_of_their_last_pixel(
    detector, make_evaluation_loader, tmp_path
):
    loader = make_evaluation_loader(2)
    plain = inference(detector, loader, "toy", device="cpu")
    opened = inference(
        detector, loader, "toy", device="cpu", output_folder=tmp_path, inclusive_boxes=True
    )
    for _, prediction in load_predictions(tmp_path):
        assert prediction.boxes_xyxy.tolist() == [[0, 0, 41, 21]]
    assert plain.metrics["bbox"]["AP"] == pytest.approx(1.0)
    # 40 x 20 of 41 x 21 pixels are an IoU of 0.929: hits up to 0.90, of ten thresholds nine
    assert opened.metrics["bbox"]["AP"] == pytest.approx(0.9)
    raw = dict(compute_on_dataset(detector, loader, CPU))
    assert raw[100].boxes_xyxy.tolist() == [[0, 0, 40, 20]]


def test_a_missed_expectation_is_an_exception(detector, make_evaluation_loader):
    expected = [["bbox", "AP", [0.5, 0.01]]]
    with pytest.raises(ExpectedResultsError):
        inference(
            detector, make_evaluation_loader(2), "toy", device="cpu", expected_results=expected
        )


def test_times_are_logged_per_image(detector, make_evaluation_loader, caplog):
    with caplog.at_level(logging.INFO, logger="detengine"):
        inference(detector, make_evaluation_loader(2), "toy", device="cpu")
    assert "Start evaluation on toy dataset(2 images)." in caplog.text
    assert "Total run time: 0:00:0" in caplog.text
    assert "s / img per device, on 1 devices)" in caplog.text


def test_targets_without_sizes_are_refused_with_the_cure(detector, make_evaluation_loader):
    loader = make_evaluation_loader(1)
    batches = [batch._replace(targets=[{}]) for batch in loader]
    with pytest.raises(ValueError, match=r"image 100: its target has no 'image_size'"):
        list(compute_on_dataset(detector, batches, CPU))


def test_box_only_measures_the_recall_of_proposals(detector, make_evaluation_loader):
    result = inference(detector, make_evaluation_loader(3), "toy", box_only=True, device="cpu")
    assert result.metrics["box_proposal"]["AR@100"] == pytest.approx(1.0)
    assert set(result.metrics) == {"box_proposal"}
