"""Truth beside prediction for a few images of a test set."""

from collections.abc import Iterable
from pathlib import Path

import torch
from PIL import Image

from detengine.data.dataset import DetectionDataset
from detengine.disk.writing import whole_file
from detengine.report.draw import truth_beside_prediction
from detengine.structures.prediction import Prediction

_LONGEST = 50
"""Characters of an image's name in its picture's: the longest that a disk takes has 255 bytes."""


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
        name = f"{image_id}_{Path(truth.file_name(index)).stem[:_LONGEST]}.png"
        path_of_index[index] = folder / name
        save_picture(picture, path_of_index[index])
    return [path_of_index[index] for index in sorted(path_of_index)]


def save_picture(picture: Image.Image, path: Path, *, quality: int = 75) -> None:
    """Write a picture in the format of its name's suffix; quality: a JPEG's, of 100.

    Killed at any moment, the path holds the old picture or the new one, whole. Raises OSError.
    """
    kind = Image.registered_extensions()[path.suffix.lower()]
    with whole_file(path) as aside:
        picture.save(aside, kind, quality=quality)
