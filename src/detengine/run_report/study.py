"""Why a run scored what it scored: the analyses and telling images of its stored predictions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from detengine.config.catalog import find_definition
from detengine.config.load import replace as replace_values
from detengine.config.schema import CocoDefinition, Config
from detengine.data.build import load_truth
from detengine.data.class_balance import count_classes
from detengine.data.images import read_image
from detengine.evaluation.analysis import analyze
from detengine.evaluation.analysis_result import Analysis, ImageErrors
from detengine.evaluation.build import build_scoring_options, gives_proposals, iou_types_of
from detengine.evaluation.predictions_file import load_class_names, load_predictions
from detengine.report.draw import draw_both
from detengine.report.rendering import data_address
from detengine.report.study import Picture, Study
from detengine.rescoring import load_truths
from detengine.scoring import INFERENCE
from detengine.structures.ground_truth import GroundTruth
from detengine.structures.prediction import Prediction

SCORE_THRESHOLD = 0.5
"""From which score on detections are drawn, and counted as found in an image."""
MOST_DETECTIONS = 600_000
"""Of a test set that a run analyses by itself: COCO val2017's 5,000 images have 500,000."""
_WORST, _BEST = 6, 4
_PANEL_WIDTH, _QUALITY = 560, 78


def study(
    cfg: Config,
    folder: Path,
    test_set: str,
    *,
    working_folder: Path | None = None,
    most_detections: int | None = None,
) -> Study:
    """Analyse what an evaluation stored in `folder`/inference/`test_set`; one process.

    working_folder: where relative paths of data sets start, before the present one is tried.
    most_detections: a test set with more is not analysed; None: all are.
    What cannot be told is in `reasons`; nothing but a bug raises.
    """
    try:
        truth, image_folder = load_test_set(cfg, test_set, working_folder)
    except (OSError, ValueError) as error:
        return Study(test_set, reasons={"all": f"the data set cannot be read: {error}"})
    objects = {name: each.objects for name, each in count_classes(truth).items()}
    known = Study(test_set, objects=objects)
    if gives_proposals(cfg):
        why = "the model gives proposals, which have no class: they are scored by their recall"
        return replace(known, reasons={"all": why})
    stored = folder / INFERENCE / test_set
    try:
        class_names = load_class_names(stored)
        predictions = list(load_predictions(stored))
    except (OSError, ValueError) as error:
        return replace(known, reasons={"all": str(error)})
    number = sum(len(prediction) for _, prediction in predictions)
    if most_detections is not None and number > most_detections:
        why = (
            f"{number:,} detections are more than a run analyses by itself "
            f"({most_detections:,}); `detengine report` on the folder analyses all"
        )
        return replace(known, reasons={"all": why})
    analyses, reasons = _analyse(cfg, truth, predictions, class_names, test_set)
    known = replace(known, analyses=analyses, reasons=reasons)
    if not analyses:
        return known
    chosen = list(analyses.values())[-1]
    drawing = _Drawing(truth, image_folder, dict(predictions), class_names)
    try:
        worst = drawing.draw(chosen.worst_images[:_WORST])
        best = drawing.draw(chosen.best_images[:_BEST])
    except (OSError, ValueError) as error:
        return replace(known, why_no_pictures=f"the images cannot be read: {error}")
    return replace(known, worst=worst, best=best)


def load_test_set(cfg: Config, name: str, working_folder: Path | None) -> tuple[GroundTruth, Path]:
    """A test set's annotations, and the folder of its images, wherever the run was started.

    Of a COCO file the images may be gone. Raises FileNotFoundError, ValueError or OSError as
    `load_truth` does from the present folder.
    """
    places = [cfg]
    if working_folder is not None:
        root = cfg.DATASETS.ROOT
        if not root and name not in cfg.DATASETS.DEFINE:
            root = "datasets"
        there = replace_values(cfg, {"DATASETS.ROOT": str(working_folder / root)})
        places = [there, cfg]  # the folder may have moved together with its data
    errors = []
    for place in places:
        try:
            return load_truth(place, name, for_scoring=True)
        except FileNotFoundError as error:
            errors.append(error)
    for place in places:
        definition, base = find_definition(place.DATASETS, name)
        if isinstance(definition, CocoDefinition) and (base / definition.ANNOTATIONS).is_file():
            (truth,) = load_truths(place, base / definition.ANNOTATIONS).values()
            return truth, base / definition.IMAGES
    raise errors[-1]


def _analyse(
    cfg: Config,
    truth: GroundTruth,
    predictions: Sequence[tuple[int, Prediction]],
    class_names: Sequence[str],
    test_set: str,
) -> tuple[dict[str, Analysis], dict[str, str]]:
    analyses, reasons = {}, {}
    for iou_type in iou_types_of(cfg):
        try:
            analyses[iou_type] = analyze(
                truth,
                predictions,
                class_names,
                iou_type,
                options=build_scoring_options(cfg, test_set),
                on_wrong_images=cfg.TEST.ON_WRONG_IMAGES,
                score_threshold=SCORE_THRESHOLD,
                num_images=max(_WORST, _BEST),
            )
        except ValueError as error:
            reasons[iou_type] = str(error)
    return analyses, reasons


@dataclass(frozen=True)
class _Drawing:
    truth: GroundTruth
    image_folder: Path
    predictions: Mapping[int, Prediction]
    class_names: Sequence[str]

    def draw(self, images: Sequence[ImageErrors]) -> list[Picture]:
        return [self._draw(each) for each in images if each.image_id in self.predictions]

    def _draw(self, errors: ImageErrors) -> Picture:
        index = int((self.truth.image_ids == errors.image_id).nonzero()[0, 0])
        both = draw_both(
            read_image(self.image_folder / self.truth.file_name(index)),
            self.truth,
            index,
            self.predictions[errors.image_id],
            self.class_names,
            score_threshold=SCORE_THRESHOLD,
        )
        panels = [_reduced(each) for each in (both.truth, both.prediction)]
        truth, prediction = (data_address(each, _QUALITY) for each in panels)
        return Picture(errors, truth, prediction, *panels[0].size)


def _reduced(picture: Image.Image) -> Image.Image:
    """No larger than a page shows it on a display of two dots to the pixel."""
    width = min(picture.width, _PANEL_WIDTH)
    height = max(1, round(picture.height * width / picture.width))
    return picture.resize((width, height), Image.Resampling.LANCZOS)
