"""What is compared between the ranks of a run before they begin."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch
import torchvision
from torch import nn

import detengine
from detengine.config.load import flattened
from detengine.config.schema import Config
from detengine.data.dataset import DetectionDataset
from detengine.distributed.alike import raise_if_ranks_differ
from detengine.distributed.comm import is_distributed
from detengine.scoring import digest_of_weights

_OF_A_MACHINE = (
    "OUTPUT_DIR",
    "DATASETS.ROOT",
    "DATASETS.DEFINE.*",
    "DATASETS.CACHE",
    "DATALOADER.NUM_WORKERS",
    "MODEL.WEIGHT",
)
"""Where things are, and what a machine can do. Data are compared by themselves, and so are weights
in an evaluation; in a training all ranks get those of rank 0."""


def raise_if_given_otherwise(cfg: Config, **options: bool) -> None:
    """Raise ValueError on all ranks where another one has other options or versions; all ranks.

    options: of the command line, by their names.
    """
    if not is_distributed():
        return
    given = flattened(cfg.model_dump(mode="json"))
    raise_if_ranks_differ(
        {
            "detengine's version": detengine.__version__,
            "torch's version": torch.__version__,
            "torchvision's version": torchvision.__version__,
            **{f"--{name.replace('_', '-')}": value for name, value in options.items()},
            **{
                key: value
                for key, value in given.items()
                if not any(fnmatchcase(key, pattern) for pattern in _OF_A_MACHINE)
            },
        }
    )


def raise_if_data_differ(datasets: Sequence[DetectionDataset]) -> None:
    """Raise ValueError on all ranks where another one has other images, annotations or classes.

    Of the images it is their names and sizes; their pixels are not compared. Called by all ranks.
    """
    if is_distributed():
        raise_if_ranks_differ(
            {
                f"data set {each.name!r}": f"{len(each)} images with annotations of sha256 "
                f"{each.ground_truth().digest()[:12]}, for {', '.join(each.class_names)},"
                for each in datasets
            }
        )


def raise_if_weights_differ(model: nn.Module) -> None:
    """Raise ValueError on all ranks where another one has loaded other weights; all ranks."""
    if is_distributed():
        digest = digest_of_weights(model)[:12]
        raise_if_ranks_differ({"the sha256 of the weights that were loaded": digest})
