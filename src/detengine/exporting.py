"""A trained model as one ONNX file, which is run and compared with the model before it is there."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from detengine import __version__
from detengine.config.load import load_config, parse_config, to_yaml
from detengine.config.schema import Config
from detengine.data.build import build_transforms, load_truth
from detengine.data.images import read_image
from detengine.data.transforms import transform_sample
from detengine.disk.writing import whole_file
from detengine.loading import LoadedModel, load_model
from detengine.modeling.export_agreement import Agreement, Cut
from detengine.modeling.export_onnx import (
    OPSET,
    make_exportable,
    raise_if_opset_unknown,
    raise_if_packages_missing,
    raise_if_torch_too_old,
    write_onnx,
)
from detengine.output_folder import CONFIG, raise_if_not_writable, read_run_config
from detengine.structures.batch import Sample
from detengine.untrusted.addresses import without_secrets

PICTURES = 3
"""So many are looked at where none are named."""

PLAIN = ("MODEL.COMPILE", "False", "MODEL.CHANNELS_LAST", "False")
"""What only a model that is run by torch has anything of."""


class Exported(NamedTuple):
    """A file that was written, and how it compared with the model."""

    path: Path
    opset: int
    agreement: Agreement


def export_onnx(
    run_or_weights: str | Path,
    target: str | Path,
    *,
    config: str | Path | None = None,
    overrides: Sequence[str] = (),
    best: bool = False,
    opset: int = OPSET,
    pictures: Sequence[str | Path] = (),
    overwrite: bool = False,
) -> Exported:
    """Write a model as an ONNX file, on a CPU; docs/export.md says what is in it.

    run_or_weights, best, config: as `load_model`; overrides: KEY VALUE pairs that win over the
    configuration. pictures: files to compare the two on; some of the first test set's where that
    is still there, else of the demo's.
    The file is written beside target, run by onnxruntime, compared with the model, and only then
    renamed. Raises ValueError, with the numbers, where they differ by more than TOLERANCES, and for
    a model that cannot be exported; ImportError for packages that are missing or too old; OSError.
    """
    target = Path(target)
    raise_if_packages_missing()
    raise_if_torch_too_old()
    raise_if_opset_unknown(opset)
    if target.suffix != ".onnx":
        raise ValueError(f"{target} is to be an ONNX file; give it a name that ends with .onnx")
    raise_if_not_writable(target, overwrite=overwrite)
    for each in pictures:
        if not Path(each).is_file():
            raise FileNotFoundError(f"there is no picture {each} to compare the two on")
    loaded = _load(run_or_weights, config, overrides, best=best)
    exportable = make_exportable(loaded.model)
    paths = [Path(each) for each in pictures] or _known_pictures(loaded.cfg)
    samples = [as_seen(loaded.cfg, path) for path in paths]
    with whole_file(target) as aside:
        write_onnx(exportable, aside, opset=opset, metadata=describe(loaded))
        agreement = compare(loaded, aside, samples)
        if problems := agreement.problems():
            raise ValueError(
                f"{target} was not written: run by onnxruntime, the file does not find what the "
                f"model finds. {'; '.join(problems)}. {agreement}. Pictures on which scores are "
                "at a tie, such as empty ones, can do that: compare on others with --check"
            )
    return Exported(target, opset, agreement)


def _load(
    run_or_weights: str | Path, config: str | Path | None, overrides: Sequence[str], *, best: bool
) -> LoadedModel:
    """The model on the CPU, as torch's plain operators."""
    changes = [*PLAIN, *overrides]
    place = Path(run_or_weights)
    given: Config | None = None if config is None else load_config(config, changes)
    if config is None and place.is_dir() and (place / CONFIG).is_file():
        given = read_run_config(place, changes)
    _raise_if_not_ours(given)
    loaded = load_model(run_or_weights, device="cpu", config=given, best=best)
    if given is None:
        cfg = parse_config(to_yaml(loaded.cfg), changes, source=str(run_or_weights))
        _raise_if_not_ours(cfg)
        if cfg != loaded.cfg:
            names = loaded.class_names or None
            loaded = load_model(run_or_weights, device="cpu", config=cfg, class_names=names)
    loaded.model.eval()
    return loaded


