"""The table of the formats that weights come in: a further one is a file and a line here."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from detengine.checkpoint import caffe2, detectron2, maskrcnn_benchmark, torchvision_names
from detengine.checkpoint.array_pickle import load_pickle
from detengine.checkpoint.conversion import Conversion, own_names
from detengine.checkpoint.files import load_file
from detengine.checkpoint.kinds import kind_conflict
from detengine.checkpoint.safetensors_file import load_safetensors
from detengine.checkpoint.trunk import convert_part


class Reader(NamedTuple):
    """A format by its names.

    recognise: whether tensors are named in it; convert: which of a model's names they have there.
    """

    recognise: Callable[[Mapping[str, Tensor]], bool]
    convert: Callable[[Mapping[str, Tensor], nn.Module], Conversion]


OPENERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    ".pkl": load_pickle,
    ".safetensors": load_safetensors,
}
"""By a file's suffix, what opens it; `load_file` opens all others."""

READERS = (
    Reader(caffe2.recognise, caffe2.convert),
    Reader(detectron2.recognise, detectron2.convert),
    Reader(maskrcnn_benchmark.recognise, maskrcnn_benchmark.convert),
    Reader(torchvision_names.recognise, torchvision_names.convert),
)
"""The first that recognises a file converts it."""


def read_file(path: Path) -> dict[str, Any]:
    """The entries of a file of any known kind, on the CPU; `model`, its tensors, is among them.

    Nothing in a file is ever run. Raises as `load_file` does.
    """
    return OPENERS.get(path.suffix, load_file)(path)


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
    return own_names(loaded) if len(foreign) < len(loaded) else convert_part(loaded, model)
