"""Training and evaluation mode for the length of a block, and what is between the two."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

_LIBRARIES = ("torch.", "torchvision.", "timm.")
_DETECTORS = "torchvision.models.detection."


@contextmanager
def model_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Put the model into training or evaluation mode; each module's own mode returns afterwards.

    It returns after an exception too, and module by module, so that a frozen batch norm inside a
    training model stays as its owner left it.
    """
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, was_training in before:
            module.training = was_training


@contextmanager
def loss_mode(model: nn.Module) -> Iterator[None]:
    """Have the model return losses, as in training, with its layers as in evaluation.

    By torchvision's contract it is the detector's own mode, and that of its proposals and heads,
    that decides about losses: a module that has others inside. These are put into training mode.
    Layers, which have none inside, stay in evaluation mode, and so do those of torch, torchvision
    and timm that have (attention drops out by its own mode): nothing is dropped out, and norms use
    their running statistics and keep them.
    Each module's own mode returns afterwards, as in `model_mode`.
    """
    with model_mode(model, training=True):
        for module in model.modules():
            if module is not model and _is_layer(module):
                module.training = False
        yield


def _is_layer(module: nn.Module) -> bool:
    if isinstance(module, _NormBase | _DropoutNd) or not any(module.children()):
        return True
    where = f"{type(module).__module__}."
    return where.startswith(_LIBRARIES) and not where.startswith(_DETECTORS)
