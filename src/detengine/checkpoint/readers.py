"""The table of the formats that weights come in: a further one is a file and a line here."""

import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from detengine.checkpoint import caffe2, detectron2, maskrcnn_benchmark, torchvision_names
from detengine.checkpoint.array_pickle import load_pickle
from detengine.checkpoint.conversion import Conversion, own_names
from detengine.checkpoint.files import are_tensors, load_file
from detengine.checkpoint.kinds import kind_conflict
from detengine.checkpoint.own_entries import OWN_TEXTS
from detengine.checkpoint.safetensors_file import load_safetensors
from detengine.checkpoint.trunk import convert_part
from detengine.checkpoint.untrusted import raise_if_not_weights


class Reader(NamedTuple):
    """A format by its names.

    recognise: whether tensors are named in it; convert: which of a model's names they have there.
    """

    recognise: Callable[[Mapping[str, Tensor]], bool]
    convert: Callable[[Mapping[str, Tensor], nn.Module], Conversion]


_OPENERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    ".pkl": load_pickle,
    ".safetensors": load_safetensors,
}
"""By a file's suffix, what opens it; `load_file` opens all others."""

_ARCHIVE = b"PK\x03\x04"
_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9"
"""How torch.save begins a file: an archive, or before torch 1.6 its magic number as a pickle."""
_PICKLE = b"\x80"
_HEADER = re.compile(rb"(?s:.{4})\0\0\0\0{")
"""How a safetensors file begins: the header's length in 8 bytes, and the header, as JSON."""

READERS = (
    Reader(caffe2.recognise, caffe2.convert),
    Reader(detectron2.recognise, detectron2.convert),
    Reader(maskrcnn_benchmark.recognise, maskrcnn_benchmark.convert),
    Reader(torchvision_names.recognise, torchvision_names.convert),
)
"""The first that recognises a file converts it."""


def read_file(path: Path) -> dict[str, Any]:
    """The entries of a file of any known kind, on the CPU; `model`, its tensors, is among them.

    The kind is told from the file's first bytes, and where they tell none, from its suffix. Nothing
    in a file is ever run. Raises as `load_file` does, and ValueError for what claims to be more
    than it is, or no numbers.
    """
    opener = _opener(path)
    entries = opener(path)
    raise_if_not_weights(path, entries["model"])
    ema = entries.get("ema")
    if isinstance(ema, Mapping) and are_tensors(ema.get("weights")):
        raise_if_not_weights(path, ema["weights"])
    if opener is load_file and "format" not in entries:
        # Another program may have entries of these names too, which mean something else.
        return {name: value for name, value in entries.items() if name not in OWN_TEXTS}
    return entries


def _opener(path: Path) -> Callable[[Path], dict[str, Any]]:
    start = b""
    if path.is_file():
        with path.open("rb") as file:
            start = file.read(len(_OLD_TORCH))
    if start.startswith((_ARCHIVE, _OLD_TORCH)):
        return load_file
    if _HEADER.match(start):
        return load_safetensors
    if start.startswith(_PICKLE):
        return load_pickle
    return _OPENERS.get(path.suffix, load_file)


def convert(loaded: Mapping[str, Tensor], model: nn.Module) -> Conversion:
    """Where a file's tensors go in a model, whatever their names are.

    A format is told by the names that the model has not. Where no reader knows them, the file's
    names are the model's own, or, if it has none of them, those of a part of it. Weights of another
    kind of detector are one of the conversion's conflicts.
    """
    names = model.state_dict().keys()
    conversion = _convert(loaded, model, names)
    if conflict := kind_conflict(conversion.sources.keys(), names):
        conversion.conflicts.insert(0, conflict)
    return conversion


def _convert(loaded: Mapping[str, Tensor], model: nn.Module, names: Collection[str]) -> Conversion:
    foreign = {name: tensor for name, tensor in loaded.items() if name not in names}
    for reader in READERS:
        if reader.recognise(foreign):
            return reader.convert(loaded, model)
    if torchvision_names.is_saved_by_its_model(loaded, model):
        return torchvision_names.convert(loaded, model)
    return own_names(loaded) if len(foreign) < len(loaded) else convert_part(loaded, model)
