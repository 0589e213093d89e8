"""Samples of a data set as it is stored and as training sees it: pictures, and a page of them."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from detengine.config.load import replace as replace_keys
from detengine.config.schema import Config
from detengine.data.build import build_datasets, build_transforms
from detengine.data.build_survey import Survey, survey
from detengine.data.class_balance import count_classes
from detengine.data.dataset import DetectionDataset, TrainingData
from detengine.data.keypoints import skeleton_of
from detengine.disk.writing import write_text
from detengine.monitor.logs import collected_warnings
from detengine.monitor.progress import track
from detengine.output_folder import make_output_folder
from detengine.report.annotations import Annotations, draw_annotations
from detengine.report.colours import colour_in_css, colours_of
from detengine.report.pictures import save_picture
from detengine.report.samples_page import (
    EmbeddedPicture,
    LegendEntry,
    SamplesPage,
    ShownSample,
    embedded,
    render_samples_page,
)
from detengine.structures.batch import Sample
from detengine.structures.categories import merge_class_names
from detengine.structures.finding import counted, listed
from detengine.structures.ground_truth import GroundTruth
from detengine.structures.rle import RLE

logger = logging.getLogger("detengine.showing")

PAGE = "index.html"


@dataclass(frozen=True)
class Choice:
    """Which images are shown. count: spread evenly over the data set, or, with a seed, drawn by it;
    image_ids: these instead. draws: how many of training's variants of each."""

    count: int = 8
    draws: int = 3
    seed: int | None = None
    image_ids: Sequence[int] = ()


def show(cfg: Config, name: str, choice: Choice, folder: Path) -> Path:
    """Draw samples of a data set into PNG files, and a page of them; the page's path.

    As it is stored: all annotations, those that are not trained on hatched. As training sees it:
    the very images and targets that the first epochs of a training with this configuration get.
    Images that cannot be read are shown by what is wrong with them. Raises ValueError or OSError
    where nothing can be read, and for an image id that is not there.
    """
    with collected_warnings("detengine"):
        viewer = _open(cfg, name)
        indices = _chosen_images(viewer.truth, choice)
        pictures = make_output_folder(folder / "pictures")
        samples = [
            viewer.sample(index, choice.draws, pictures) for index in track(indices, "pictures")
        ]
    page = SamplesPage(
        name,
        viewer.facts(len(samples)),
        [f"{each.what} {each.cure}" for each in viewer.survey.findings],
        viewer.legend(),
        samples,
    )
    if unread := sum(each.problem is not None for each in samples):
        logger.warning("%d of %d images cannot be shown; the page says why", unread, len(samples))
    path = folder / PAGE
    write_text(path, render_samples_page(page))
    return path


@dataclass(frozen=True)
class _Viewer:
    """A data set that is looked at. training: it and the data sets that are trained on with it;
    offset: where its images begin there."""

    survey: Survey
    truth: GroundTruth
    dataset: DetectionDataset
    training: TrainingData
    offset: int

    def facts(self, shown: int) -> list[str]:
        """Numbers of the data set, in words. shown: images in the page."""
        truth = self.truth
        empty = int((truth.offsets.diff() == 0).sum())
        return [
            counted(len(truth), "image"),
            counted(len(truth.annotation_ids), "annotation"),
            f"{empty:,} without annotations",
            f"{shown} shown",
        ]

    def legend(self) -> list[LegendEntry]:
        """Each class with its colour and its objects, then what is not trained on."""
        counts = count_classes(self.truth)
        names = self.dataset.class_names
        entries = [
            LegendEntry(
                name,
                colour_in_css(label),
                counts[name].objects if name in counts else 0,
            )
            for label, name in enumerate(names)
        ]
        if len(names) == 1:
            entries = [replace(entries[0], name=f"{names[0]}, each in a colour of its own")]
        for kind, flags in (("crowd", self.truth.is_crowd), ("difficult", self.truth.is_difficult)):
            if flags.any():
                entries.append(LegendEntry(f"{kind}: not trained on", "", int(flags.sum())))
        return entries

    def sample(self, index: int, draws: int, folder: Path) -> ShownSample:
        """One image, drawn into files of the folder."""
        truth, dataset = self.truth, self.dataset
        file_name, image_id = truth.file_name(index), int(truth.image_ids[index])
        height, width = truth.image_sizes[index].tolist()
        number = truth.annotations_of(index)
        facts = [
            f"id {image_id}",
            f"{width} x {height}",
            counted(number.stop - number.start, "annotation"),
        ]
        stem = f"{image_id}_{re.sub(r'[^A-Za-z0-9._-]', '_', Path(file_name).stem)[:80]}"
        try:
            image = dataset.read_image(index)
        except (ValueError, OSError) as error:
            return ShownSample(file_name, facts, [], str(error))
        annotations, names = stored_annotations(truth, index, dataset.class_names)
        stored = _draw(image, annotations, names)
        pictures = [_kept(stored, folder / f"{stem}_stored.png", "as it is stored")]
        for epoch in range(draws):
            seen = self.training[epoch, self.offset + index]
            picture = _draw(seen.image, annotations_of(seen, dataset), dataset.class_names)
            height, width = seen.image.shape[1:]
            objects = counted(len(seen.target["boxes"]), "object")
            caption = f"training, epoch {epoch + 1}: {width} x {height}, {objects}"
            pictures.append(_kept(picture, folder / f"{stem}_epoch{epoch + 1}.png", caption))
        return ShownSample(file_name, facts, pictures)


