"""Models by name: what MODEL.BUILDER points at."""

import importlib
import sys
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import nn

_FEW = 10
"""How many functions a message names."""


def build_by_name(name: str, cfg: object) -> nn.Module:
    """Import `package.module:function` and call it with the configuration.

    The working folder can be imported from, after everything that is installed. Raises ValueError
    if the name has another form, if there is no such module or function, and if what comes back is
    not a torch.nn.Module. What the user's own code raises is left as it is.
    """
    model = _find_function(name)(cfg)
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"MODEL.BUILDER: {name!r} returned {type(model).__name__}, expected a torch.nn.Module; "
            "return the model itself from it"
        )
    return model


def _find_function(name: str) -> Callable[[object], Any]:
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise ValueError(
            f"MODEL.BUILDER: {name!r} is not of the form 'package.module:function', "
            "for example 'my_models.tiny:build'"
        )
    working_folder = str(Path.cwd())
    if working_folder not in sys.path:
        sys.path.append(working_folder)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there, but something that it imports is not
        raise ValueError(
            f"MODEL.BUILDER: there is no module {module_name!r} (looked in the working folder "
            f"{working_folder} and among what is installed); check the spelling, or run from the "
            "folder that contains it"
        ) from error
    function: Callable[[object], Any] | None = getattr(module, function_name, None)
    if not callable(function):
        known = [each for each, value in vars(module).items() if callable(value) and each[0] != "_"]
        nearest = get_close_matches(function_name, known, _FEW, 0.0)  # the nearest first
        raise ValueError(
            f"MODEL.BUILDER: {module_name} has no function {function_name!r}; it has "
            f"{', '.join(nearest) or 'none at all'}{', ...' if len(known) > _FEW else ''}"
        )
    return function
