"""The loaders, made from the configuration."""

import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from detengine.config.catalog import find_definition
from detengine.config.schema import Config
from detengine.data.annotation_cache import cache_folder
from detengine.data.annotations import FEW
from detengine.data.build_formats import FORMATS
from detengine.data.collate import collate
from detengine.data.dataset import DetectionDataset, EvaluationData, TrainingData
from detengine.data.order import BatchOrder, RankBatchSampler
from detengine.data.part import select_part
from detengine.data.repeats import repeat_factors
from detengine.data.shared_batches import SharedBatches
from detengine.data.transforms import RandomCrop, make_resize
from detengine.data.workers import ObservedData
from detengine.distributed.comm import get_rank, get_world_size
from detengine.structures.categories import merge_class_names, raise_if_classes_unknown
from detengine.structures.ground_truth import GroundTruth

logger = logging.getLogger(__name__)

Loader = DataLoader[Any]
"""Yields `structures.batch.Batch`."""


def make_data_loader(
    cfg: Config,
    is_train: bool = True,
    is_distributed: bool = False,
    start_iter: int = 0,
    *,
    class_names: Sequence[str] | None = None,
    datasets: Sequence[DetectionDataset] | None = None,
) -> Any:
    """The loader of DATASETS.TRAIN, or a list with one for each of DATASETS.TEST.

    Called by all ranks; each gets its own share. In training, `len()` is MAX_ITER * ACCUMULATE
    micro-batches, and iteration begins with those of `start_iter`. In evaluation every image is
    there once over all ranks. is_distributed: False loads everything on each rank.
    class_names: of the labels 1..K; None for DATASETS.CLASSES, or else for all classes of
    DATASETS.TRAIN (of DATASETS.TEST where that is empty).
    datasets: what `build_datasets` made of them, so that no file is read twice; None reads them.
    Raises ValueError or FileNotFoundError, naming the key, the data set or the file, and the cure.
    """
    world_size = get_world_size() if is_distributed else 1
    rank = get_rank() if is_distributed else 0
    names = cfg.DATASETS.TRAIN if is_train else cfg.DATASETS.TEST
    if is_train and not names:
        raise ValueError("DATASETS.TRAIN is empty: name at least one data set to train on")
    if datasets is None:
        datasets = build_datasets(cfg, names, class_names, for_scoring=not is_train)
    if is_train:
        return make_training_loader(cfg, datasets, start_iter, rank=rank, world_size=world_size)
    return [
        make_evaluation_loader(cfg, each, rank=rank, world_size=world_size) for each in datasets
    ]


def build_datasets(
    cfg: Config,
    names: Sequence[str],
    class_names: Sequence[str] | None = None,
    *,
    for_scoring: bool = False,
    loaded: dict[str, tuple[GroundTruth, Path]] | None = None,
) -> list[DetectionDataset]:
    """The named data sets, whose labels all mean the same classes.

    class_names: as in make_data_loader; a data set with a class beyond them is refused, unless
    DATASETS.CLASSES says that the choice is deliberate. for_scoring: their ground truth has what
    only scoring asks for, too. loaded: what `load_truth` gives of them, where it is there already.
    """
    if loaded is None:
        loaded = {name: load_truth(cfg, name, for_scoring=for_scoring) for name in names}
    if class_names is None:
        class_names = _choose_class_names(cfg, loaded)
    elif cfg.DATASETS.CLASSES is None:
        for name, (truth, _) in loaded.items():
            raise_if_classes_unknown(class_names, truth.categories, name)
    _raise_if_number_of_classes_differs(cfg, class_names)
    for name, (truth, _) in loaded.items():
        _raise_if_number_of_keypoints_differs(cfg, name, truth)
    return [
        DetectionDataset(
            name,
            *loaded[name],
            class_names,
            with_masks=cfg.MODEL.MASK_ON,
            with_keypoints=cfg.MODEL.KEYPOINT_ON,
            inclusive_pixels=cfg.MODEL.ARITHMETIC.INCLUSIVE_PIXELS,
        )
        for name in names
    ]


def build_transforms(cfg: Config, is_train: bool) -> list[v2.Transform]:
    """The stages that change something, in their order: colours, flips, resize, crop.

    Flips come before resizing, because torchvision mirrors keypoints as pixels (width - 1 - x). So
    does the predecessor, but in the resized image: where its boxes are, flips come last. With
    TEST.BBOX_AUG nothing is resized for evaluation, as `TestTimeAugmentation` does it itself.
    """
    options, inclusive_pixels = cfg.INPUT, cfg.MODEL.ARITHMETIC.INCLUSIVE_PIXELS
    if not is_train:
        return [] if cfg.TEST.BBOX_AUG.ENABLED else [_evaluation_resize(cfg)]
    colours = (options.BRIGHTNESS, options.CONTRAST, options.SATURATION, options.HUE)
    stages: list[v2.Transform] = [v2.ColorJitter(*colours)] if any(colours) else []
    flips: list[v2.Transform] = []
    if options.HORIZONTAL_FLIP_PROB_TRAIN > 0:
        flips.append(v2.RandomHorizontalFlip(options.HORIZONTAL_FLIP_PROB_TRAIN))
    if options.VERTICAL_FLIP_PROB_TRAIN > 0:
        flips.append(v2.RandomVerticalFlip(options.VERTICAL_FLIP_PROB_TRAIN))
    sizing = [make_resize(options.RESIZE, options.MIN_SIZE_TRAIN, options.MAX_SIZE_TRAIN)]
    if options.CROP_SIZE_TRAIN is not None:
        sizing.append(RandomCrop(options.CROP_SIZE_TRAIN, inclusive_pixels=inclusive_pixels))
    return stages + (sizing + flips if inclusive_pixels else flips + sizing)