def _raise_if_not_ours(cfg: Config | None) -> None:
    """Raise ValueError for what a file cannot hold."""
    if cfg is not None and cfg.MODEL.BUILDER is not None:
        raise ValueError(
            f"the model is MODEL.BUILDER {cfg.MODEL.BUILDER}, a program of your own, of which "
            "detengine knows what it takes and gives but not what it computes. What is needed is "
            "a forward that torch.export takes: call torch.onnx.export(model, ...) on it yourself"
        )
    if cfg is not None and cfg.TEST.BBOX_AUG.ENABLED:
        raise ValueError(
            "TEST.BBOX_AUG.ENABLED is True, but a file detects in one view of an image. To export "
            "the model without its other views, append TEST.BBOX_AUG.ENABLED False"
        )


def describe(loaded: LoadedModel) -> dict[str, str]:
    """What a file says of itself: metadata_props, lists as JSON. Of docs/export.md's table."""
    cfg, text = loaded.cfg, to_yaml(loaded.cfg)
    cut = cut_of(loaded.model)
    values: dict[str, Any] = {
        "detengine_version": __version__,
        "class_names": list(loaded.class_names),
        "min_size": cfg.INPUT.MIN_SIZE_TEST,
        "max_size": cfg.INPUT.MAX_SIZE_TEST,
        "resize": cfg.INPUT.RESIZE,
        "pixel_mean": list(cfg.INPUT.PIXEL_MEAN),
        "pixel_std": list(cfg.INPUT.PIXEL_STD),
        "to_bgr255": cfg.INPUT.TO_BGR255,
        "inclusive_pixels": cfg.MODEL.ARITHMETIC.INCLUSIVE_PIXELS,
        "score_threshold": cut.score,
        "detections_per_image": cut.per_image,
        "config_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "weights": Path(without_secrets(loaded.weights)).name,
    }
    return {key: _as_text(value) for key, value in values.items()}


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def cut_of(model: Any) -> Cut:
    """Where the model's detections end. model: one of our families."""
    if hasattr(model, "selector"):
        return Cut(model.selector.score_threshold, model.selector.detections_per_image)
    if model.roi_heads is None:
        return Cut(0.0, model.rpn.test_limits.of_image or 0)
    return Cut(model.roi_heads.limits.score, model.roi_heads.limits.per_image)


def compare(loaded: LoadedModel, path: Path, samples: Sequence[Tensor]) -> Agreement:
    """Run file and model on pictures: each alone, then two and three together, in other sizes.

    samples: uint8[3, H, W], as the model sees them.
    """
    session = open_session(path)
    names = [output.name for output in session.get_outputs()]
    agreement, cut = Agreement(), cut_of(loaded.model)
    for batch in _batches(samples):
        arrays = session.run(None, {"images": batch.numpy()})
        found = {name: torch.from_numpy(each) for name, each in zip(names, arrays, strict=True)}
        with torch.inference_mode():
            expected = loaded.model(list(batch))
        image_index = found.pop("image_index")
        for index, of_image in enumerate(expected):
            is_own = image_index == index
            agreement.add(of_image, {name: found[name][is_own] for name in found}, cut)
    return agreement


def open_session(path: Path) -> Any:
    """An onnxruntime.InferenceSession on the CPU, on as many threads as torch takes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _batches(samples: Sequence[Tensor]) -> Iterator[Tensor]:
    """uint8[N, 3, H, W]: N is 1 in the sizes that the model is made for, then 2 and 3 in smaller
    ones, which cost less and are no less of a test."""
    for sample in samples:
        yield sample[None]
    for count, scale in ((2, 0.75), (3, 0.5)):
        height, width = (max(1, int(side * scale)) for side in samples[-1].shape[1:])
        several = [samples[index % len(samples)] for index in range(count)]
        yield torch.stack([_resized(each, (width, height)) for each in several])


def _resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    pixels = np.array(picture.resize(size, Image.Resampling.BILINEAR))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def as_seen(cfg: Config, path: Path) -> Tensor:
    """uint8[3, H, W], a picture's pixels as the model sees them in evaluation."""
    stages = build_transforms(cfg, is_train=False)
    sample = transform_sample(Sample(read_image(path), {}, 0), stages)
    return sample.image.contiguous()


def _known_pictures(cfg: Config) -> list[Path]:
    """Of the first test set, where its files are still there, else of the demo."""
    for name in cfg.DATASETS.TEST[:1]:
        with suppress(OSError, ValueError):
            truth, folder = load_truth(cfg, name, for_scoring=False)
            count = min(PICTURES, len(truth.file_names))
            paths = [folder / truth.file_name(index) for index in range(count)]
            if paths and all(path.is_file() for path in paths):
                return paths
    return sorted(Path(str(files("detengine") / "demo_data" / "images")).glob("*.png"))[:PICTURES]
