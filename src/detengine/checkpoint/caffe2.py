"""Caffe2 Detectron's weights (`.pkl`): arrays out of a pickle that may hold nothing else."""

import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detengine.checkpoint import maskrcnn_benchmark
from detengine.checkpoint.conversion import Conversion
from detengine.checkpoint.files import (
    raise_if_checksum_differs,
    raise_if_no_file,
    raise_if_web_page,
)
from detengine.checkpoint.trunk import CLASSIFIER, places_of

FORMAT = "Caffe2 Detectron's names"

_PARAMETERS = {"w": "weight", "s": "weight", "b": "bias"}
_KIND = r"_(?:(bn|gn)_)?([wsb])"
_NO_PLACE = (
    (re.compile(r".*_momentum"), "the momentum of Caffe2's solver"),
    (re.compile(r"(?:fc1000|pred)_[wb]"), CLASSIFIER),
    (re.compile(r"kps_score_[wb]"), "a bilinear enlargement, which is no weight here"),
)
# Blobs without their ending (_w, _b, _bn_s, _bn_b, _gn_s, _gn_b), and the predecessor's module.
_MODULES: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"(?:res_)?conv1"), lambda m: "backbone.body.stem.conv1"),
    (
        re.compile(r"res(\d)_(\d+)_branch1"),
        lambda m: f"backbone.body.layer{int(m[1]) - 1}.{m[2]}.downsample.0",
    ),
    (
        re.compile(r"res(\d)_(\d+)_branch2([abc])"),
        lambda m: f"backbone.body.layer{int(m[1]) - 1}.{m[2]}.conv{'abc'.index(m[3]) + 1}",
    ),
    (
        re.compile(r"fpn_inner_res(\d)_\d+_sum(?:_lateral)?"),
        lambda m: f"backbone.fpn.fpn_inner{int(m[1]) - 1}",
    ),
    (
        re.compile(r"fpn_res(\d)_\d+_sum"),
        lambda m: f"backbone.fpn.fpn_layer{int(m[1]) - 1}",
    ),
    (re.compile(r"conv_rpn(?:_fpn2)?"), lambda m: "rpn.head.conv"),
    (re.compile(r"rpn_(cls_logits|bbox_pred)(?:_fpn2)?"), lambda m: f"rpn.head.{m[1]}"),
    (re.compile(r"fc[67]"), lambda m: f"roi_heads.box.feature_extractor.{m[0]}"),
    (re.compile(r"head_conv(\d+)"), lambda m: f"roi_heads.box.feature_extractor.xconvs.{m[1]}"),
    (re.compile(r"cls_score|bbox_pred"), lambda m: f"roi_heads.box.predictor.{m[0]}"),
    (
        re.compile(r"_\[mask\]_fcn(\d+)"),
        lambda m: f"roi_heads.mask.feature_extractor.mask_fcn{m[1]}",
    ),
    (re.compile(r"conv5_mask|mask_fcn_logits"), lambda m: f"roi_heads.mask.predictor.{m[0]}"),
    (re.compile(r"conv_fcn\d+"), lambda m: f"roi_heads.keypoint.feature_extractor.{m[0]}"),
    (re.compile(r"kps_score_lowres"), lambda m: f"roi_heads.keypoint.predictor.{m[0]}"),
)


def load_pickle(path: Path) -> dict[str, Any]:
    """`{"model": blobs}` of a Caffe2 pickle, written by Python 2 or 3, its blobs as tensors.

    The checksum is verified where its file is there. Raises FileNotFoundError, IsADirectoryError,
    or ValueError for a file that is damaged, holds anything but arrays and plain values, or whose
    blobs are no arrays of numbers.
    """
    raise_if_no_file(path)
    raise_if_checksum_differs(path)
    raise_if_web_page(path)
    data = _unpickle(path)
    blobs = data.get("blobs", data) if isinstance(data, Mapping) else data
    if isinstance(blobs, Mapping) and isinstance(blobs.get("model"), Mapping):
        raise ValueError(
            f"{path} is a file of Detectron2 (its arrays stand under 'model'), whose names are not "
            "read. Expected Caffe2 Detectron's weights, or those of maskrcnn-benchmark, "
            "torchvision or detengine (.pth)."
        )
    if not isinstance(blobs, Mapping) or not blobs:
        raise ValueError(
            f"{path} holds no weights but a {type(data).__name__}; expected a dict of arrays, or "
            "one that has such a dict under 'blobs'."
        )
    return {"model": {name: _tensor(path, name, blob) for name, blob in blobs.items()}}


