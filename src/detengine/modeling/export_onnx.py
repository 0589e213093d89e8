"""A detector of ours as one ONNX file."""

import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim
from torch.torch_version import TorchVersion

from detengine.modeling.deformable import DeformableConvolution
from detengine.modeling.export_rcnn import ExportRCNN
from detengine.modeling.export_retinanet import ExportRetinaNet
from detengine.modeling.rcnn import GeneralizedRCNN
from detengine.modeling.retinanet import RetinaNet

OPSET = 18
"""The lowest in which what we need is there, so that most programs read it."""
HIGHEST_OPSET = 20
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TORCH = "2.9"
"""The lowest whose torch.export was seen to follow a detector, in which numbers of boxes depend on
the picture: 2.6 does not. With it, `raise_if_torch_too_old` may go."""


def raise_if_packages_missing() -> None:
    """Raise ImportError, naming them, for packages that an export needs and does not find."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ImportError(
            f"an export to ONNX needs {', '.join(missing)}, which "
            f"{'is' if len(missing) == 1 else 'are'} not installed: pip install 'detengine[onnx]'"
        )


def raise_if_torch_too_old() -> None:
    """Raise ImportError where torch is older than TORCH."""
    if TorchVersion(torch.__version__) < TORCH:
        raise ImportError(
            f"an export to ONNX needs torch {TORCH} or newer, but {torch.__version__} is "
            "installed, whose torch.export cannot follow a detector. Export with a newer one "
            "(pip install --upgrade torch torchvision): it reads this torch's checkpoints"
        )


def raise_if_opset_unknown(opset: int) -> None:
    """Raise ValueError for an opset that the file cannot have."""
    if not OPSET <= opset <= HIGHEST_OPSET:
        raise ValueError(
            f"opset {opset} was asked for; expected {OPSET} to {HIGHEST_OPSET}: below, ONNX lacks "
            f"operators that the file needs. {OPSET} is read by most programs"
        )


def make_exportable(model: nn.Module) -> ExportRCNN | ExportRetinaNet:
    """The model's evaluation of whole batches, over a copy of the model.

    Raises ValueError for a model that is not of our families, or that has a layer without a
    counterpart in ONNX.
    """
    deformed = [n for n, part in model.named_modules() if isinstance(part, DeformableConvolution)]
    if deformed:
        raise ValueError(
            f"the model has deformable convolutions ({deformed[0]} and {len(deformed) - 1} more; "
            "MODEL.RESNETS.STAGE_WITH_DCN), which few programs run from an ONNX file, and which "
            "are not exported. Export a model that was trained without them"
        )
    if isinstance(model, GeneralizedRCNN):
        return ExportRCNN(model)
    if isinstance(model, RetinaNet):
        return ExportRetinaNet(model)
    raise ValueError(
        f"the model is a {type(model).__module__}.{type(model).__qualname__}; exported are the "
        "Faster, Mask and Keypoint R-CNNs, proposal networks and RetinaNets that detengine builds"
    )


def write_onnx(
    exportable: ExportRCNN | ExportRetinaNet,
    path: Path,
    *,
    opset: int = OPSET,
    metadata: Mapping[str, str],
) -> None:
    """Write one file, its weights inside, for batches of any number of images of any one size.

    metadata: what the file's metadata_props say. Raises OSError if it cannot be written.
    """
    from detengine.modeling.export_translations import translations

    model: Any = exportable.model
    coarsest = max([*model.backbone.strides, model.preprocess.size_divisible])
    # Two images, neither of one row of cells: what is 1 in an example is taken for fixed.
    example = torch.zeros(2, 3, 5 * coarsest - 1, 6 * coarsest - 3, dtype=torch.uint8)
    sides = {2: Dim("height", min=4 * coarsest), 3: Dim("width", min=4 * coarsest)}
    shapes: Any = ({0: Dim("batch"), **sides},)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, about itself
        program: Any = torch.onnx.export(
            torch.export.export(exportable, (example,), dynamic_shapes=shapes, strict=False),
            (example,),
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=list(exportable.output_names),
            dynamic_shapes=shapes,
            opset_version=opset,
            custom_translation_table=translations(),
        )
    _describe(program, metadata)
    program.save(path, external_data=False)


def _describe(program: Any, metadata: Mapping[str, str]) -> None:
    """Names, and what a reader wants to know, into the file."""
    from onnx_ir import Shape

    program.model.producer_name = "detengine"
    program.model.metadata_props.update(metadata)
    for output in program.model.graph.outputs:
        sides: Sequence[Any] = list(output.shape)[1:]
        output.shape = Shape(["detections", *sides])
