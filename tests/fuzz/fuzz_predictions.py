"""Stored predictions: their columns fit together, and can be scored or are refused."""

from pathlib import Path
from random import Random

import torch
from archives import mutated_archive
from driver import Target, fuzz, instrumented, outcome

with instrumented():
    from detengine.evaluation.evaluate import evaluate
    from detengine.evaluation.predictions_file import (
        PredictionWriter,
        load_class_names,
        load_predictions,
        stored_image_ids,
    )
    from detengine.evaluation.result import EvaluationResult
    from detengine.structures.ground_truth import GroundTruth
    from detengine.structures.prediction import Prediction

from small_truth import CLASSES, OPTIONS, small_truth

NAMES = (
    "format", "origin", "categories", "image_ids", "sizes", "offsets", "boxes_xyxy", "scores",
    "labels", "keypoints", "keypoint_scores", "rle_bytes", "rle_offsets",
)  # fmt: skip


def seeds() -> list[bytes]:
    import tempfile

    boxes = torch.tensor([[1.0, 2, 5, 6], [0, 0, 9, 9]])
    plain = Prediction(boxes, torch.tensor([0.9, 0.5]), (12, 10), labels=torch.tensor([1, 2]))
    masks = [{"size": [12, 10], "counts": b"d0n0V2"}, {"size": [12, 10], "counts": b"0h3"}]
    masked = Prediction(plain.boxes_xyxy, plain.scores, plain.size, plain.labels, rles=masks)  # type: ignore[arg-type]
    points = torch.ones(2, 2, 3)
    pointed = Prediction(boxes, plain.scores, plain.size, plain.labels, keypoints=points)
    found = []
    for each in ([plain], [masked], [pointed], [plain, plain], []):
        with tempfile.TemporaryDirectory() as folder:
            with PredictionWriter(folder, CLASSES, origin="o") as writer:
                for image_id, prediction in zip((3, 8), each, strict=False):
                    writer.add(image_id, prediction)
            found.append(Path(folder, "predictions.pth").read_bytes())
    return found


def check(data: bytes, folder: Path) -> None:
    path = folder / "predictions.pth"
    path.write_bytes(data)
    names = outcome(lambda: load_class_names(path), path.name)
    pairs = outcome(lambda: list(load_predictions(path)), path.name)
    stored = outcome(lambda: stored_image_ids(folder, "o"), path.name)
    if pairs is None:
        assert not stored, "what cannot be read would be gone on with"
        return
    assert names is not None
    for _, prediction in pairs:
        assert prediction.boxes_xyxy.shape == (len(prediction), 4)
        assert min(prediction.size) > 0, "an image without a pixel"
    truth = small_truth()
    for iou_type in ("bbox", "segm", "keypoints"):
        _check_scores(truth, pairs, names, iou_type)


def _check_scores(
    truth: GroundTruth, pairs: list[tuple[int, Prediction]], names: tuple[str, ...], iou_type: str
) -> None:
    def score() -> EvaluationResult:
        return evaluate(truth, pairs, names, (iou_type,), options=OPTIONS, on_wrong_images="warn")

    result = outcome(score, "")
    if result is not None:
        assert all(-1 <= each <= 1 for each in result.metrics[iou_type].values())


def mutate(data: bytes, generator: Random) -> bytes:
    return mutated_archive(data, generator, NAMES)


TARGET = Target("predictions", seeds, check, mutate)

if __name__ == "__main__":
    fuzz(TARGET)
