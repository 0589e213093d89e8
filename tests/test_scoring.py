"""Scoring a model on test sets: what tells its predictions from another's."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from detengine.config.load import load_config, replace
from detengine.data.build import build_datasets
from detengine.scoring import digest_of_weights, origin_of


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


def test_the_digest_of_weights_knows_a_models_extra_state() -> None:
    extras = [{"scale": 1}, {"scale": 2}, {"table": torch.zeros(2000)}, {"table": torch.ones(2000)}]
    digests = [digest_of_weights(Stateful(extra)) for extra in extras]
    assert len(set(digests)) == 4
    assert digest_of_weights(Stateful({"scale": 1})) == digests[0]


def test_the_digest_of_weights_knows_their_values_names_and_types() -> None:
    layers = [nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2).double(), nn.Linear(4, 1)]
    for layer in layers[1:]:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    assert len({digest_of_weights(layer) for layer in [*layers, nn.Sequential(layers[1])]}) == 5


def test_the_origin_of_predictions_is_another_for_other_weights_models_and_classes(
    tiny_config: Path,
) -> None:
    cfg = load_config(tiny_config)
    dataset, other = (
        build_datasets(cfg, cfg.DATASETS.TEST, names)[0]
        for names in (("disc", "bar", "wedge"), ("bar", "disc", "wedge"))
    )
    origins = [
        origin_of(cfg, "weights", dataset),
        origin_of(cfg, "others", dataset),
        origin_of(cfg, "weights", other),
        origin_of(replace(cfg, {"DTYPE": "bfloat16"}), "weights", dataset),
        origin_of(replace(cfg, {"INPUT.MIN_SIZE_TEST": 77}), "weights", dataset),
    ]
    assert len(set(origins)) == 5
    elsewhere = replace(cfg, {"MODEL.DEVICE": "cpu", "OUTPUT_DIR": "x", "SOLVER.MAX_ITER": 9})
    assert origin_of(elsewhere, "weights", dataset) == origins[0]