def _evaluation_resize(cfg: Config) -> v2.Transform:
    return make_resize(cfg.INPUT.RESIZE, (cfg.INPUT.MIN_SIZE_TEST,), cfg.INPUT.MAX_SIZE_TEST)


def load_truth(cfg: Config, name: str, *, for_scoring: bool) -> tuple[GroundTruth, Path]:
    """The annotations of a data set by name, and the folder of its images."""
    definition, root = find_definition(cfg.DATASETS, name)
    cache = cache_folder() if cfg.DATASETS.CACHE else None
    truth, image_folder = FORMATS[definition.FORMAT](definition, root, name, for_scoring, cache)
    if definition.PART is not None:
        truth = select_part(truth, definition.PART, name)
    if not len(truth):
        raise ValueError(
            f"data set {name!r} lists no images, but at least one is needed. Does "
            f"DATASETS.DEFINE.{name} name the right file?"
        )
    return truth, image_folder


def _choose_class_names(
    cfg: Config, loaded: dict[str, tuple[GroundTruth, Path]]
) -> tuple[str, ...]:
    """DATASETS.CLASSES, or the training sets' classes, so that labels mean what was trained.

    Who scores published weights may not have the sets that they were trained on: then the scored
    sets' classes in their own order, as in the predecessor, with a warning.
    """
    names: Sequence[str] = cfg.DATASETS.TRAIN or cfg.DATASETS.TEST
    try:
        truths = [
            loaded[name][0] if name in loaded else load_truth(cfg, name, for_scoring=False)[0]
            for name in names
        ]
    except FileNotFoundError as error:
        names, truths = list(loaded), [truth for truth, _ in loaded.values()]
        logger.warning("labels are taken for the classes of %s: %s", ", ".join(names), error)
    found = merge_class_names([truth.categories for truth in truths])
    if not found:
        raise ValueError(
            f"{', '.join(names)}: no class is named there, but at least one is needed. Complete "
            "the categories (COCO), or set the data set's CLASSES (VOC)."
        )
    if cfg.DATASETS.CLASSES is None:
        return found
    unknown = [name for name in cfg.DATASETS.CLASSES if name not in found]
    if unknown:
        raise ValueError(
            f"DATASETS.CLASSES asks for {', '.join(map(repr, unknown))}, but the classes of "
            f"{', '.join(names)} are {', '.join(map(repr, found))}"
        )
    return tuple(cfg.DATASETS.CLASSES)


def _raise_if_number_of_classes_differs(cfg: Config, class_names: Sequence[str]) -> None:
    """A head with too few outputs cannot learn a label, one with too many finds nameless classes.

    Too many are let pass for a BUILDER, which may not care, and under the predecessor's
    conventions, where 81 stands for "not set". Proposals have no classes.
    """
    if cfg.MODEL.RPN_ONLY and not cfg.MODEL.RETINANET_ON:
        return
    key, given = number_of_classes(cfg)
    needed = len(class_names) + 1
    may_exceed = cfg.MODEL.BUILDER is not None or cfg.CONVENTIONS != "modern"
    if given is None or given == needed or (given > needed and may_exceed):
        return
    too_few = "a label beyond NUM_CLASSES: " if given < needed else ""
    raise ValueError(
        f"{too_few}{key} is {given}, background included, but the data has {len(class_names)} "
        f"classes ({', '.join(class_names[:FEW])}{', ...' if len(class_names) > FEW else ''}) and "
        f"needs {needed}. Leave the key out, to have it taken from the data, or choose classes by "
        "DATASETS.CLASSES."
    )


def _raise_if_number_of_keypoints_differs(cfg: Config, name: str, truth: GroundTruth) -> None:
    """A BUILDER's model may have its own number; what has no keypoints is refused elsewhere."""
    expected = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES
    if not cfg.MODEL.KEYPOINT_ON or cfg.MODEL.BUILDER is not None or truth.keypoints is None:
        return
    given = truth.keypoints.shape[1]
    if given != expected:
        raise ValueError(
            f"MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES is {expected}, but the objects of data set "
            f"{name!r} have {given} keypoints; set it to {given}, or give another data set"
        )


def number_of_classes(cfg: Config) -> tuple[str, int | None]:
    """The key that says how many classes the model tells apart, background included; its value."""
    if cfg.MODEL.RETINANET_ON:
        return "MODEL.RETINANET.NUM_CLASSES", cfg.MODEL.RETINANET.NUM_CLASSES
    return "MODEL.ROI_BOX_HEAD.NUM_CLASSES", cfg.MODEL.ROI_BOX_HEAD.NUM_CLASSES


