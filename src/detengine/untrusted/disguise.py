"""Objects of a pickle that answer otherwise than their types do."""

from pathlib import Path

from torch import Tensor

from detengine.untrusted.excerpt import excerpt


def raise_if_disguised(path: Path, content: object) -> None:
    """Raise ValueError for an object that has something else in the place of its type's own method.

    A pickle may set attributes, also of an OrderedDict and of a tensor: with `values` or `numel`
    among them it answers whatever the file wants. A state dict's own `_metadata` is none of these.
    """
    waiting, seen = [content], set[int]()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        own = getattr(value, "__dict__", {}) if isinstance(value, dict | Tensor) else {}
        if found := sorted(str(name) for name in own if hasattr(type(value), str(name))):
            raise ValueError(
                f"{path} holds a {type(value).__name__} with a {excerpt(found[0])} of its own, "
                "which no program writes: it is damaged, or was made to mislead."
            )
        if isinstance(value, dict):
            waiting += dict.values(value)
        elif isinstance(value, list | tuple):
            waiting += value
