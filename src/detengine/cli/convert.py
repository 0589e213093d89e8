"""detengine convert: weights of any known format into ours, `.safetensors` or Caffe2's `.pkl`."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from torch import Tensor, nn

from detengine.checkpoint.align import Alignment, align, compare_classes, load_weights
from detengine.checkpoint.catalog import find_source, find_weights
from detengine.checkpoint.conventions import conventions_check
from detengine.checkpoint.entries import with_all_entries
from detengine.checkpoint.export import export_weights, raise_if_no_format
from detengine.checkpoint.readers import read_file
from detengine.config.load import load_config, parse_config, replace, to_yaml
from detengine.config.schema import Config
from detengine.data.build import number_of_classes
from detengine.modeling.build import build_detection_model
from detengine.output_folder import raise_if_not_writable
from detengine.untrusted.text import printable


def convert_weights(
    source: str,
    target: Path,
    config_file: Path | None,
    overrides: Sequence[str],
    *,
    use_ema: bool,
    overwrite: bool,
) -> None:
    """Read the weights of `source`, fit them to the model of their configuration, write `target`.

    source: what `find_weights` takes. target: its suffix is the format. config_file: the model's;
    not needed where the file has its own. use_ema: the averaged weights, where there are any.
    What is written is what the file has: all of a model, or whole parts of it, such as a trunk.
    Raises ValueError or OSError for what is amiss with either file or with the configuration, and
    where the weights are not the model's.
    """
    raise_if_no_format(target)
    raise_if_not_writable(target, overwrite=overwrite)
    published = find_source(source)
    file = find_weights(source)
    raise_if_same_file(file, target)
    entries = with_all_entries(file, read_file(file))
    if published is not None and not entries["categories"]:
        entries["categories"] = list(published.class_names)
    averaged = entries["ema"] if use_ema else None
    weights = averaged["weights"] if averaged else entries["model"]
    cfg = find_config(entries, source, target, config_file, overrides)
    class_names = entries["categories"] or list(cfg.DATASETS.CLASSES or [])
    built_cfg = with_classes_of(cfg, class_names, weights)
    raise_if_other_classes(source, entries["categories"], built_cfg)
    model = build_detection_model(built_cfg)

    check = conventions_check(
        source,
        published and published.conventions,
        file_config=entries.get("config") or "",
        config=to_yaml(built_cfg),
    )
    alignment = fit(model, weights, source, check)
    typer.echo(printable(alignment.report()))
    count = export_weights(
        target,
        matched_state(model, alignment),
        model,
        class_names=class_names,
        config=to_yaml(cfg if alignment.missing else built_cfg),
    )
    which = "averaged weights (EMA)" if averaged else "weights"
    typer.echo(f"wrote {count} tensors, the {which} of {source}, to {target}")
    if target.suffix == ".pkl" and not cfg.INPUT.TO_BGR255:
        typer.echo(
            "The model wants RGB images in 0..1 (INPUT.TO_BGR255 False), but programs that read "
            "such files take BGR in 0..255 for granted: set it there."
        )


def raise_if_same_file(source: Path, target: Path) -> None:
    """Raise ValueError if a file would be written over itself."""
    if source.resolve() == target.resolve():
        raise ValueError(f"{target} is the file to read and the file to write; give another name")


def find_config(
    entries: Mapping[str, Any],
    source: str,
    target: Path,
    config_file: Path | None,
    overrides: Sequence[str],
) -> Config:
    """The model's configuration: of config_file, or that which the weights' file has.

    Raises ValueError, with the command that is needed, where neither is there. A file's own may
    name no program of the user's (MODEL.BUILDER), which building would run.
    """
    if config_file is not None:
        return load_config(config_file, overrides)
    text = entries.get("config") or ""
    if not text:
        raise ValueError(
            f"{source} does not say what model its weights are of, as files of ours do. Give the "
            f"configuration: detengine convert {source} {target} -c FILE"
        )
    cfg = parse_config(text, overrides, source=f"the configuration in {source}")
    if cfg.MODEL.BUILDER is not None:
        raise ValueError(
            f"{source} has MODEL.BUILDER {cfg.MODEL.BUILDER}, a program that converting would run, "
            "which no file of weights may ask for. Where you trust it, give its configuration: "
            f"detengine convert {source} {target} -c FILE"
        )
    return cfg


def with_classes_of(
    cfg: Config, class_names: Sequence[str], weights: Mapping[str, Tensor]
) -> Config:
    """The configuration with the number of classes, taken from the weights if it is not set.

    A trunk has no classes: then any number does, since the heads are not written.
    """
    key, given = number_of_classes(cfg)
    if given is not None:
        return cfg
    if class_names:
        return replace(cfg, {key: len(class_names) + 1})
    rows = [
        len(tensor)
        for name, tensor in weights.items()
        if re.search(r"cls_score(?:\.weight|_w)$", name) and tensor.dim() == 2
    ]
    is_trunk = not any(re.search("cls_|score|logits", name) for name in weights)
    return replace(cfg, {key: rows[0] if rows else 2}) if rows or is_trunk else cfg


def raise_if_other_classes(source: str, of_file: Sequence[str], cfg: Config) -> None:
    """Raise ValueError if the configuration has DATASETS.CLASSES, and others than the file."""
    if table := compare_classes(cfg.DATASETS.CLASSES or [], of_file):
        raise ValueError(
            f"{source} was trained for other classes than the configuration's.\n{table}\nGive the "
            "file's classes, in its order, under DATASETS.CLASSES."
        )


def fit(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    source: str,
    check: Callable[[Alignment], None],
) -> Alignment:
    """Load the weights. Raises ValueError unless all of them fit, and fill the model or whole
    parts of it, or if `check` does."""
    is_partial = align(model, weights).fills_whole_parts
    return load_weights(model, weights, source=source, strict=not is_partial, check=check)


def matched_state(model: nn.Module, alignment: Alignment) -> dict[str, Tensor]:
    """The model's tensors that the file had, in the model's order; all, where none is missing."""
    state = model.state_dict()
    if not alignment.missing:
        return state
    return {name: tensor for name, tensor in state.items() if name in alignment.matched}