def make_training_loader(
    cfg: Config,
    datasets: Sequence[DetectionDataset],
    start_iter: int,
    *,
    rank: int,
    world_size: int,
) -> Loader:
    """One rank's part of every batch of the run, from `start_iter` on."""
    accumulate = cfg.SOLVER.ACCUMULATE
    raise_if_indivisible(cfg, world_size)
    data = TrainingData(datasets, build_transforms(cfg, is_train=True), cfg.SEED)
    sizes = data.image_sizes()
    groups = torch.zeros(len(data), dtype=torch.int64)
    if cfg.DATALOADER.ASPECT_RATIO_GROUPING:
        groups = (sizes[:, 0] >= sizes[:, 1]).long()  # the predecessor's: upright and square, wide
    factors = _repeat_factors(data, cfg.DATALOADER.REPEAT_THRESHOLD)
    sampler = RankBatchSampler(
        BatchOrder(groups, cfg.SOLVER.IMS_PER_BATCH, cfg.SEED, repeat_factors=factors),
        cfg.SOLVER.MAX_ITER,
        start_iter,
        rank=rank,
        world_size=world_size,
        accumulate=accumulate,
    )
    return _loader(cfg, data, sampler, keep_workers=True)


def _repeat_factors(data: TrainingData, threshold: float | None) -> torch.Tensor | None:
    if threshold is None:
        return None
    factors = repeat_factors(*data.labels_trained_on(), len(data), threshold)
    logger.info(
        "DATALOADER.REPEAT_THRESHOLD %g: %d of %d images are repeated, at most %.2f times an epoch "
        "on average; an epoch has %.0f images",
        threshold,
        int((factors > 1).sum()),
        len(data),
        float(factors.max()),
        float(factors.sum()),
    )
    return factors


def make_evaluation_loader(
    cfg: Config,
    dataset: DetectionDataset,
    *,
    rank: int,
    world_size: int,
    without: Collection[int] = (),
) -> Loader:
    """One rank's images of a data set: every world_size-th, each image once over all ranks.

    without: ids of images that are left out, because there are predictions of them. The others come
    in the batches that they come in anyway, since an image is padded to the largest of its batch,
    and what is found in it depends on that.
    """
    data = EvaluationData(dataset, build_transforms(cfg, is_train=False))
    batches = _batches_of_rank(cfg, len(dataset), rank=rank, world_size=world_size)
    if without:
        done, image_ids = frozenset(without), dataset.ground_truth().image_ids.tolist()
        missing = ([each for each in batch if image_ids[each] not in done] for batch in batches)
        batches = [batch for batch in missing if batch]
    return _loader(cfg, data, batches, keep_workers=False)


def make_loss_loader(
    cfg: Config, dataset: DetectionDataset, *, rank: int, world_size: int
) -> Loader:
    """The images of `make_evaluation_loader`, in its batches, with what is trained on in them.

    They are resized as in evaluation, whatever TEST.BBOX_AUG says.
    """
    data = EvaluationData(dataset, [_evaluation_resize(cfg)], with_targets=True)
    batches = _batches_of_rank(cfg, len(dataset), rank=rank, world_size=world_size)
    return _loader(cfg, data, batches, keep_workers=False)


def _batches_of_rank(
    cfg: Config, images: int, *, rank: int, world_size: int
) -> list[Sequence[int]]:
    """The indices of each batch that a rank evaluates."""
    size = max(1, cfg.TEST.IMS_PER_BATCH // world_size)
    own = range(images)[rank::world_size]
    return [own[start : start + size] for start in range(0, len(own), size)]


def _loader(cfg: Config, data: Any, batch_sampler: Any, *, keep_workers: bool) -> Loader:
    workers = cfg.DATALOADER.NUM_WORKERS
    observed = ObservedData(data, workers)
    return DataLoader(
        observed,
        batch_sampler=batch_sampler,
        num_workers=workers,
        collate_fn=SharedBatches() if workers else collate,
        pin_memory=cfg.MODEL.DEVICE not in ("cpu", "mps") and torch.cuda.is_available(),
        persistent_workers=keep_workers and workers > 0,
        worker_init_fn=observed.start_worker if workers else None,
        # its own: without one, each iter() draws from torch's global generator
        generator=torch.Generator(),
    )


def raise_if_indivisible(cfg: Config, world_size: int) -> None:
    """Raise ValueError unless each rank gets as many images of a batch as the others."""
    images, accumulate = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.ACCUMULATE
    parts = world_size * accumulate
    if images % parts == 0:
        return
    below, above = images // parts * parts, (images // parts + 1) * parts
    nearest = f"{below} or {above}" if below else str(above)
    raise ValueError(
        f"SOLVER.IMS_PER_BATCH is {images}, which cannot be divided among {world_size} ranks with "
        f"SOLVER.ACCUMULATE {accumulate} micro-batches each. The nearest that can: {nearest}. "
        f"With it, SOLVER.REFERENCE_IMS_PER_BATCH {images} scales the learning rate and the "
        "iterations."
    )
