"""The names in the documents are names in the code."""

import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest

from detengine.config.conventions import defaults
from detengine.config.no_effect import keys_without_effect
from detengine.engine.inference import inference
from detengine.engine.trainer import do_train

DOCS = Path(__file__).parents[2] / "docs"
COMING = (DOCS / "coming_from_maskrcnn_benchmark.md").read_text(encoding="utf-8")

HISTORIC = [
    *("do_train", "reduce_loss_dict", "inference", "compute_on_dataset", "accumulate_predictions"),
    *("Predictor", "MetricLogger", "SmoothedValue", "get_world_size", "get_rank"),
    *("is_main_process", "synchronize", "all_gather", "reduce_dict", "Checkpointer"),
    *("DetectronCheckpointer", "WarmupMultiStepLR", "make_optimizer", "make_lr_scheduler"),
    *("make_data_loader", "GroupedBatchSampler", "IterationBasedBatchSampler"),
    *("DistributedSampler", "evaluate", "check_expected_results", "build_detection_model"),
    "load_config",
]
"""What a reader of the predecessor looks for."""


def find(name: str) -> object:
    """What a dotted name means: a module, or what is in one. Raises ModuleNotFoundError."""
    parts = name.split(".")
    for split in range(len(parts), 0, -1):
        try:
            found = import_module(".".join(parts[:split]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[split:]:
            found = getattr(found, attribute)
        return found
    raise ModuleNotFoundError(name)


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.md")), ids=lambda path: path.name)
def test_every_name_of_the_package_that_a_document_gives_can_be_imported(path: Path) -> None:
    for name in re.findall(r"`(detengine(?:\.\w+)+)", path.read_text(encoding="utf-8")):
        find(name)


def test_every_name_that_the_predecessors_reader_looks_for_is_told() -> None:
    told = set(re.findall(r"`[\w.]*?(\w+)`", COMING))
    assert set(HISTORIC) <= told, set(HISTORIC) - told


def test_the_historic_arguments_stand_in_the_order_that_is_told() -> None:
    positional = [
        name
        for name, parameter in inspect.signature(do_train).parameters.items()
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY
    ]
    assert ", ".join(positional) in COMING.replace("\n", " ")
    assert "bbox_aug" not in inspect.signature(inference).parameters


def test_the_keys_without_effect_are_all_told() -> None:
    assert all(f"`{'.'.join(path)}`" in COMING for path, _ in keys_without_effect())


def test_a_file_that_says_nothing_has_the_predecessors_conventions() -> None:
    assert defaults("maskrcnn_benchmark")["CONVENTIONS"] == "maskrcnn_benchmark"