def _unpickle(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return _ArrayUnpickler(file, encoding="latin1").load()  # Python 2's arrays are text
    except _ForbiddenObject as error:
        raise ValueError(
            f"{path} holds the Python object {error}, and opening such could run any code, so it "
            "is not opened. Expected NumPy arrays and plain values only, as Caffe2 Detectron's "
            "weights are; where you trust the file, save its arrays alone."
        ) from error
    except Exception as error:  # whatever a strange file makes the unpickler raise
        raise ValueError(
            f"{path} is truncated or no pickle of Caffe2 Detectron ({error}). Copy it again."
        ) from error


def recognise(loaded: Mapping[str, Tensor]) -> bool:
    """Whether any name is a residual block's blob."""
    return any(re.fullmatch(r"res\d_\d+_branch[12][abc]?" + _KIND, name) for name in loaded)


def convert(loaded: Mapping[str, Tensor], model: nn.Module) -> Conversion:
    """Blob names in ours, by way of the predecessor's; the stage names follow from the blobs.

    Detectron folds the batch norms' statistics into a scale and a bias (`_bn_s`, `_bn_b`): where
    the model has statistics, they become those that leave scale and bias alone.
    """
    theirs = {name: _predecessor_name(name, loaded) for name in loaded if not _why_unused(name)}
    ours = maskrcnn_benchmark.name_map(list(theirs.values()))
    names = model.state_dict().keys()
    sources = {
        place: blob
        for blob, predecessors in theirs.items()
        for place in places_of(ours[predecessors], names)
    }
    folded = [place for place, blob in sources.items() if blob.endswith("_bn_s")]
    return Conversion(
        sources,
        format=FORMAT,
        set_aside={name: why for name in loaded if (why := _why_unused(name))},
        made={name: tensor for place in folded for name, tensor in _statistics(place, model)},
    )


def _why_unused(blob: str) -> str:
    return next((why for pattern, why in _NO_PLACE if pattern.fullmatch(blob)), "")


def _predecessor_name(blob: str, blobs: Mapping[str, Tensor]) -> str:
    """The predecessor's name of a blob; one that Detectron does not have stays as it is."""
    ending = re.search(_KIND + "$", blob)
    if ending is None:
        return blob
    stem, (norm, parameter) = blob[: ending.start()], ending.groups()
    for pattern, module in _MODULES:
        if match := pattern.fullmatch(stem):
            layer = _layer(module(match), norm is not None, norm == "gn" or f"{stem}_gn_s" in blobs)
            return f"{layer}.{_PARAMETERS[parameter]}"
    return blob


def _layer(module: str, is_norm: bool, has_norm: bool) -> str:
    """The convolution's or its norm's module, as the predecessor lays them out.

    In a body they stand side by side (conv2, bn2; downsample.0, .1), elsewhere in a sequence
    (fc6.0, .1), but where there is no norm the layer stands alone. has_norm: of that layer.
    """
    stacked = re.fullmatch(r"(.*\.xconvs)\.(\d+)", module)
    if stacked:
        first = (int(stacked[2]) - 1) * (3 if has_norm else 2)  # convolution, norm, ReLU
        return f"{stacked[1]}.{first + is_norm}"
    if module.startswith("backbone.body."):
        if is_norm:
            module = re.sub(r"\.conv(\d)$", r".bn\1", module)
            module = re.sub(r"\.downsample\.0$", ".downsample.1", module)
        return module
    return f"{module}.{int(is_norm)}" if has_norm else module


def _statistics(scale_name: str, model: nn.Module) -> list[tuple[str, Tensor]]:
    """A batch norm's mean and variance that make it an affine map; none if it has no such.

    The predecessor's frozen norm divides by the root of the variance alone, torchvision's adds eps
    to it first: the variance is 1 - eps, so that both divide by 1.
    """
    norm_name = scale_name.removesuffix(".weight")
    try:
        norm = model.get_submodule(norm_name)
    except AttributeError:
        return []
    mean, eps = getattr(norm, "running_mean", None), getattr(norm, "eps", 0.0)
    if not isinstance(mean, Tensor):
        return []
    zeros = torch.zeros(mean.shape)
    return [(f"{norm_name}.running_mean", zeros), (f"{norm_name}.running_var", zeros + 1 - eps)]


def _tensor(path: Path, name: object, blob: object) -> Tensor:
    if not isinstance(blob, np.ndarray) or blob.dtype.kind not in "fiub":
        kind = f"array of {blob.dtype}" if isinstance(blob, np.ndarray) else type(blob).__name__
        raise ValueError(
            f"the blob {name!r} in {path} is a {kind}; expected an array of numbers. Is it a "
            "pickle of Caffe2 Detectron's weights?"
        )
    return torch.from_numpy(np.array(blob, dtype=blob.dtype.newbyteorder("=")))


class _ForbiddenObject(Exception):  # noqa: N818  (its text is the object's name, no message)
    """A pickle asks for something else than an array."""


class _ArrayUnpickler(pickle.Unpickler):
    """Builds NumPy arrays and plain values, and looks nothing else up."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core.", "numpy.core.")
        try:
            return _ARRAY_PARTS[module, name]
        except KeyError:
            raise _ForbiddenObject(f"{module}.{name}") from None


def _make_empty_array(subtype: type, shape: tuple[int, ...], dtype: object) -> Any:
    """NumPy's _reconstruct, for the empty array that a pickle fills afterwards."""
    if subtype is not np.ndarray or shape != (0,):
        raise ValueError(f"an array is to be made of {subtype!r} with the shape {shape}")
    return np.ndarray.__new__(np.ndarray, shape, np.dtype("b"))


def _make_array(content: bytes, dtype: Any, shape: tuple[int, ...], order: str) -> Any:
    """NumPy's _frombuffer, which makes the array in protocol 5."""
    return np.frombuffer(content, dtype=dtype).reshape(shape, order="F" if order == "F" else "C")


def _make_dtype(code: str, align: int = 0, _copy: int = 1) -> Any:
    """A dtype of its own, since a pickle changes what it gets; Python 2 wrote integers as flags."""
    return np.dtype(code, align=bool(align), copy=True)


def _encode(text: str, encoding: str) -> bytes:
    """An array's bytes, which Python 3 writes as text in protocol 2."""
    if encoding != "latin1":
        raise ValueError(f"an array's bytes are to be read as {encoding!r}, not as latin1")
    return text.encode("latin1")


_ARRAY_PARTS: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _make_empty_array,
    ("numpy.core.numeric", "_frombuffer"): _make_array,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _make_dtype,
    ("_codecs", "encode"): _encode,
}
