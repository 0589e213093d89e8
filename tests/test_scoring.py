"""Scoring a model on test sets: what tells its predictions from another's."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from detengine.config.load import load_config
from detengine.config.schema import Config
from detengine.data.build import build_datasets
from detengine.data.dataset import DetectionDataset
from detengine.scoring import origin_of


class Stateful(nn.Module):
    """Keeps something that is no tensor, as torch's modules may."""

    def __init__(self, extra: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.extra = extra

    def get_extra_state(self) -> Any:
        return self.extra

    def set_extra_state(self, state: Any) -> None:
        self.extra = state


@pytest.fixture
def cfg(tiny_config: Path) -> Config:
    return load_config(tiny_config)


@pytest.fixture
def dataset(cfg: Config) -> DetectionDataset:
    return build_datasets(cfg, cfg.DATASETS.TEST)[0]


def test_the_origin_of_predictions_knows_a_models_extra_state(
    cfg: Config, dataset: DetectionDataset
) -> None:
    extras = [{"scale": 1}, {"scale": 2}, {"table": torch.zeros(2000)}, {"table": torch.ones(2000)}]
    origins = [origin_of(cfg, Stateful(extra), dataset) for extra in extras]
    assert len(set(origins)) == 4
    assert origin_of(cfg, Stateful({"scale": 1}), dataset) == origins[0]
