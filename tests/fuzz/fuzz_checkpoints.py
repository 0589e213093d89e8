"""Files of weights, of every kind: .pth of torch old and new, .pkl, .safetensors.

An input is a file; what kind it is is told from its first bytes, as the reader does it.
"""

import io
import pickle
from pathlib import Path
from random import Random
from typing import Any

import torch
from archives import mutated_archive, mutated_bytes, mutated_pickle, saved
from driver import Target, fuzz, instrumented, outcome
from mutation import mutated_json, mutated_tree
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

with instrumented():
    from detengine.checkpoint.array_pickle import _Array, _unpickle
    from detengine.checkpoint.checkpointer import Checkpointer
    from detengine.checkpoint.entries import raise_if_no_run, raise_if_states_missing
    from detengine.checkpoint.entries import with_all_entries as completed
    from detengine.checkpoint.readers import read_file

NAMES = (
    "format", "model", "optimizer", "scheduler", "precision", "ema", "weights", "updates",
    "categories", "config", "iteration", "blobs", "__author__", "0.weight", "0.bias", "conv1_w",
    "res_conv1_bn_s", "res_conv1_bn_b", "dtype", "shape", "data_offsets", "__metadata__",
)  # fmt: skip
KINDS = {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool, torch.uint8}
KINDS |= {torch.int8, torch.int16, torch.int32, torch.int64}


def make_model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def seeds() -> list[bytes]:
    state = {name: tensor.clone() for name, tensor in make_model().state_dict().items()}
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    ours = {"categories": ["cat"], "config": "SEED: 3"}
    entries: dict[str, Any] = {"format": 1, "model": state, **ours, "iteration": 3}
    entries |= {"optimizer": {"state": {}}, "scheduler": {}, "precision": {}}
    entries["ema"] = {"updates": 3, "weights": dict(state)}
    old = io.BytesIO()
    torch.save(state, old, _use_new_zipfile_serialization=False)
    detectron = {"conv1_w": arrays["0.weight"], "res_conv1_bn_s": arrays["0.bias"]}
    metadata = {"categories": '["cat"]', "config": "SEED: 3"}
    return [
        saved(entries),
        saved(state),
        old.getvalue(),
        pickle.dumps({"blobs": detectron}, protocol=2),
        pickle.dumps({"model": arrays, "__author__": "a", **ours}, protocol=4),
        pickle.dumps(arrays, protocol=5),
        to_safetensors(state, metadata),
    ]


def check(data: bytes, folder: Path) -> None:
    for suffix in (".pth", ".pkl"):
        path = folder / f"x{suffix}"
        path.write_bytes(data)
        entries = outcome(lambda: completed(path, read_file(path)), path.name)  # noqa: B023
        if entries is not None:
            _check_entries(path, entries, len(data))
        outcome(lambda: Checkpointer(make_model()).load(path, strict=False), path.name)  # noqa: B023


def _check_entries(path: Path, entries: dict[str, Any], size: int) -> None:
    assert entries["model"]
    for name, tensor in entries["model"].items():
        assert isinstance(name, str)
        assert isinstance(tensor, Tensor)
        assert tensor.dtype in KINDS
        assert tensor.numel() * tensor.element_size() <= size
        tensor.clone()
    assert all(isinstance(name, str) for name in entries["categories"])
    assert isinstance(entries.get("config", ""), str)
    outcome(lambda: raise_if_no_run(path, entries), path.name)
    outcome(lambda: raise_if_states_missing(path, entries, {"ema"}), path.name)


def mutate(data: bytes, generator: Random) -> bytes:
    if data[:2] == b"PK":
        return mutated_archive(data, generator, NAMES)
    if data[8:9] == b"{":
        return _mutated_safetensors(data, generator)
    if generator.random() < 0.5:
        return _with_other_value(data, generator)
    return generator.choice((mutated_pickle, mutated_bytes))(data, generator)


def _mutated_safetensors(data: bytes, generator: Random) -> bytes:
    stop = 8 + int.from_bytes(data[:8], "little")
    header, content = data[8:stop], data[stop:]
    if generator.random() < 0.8:
        header = mutated_json(header, generator, NAMES)
    else:
        content = mutated_bytes(content, generator)
    return len(header).to_bytes(8, "little") + header + content


def _with_other_value(data: bytes, generator: Random) -> bytes:
    """A pickle of arrays; it is opened by the reader's own unpickler, which runs nothing."""
    path = Path("/dev/shm" if Path("/dev/shm").is_dir() else ".") / f"fuzz{id(generator)}.pkl"
    path.write_bytes(data)
    try:
        value = mutated_tree(_with_numpys(_unpickle(path)), generator, NAMES)
        return pickle.dumps(value, protocol=generator.choice((2, 3, 4, 5)))
    except (ValueError, RecursionError, AttributeError, TypeError, pickle.PicklingError):
        return mutated_pickle(data, generator)
    finally:
        path.unlink()


def _with_numpys(value: Any) -> Any:
    if isinstance(value, _Array):
        return value.numbers
    if isinstance(value, dict):
        return {name: _with_numpys(each) for name, each in value.items()}
    return [_with_numpys(each) for each in value] if isinstance(value, list) else value


TARGET = Target("checkpoints", seeds, check, mutate)

if __name__ == "__main__":
    fuzz(TARGET)