def _open(cfg: Config, name: str) -> _Viewer:
    found = survey(cfg, name)
    if found.truth is None or found.image_folder is None:
        first = found.findings[0]
        raise ValueError(f"{first.what} {first.cure}".strip())
    beside = cfg.DATASETS.TRAIN if name in cfg.DATASETS.TRAIN else (name,)
    loaded = {name: (found.truth, found.image_folder)}
    for each in beside:
        if each != name:
            other = survey(cfg, each)
            if other.truth is not None and other.image_folder is not None:
                loaded[each] = (other.truth, other.image_folder)
    names = [each for each in beside if each in loaded]
    truths = [loaded[each][0] for each in names]
    class_names = cfg.DATASETS.CLASSES or merge_class_names([each.categories for each in truths])
    cfg = _undemanding(cfg, truths)
    datasets = build_datasets(cfg, names, class_names, loaded=loaded)
    at = names.index(name)
    training = TrainingData(datasets, build_transforms(cfg, is_train=True), cfg.SEED)
    offset = sum(len(each) for each in datasets[:at])
    return _Viewer(found, found.truth, datasets[at], training, offset)


def _undemanding(cfg: Config, truths: Sequence[GroundTruth]) -> Config:
    """The same, but that what the data do not have is not asked for: here it is looked at only."""
    changes: dict[str, object] = {
        "MODEL.ROI_BOX_HEAD.NUM_CLASSES": None,
        "MODEL.RETINANET.NUM_CLASSES": None,
    }
    if any(each.masks is None for each in truths):
        changes["MODEL.MASK_ON"] = False
    if any(each.keypoints is None for each in truths):
        changes["MODEL.KEYPOINT_ON"] = False
    elif cfg.MODEL.KEYPOINT_ON:
        [*joints] = {each.keypoints.shape[1] for each in truths if each.keypoints is not None}
        if joints != [cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES]:
            changes["MODEL.KEYPOINT_ON"] = False
    return replace_keys(cfg, changes)


def _chosen_images(truth: GroundTruth, choice: Choice) -> list[int]:
    """The indices of the images. Raises ValueError for an id that is not there."""
    if choice.image_ids:
        index_of_id = {image_id: index for index, image_id in enumerate(truth.image_ids.tolist())}
        unknown = [str(each) for each in choice.image_ids if each not in index_of_id]
        if unknown:
            raise ValueError(
                f"there is no image {listed(unknown)} in the data set; its image ids are "
                f"{listed(list(map(str, index_of_id)))}. Choose --images among them."
            )
        return [index_of_id[each] for each in choice.image_ids]
    number = min(choice.count, len(truth))
    if choice.seed is not None:
        generator = torch.Generator().manual_seed(choice.seed)
        return sorted(torch.randperm(len(truth), generator=generator)[:number].tolist())
    chosen: list[int] = torch.linspace(0, len(truth) - 1, number).round().long().tolist()
    return chosen


def stored_annotations(
    truth: GroundTruth, index: int, class_names: Sequence[str]
) -> tuple[Annotations, list[str]]:
    """All that is annotated in an image, and the names of its labels.

    Crowds, difficult objects and classes that are not used (DATASETS.CLASSES) are set aside.
    """
    rows = truth.annotations_of(index)
    names = list(dict.fromkeys((*class_names, *truth.categories.names)))
    label_of_id = truth.categories.labels_of_ids(names)
    labels = [label_of_id[each] for each in truth.category_ids[rows].tolist()]
    flags = zip(
        labels, truth.is_crowd[rows].tolist(), truth.is_difficult[rows].tolist(), strict=True
    )
    set_aside = [
        "crowd" if crowd else "difficult" if difficult else "not used" * (label > len(class_names))
        for label, crowd, difficult in flags
    ]
    boxes = truth.boxes_xywh[rows].float()
    boxes[:, 2:] += boxes[:, :2]
    masks: list[RLE] | None = None
    if truth.masks is not None:
        size = truth.image_sizes[index].tolist()
        counts = truth.masks.between(rows.start, rows.stop)
        masks = [{"size": size, "counts": each} for each in counts]
    keypoints = None if truth.keypoints is None else truth.keypoints[rows].float()
    found = Annotations(boxes, torch.tensor(labels, dtype=torch.int64), set_aside, masks, keypoints)
    return found, names if len(class_names) > 1 or any(set_aside) else list(class_names)


def annotations_of(sample: Sample, dataset: DetectionDataset) -> Annotations:
    """What a sample of the training is trained on."""
    target = sample.target
    boxes: Tensor = target["boxes"]
    if dataset.inclusive_pixels:
        boxes = boxes + torch.tensor([0.0, 0.0, 1.0, 1.0])
    masks = target["masks"].dense() if len(boxes) and "masks" in target else None
    nothing = [""] * len(boxes)
    return Annotations(boxes, target["labels"], nothing, masks, target.get("keypoints"))


def _draw(image: Tensor, annotations: Annotations, names: Sequence[str]) -> Image.Image:
    keypoints = annotations.keypoints
    return draw_annotations(
        image,
        annotations,
        names,
        colours_of(annotations.labels, names),
        skeleton=() if keypoints is None else skeleton_of(keypoints.shape[1]),
    )


def _kept(picture: Image.Image, path: Path, caption: str) -> EmbeddedPicture:
    save_picture(picture, path)
    return embedded(picture, caption)
