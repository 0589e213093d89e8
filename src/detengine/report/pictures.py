"""Truth beside prediction for a few images of a test set."""

from collections.abc import Iterable
from pathlib import Path

import torch

from detengine.data.dataset import DetectionDataset
from detengine.report.draw import truth_beside_prediction
from detengine.structures.prediction import Prediction


def write_pictures(
    dataset: DetectionDataset,
    predictions: Iterable[tuple[int, Prediction]],
    folder: Path,
    count: int,
) -> list[Path]:
    """Draw `count` images, spread evenly over the data set, into PNG files; gives their paths.

    predictions: of any images, by image id; those that are not drawn are passed over.
    """
    truth = dataset.ground_truth()
    chosen = torch.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().long().tolist()
    index_of_id = {int(truth.image_ids[index]): index for index in chosen}
    path_of_index = {}
    for image_id, prediction in predictions:
        if image_id not in index_of_id:
            continue
        index = index_of_id[image_id]
        picture = truth_beside_prediction(
            dataset.read_image(index), truth, index, prediction, dataset.class_names
        )
        path_of_index[index] = folder / f"{image_id}_{Path(truth.file_name(index)).stem}.png"
        picture.save(path_of_index[index])
    return [path_of_index[index] for index in sorted(path_of_index)]
