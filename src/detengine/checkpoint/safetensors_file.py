"""Weights in `.safetensors`: a header and numbers, nothing that could run."""

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from detengine.checkpoint.files import (
    raise_if_checksum_differs,
    raise_if_no_file,
    raise_if_web_page,
)
from detengine.checkpoint.own_entries import own_entries


def load_safetensors(path: Path) -> dict[str, Any]:
    """`{"model": tensors}`, on the CPU; ours has categories and config too, in its metadata.

    The checksum is verified where its file is there. Raises FileNotFoundError, IsADirectoryError,
    or ValueError for a file that is damaged or holds no tensors.
    """
    raise_if_no_file(path)
    raise_if_checksum_differs(path)
    raise_if_web_page(path)
    try:
        tensors, metadata = _read(path)
    except Exception as error:  # whatever a strange file makes the reader raise
        raise ValueError(
            f"{path} is truncated, damaged or no safetensors file ({error!s:.200}). Copy it again."
        ) from error
    if not tensors:
        raise ValueError(f"{path} holds no tensors; expected the weights of a model.")
    return {"model": tensors} | own_entries(path, _without_text_form(path, metadata))


def to_metadata(categories: list[str], config: str) -> dict[str, str]:
    """What a file of ours says about its weights. A file's metadata are texts."""
    return {"format": "pt", "categories": json.dumps(categories), "config": config}


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        # Copies, since the file is mapped into memory: nothing may change when it does.
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        return tensors, file.metadata() or {}


def _without_text_form(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    if "categories" not in metadata:
        return dict(metadata)
    try:
        return metadata | {"categories": json.loads(metadata["categories"])}
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"'categories' in the metadata of {path} are no JSON: {error!s:.200}."
        ) from error
