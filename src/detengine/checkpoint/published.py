"""The weights that torchvision and timm publish, by the names of their models."""

import re
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from torchvision.models import detection, get_model_weights, list_models

from detengine.checkpoint.conversion import Conventions
from detengine.untrusted.addresses import without_secrets

TORCHVISION = "torchvision://"
TIMM = "timm://"
_DIGITS = re.compile(r"-([0-9a-f]{8,64})\.\w+$")
"""The sha256's first digits at the end of a file's name, as torch.hub's check_hash takes them."""
_HUB_FILE = "model.safetensors"
_FEW = 5


class Source(NamedTuple):
    """Where weights come from, and what is known of them.

    file_name: under which the file is kept. sha256: of the file, or its first digits; None where it
    is not known. class_names: of labels 1, 2, ...; empty where they are not known. is_listed: the
    address is one of this program's, of torchvision's or of timm's, and nobody wrote it down.
    """

    address: str
    file_name: str
    sha256: str | None
    class_names: tuple[str, ...] = ()
    conventions: Conventions | None = None
    is_listed: bool = True

    @property
    def shown(self) -> str:
        """The address as it may be shown and written down."""
        return without_secrets(self.address)


def find_published(name: str) -> Source | None:
    """The source of torchvision://MODEL[/WEIGHTS] or timm://MODEL[.TAG]; None for other names.

    Raises ValueError for a model or weights that the library does not know, and ImportError where
    timm is asked for and missing.
    """
    if name.startswith(TORCHVISION):
        return _of_torchvision(name)
    return _of_timm(name) if name.startswith(TIMM) else None


def _of_torchvision(name: str) -> Source:
    model, _, member = name.removeprefix(TORCHVISION).partition("/")
    known = list_models()
    if model not in known:
        raise ValueError(f"{name}: torchvision has no model {model!r}; {_nearest(model, known)}")
    members = get_model_weights(model).__members__  # with the alias DEFAULT
    if (member or "DEFAULT") not in members:
        raise ValueError(
            f"{name}: torchvision has no such weights of {model}, but "
            f"{', '.join(members) or 'none at all'}"
        )
    weights: Any = members[member or "DEFAULT"]
    is_detector = model in list_models(module=detection)
    return Source(
        weights.url,
        _last_part(weights.url),
        digits_in(weights.url),
        _numbered(weights.meta["categories"][1:]) if is_detector else (),
        Conventions(bgr255=False, stride_in_1x1=False if "resne" in model else None),
    )


def _numbered(names: Sequence[str]) -> tuple[str, ...]:
    """Each name once: COCO's ten unused labels are all called N/A, and become "N/A 12", ..."""
    return tuple(
        f"{name} {label}" if names.count(name) > 1 else name
        for label, name in enumerate(names, start=1)
    )


def _of_timm(name: str) -> Source:
    model = name.removeprefix(TIMM)
    cfg = _timm_cfg(name, model)
    if cfg.hf_hub_id:
        from huggingface_hub import hf_hub_url  # timm needs it too

        repository, _, revision = cfg.hf_hub_id.partition("@")
        file = cfg.hf_hub_filename or _HUB_FILE
        address = hf_hub_url(repository, file, revision=revision or None)
        kept_as = f"{cfg.hf_hub_id.replace('/', '_')}.{file.rpartition('.')[2]}"
        return Source(address, kept_as, None, conventions=Conventions(bgr255=False))
    return Source(
        cfg.url, _last_part(cfg.url), digits_in(cfg.url), conventions=Conventions(bgr255=False)
    )


def _timm_cfg(name: str, model: str) -> Any:
    """What timm knows of a model's pretrained weights."""
    try:
        import timm
    except ImportError as error:
        raise ImportError(
            f"{name} names weights of timm, which is not installed; `pip install detengine[timm]`"
        ) from error
    architecture = model.partition(".")[0]
    if not timm.is_model(architecture):
        known = timm.list_models()
        raise ValueError(
            f"{name}: timm has no model {architecture!r}; {_nearest(architecture, known)}"
        )
    try:
        cfg = timm.get_pretrained_cfg(model)
    except RuntimeError:  # it has no such tag
        cfg = None
    if cfg is None or not (cfg.url or cfg.hf_hub_id):
        known = [each for each in timm.list_pretrained(f"{architecture}.*") if "." in each]
        raise ValueError(
            f"{name}: timm has no such weights of {architecture}, but "
            f"{', '.join(known) or 'none at all'}"
        )
    return cfg


def _nearest(name: str, known: Collection[str]) -> str:
    return f"did you mean {' or '.join(get_close_matches(name, known, _FEW, 0.0)[:_FEW])}?"


def _last_part(address: str) -> str:
    return urlsplit(address).path.rsplit("/", 1)[-1]


def digits_in(address: str) -> str | None:
    """The sha256's first digits, where the file's name ends with them as torch.hub's do."""
    match = _DIGITS.search(_last_part(address))
    return match[1] if match else None
