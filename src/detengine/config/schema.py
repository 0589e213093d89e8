"""Every option of a run: its type, its meaning and its unit. The model's are in `schema_model`.

The values given here are the predecessor's (maskrcnn_benchmark/config/defaults.py), for its files
name nothing else; `conventions` says what CONVENTIONS: modern changes. The keys that the
predecessor did not have are off by their value here, or do what it did.
"""

from collections import Counter
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from detengine.config.field_types import (
    BelowOne,
    Count,
    ExpectedResult,
    Fraction,
    Maybe,
    Named,
    NonNegative,
    OneOrMore,
    Pair,
    Positive,
    Section,
    Several,
    Size,
    Switch,
    Triple,
)
from detengine.config.schema_model import Model

Conventions: TypeAlias = Literal["maskrcnn_benchmark", "modern"]


class CocoDefinition(Section):
    """A data set in COCO's json format. Relative paths start at DATASETS.ROOT."""

    FORMAT: Literal["coco"]
    IMAGES: str
    """The folder of the images."""
    ANNOTATIONS: str
    """The json file."""


class VocDefinition(Section):
    """A data set in PASCAL VOC's layout. Relative paths start at DATASETS.ROOT."""

    FORMAT: Literal["voc"]
    ROOT: str
    """The folder that holds Annotations, ImageSets and JPEGImages."""
    SPLIT: str
    """A list in ImageSets/Main, without .txt."""
    CLASSES: Maybe[Several[str]] = None
    """The class names and their order; None: all that occur."""


DatasetDefinition: TypeAlias = CocoDefinition | VocDefinition


class Input(Section):
    """How images are resized, varied and normalised."""

    MIN_SIZE_TRAIN: OneOrMore[Size] = (800,)
    """The shorter side in training, in pixels; of several, one is drawn for each image."""
    MAX_SIZE_TRAIN: Size = 1333
    """The longer side's limit in training, in pixels."""
    MIN_SIZE_TEST: Size = 800
    """The shorter side in evaluation, in pixels."""
    MAX_SIZE_TEST: Size = 1333
    """The longer side's limit in evaluation, in pixels."""
    RESIZE: Literal["pillow", "torch"] = "pillow"
    """pillow: Pillow's bilinear, the longer side cut off to whole pixels, as in the predecessor;
    torch: torch's antialiased bilinear, both sides rounded to the nearest pixel."""
    CROP_SIZE_TRAIN: Maybe[Pair[Size]] = None
    """(height, width) of the random crop after resizing, in pixels; None: no crop."""
    PIXEL_MEAN: Triple[NonNegative] = (102.9801, 115.9465, 122.7717)
    """Subtracted from each channel: BGR in 0..255 if TO_BGR255, else RGB in [0, 1]."""
    PIXEL_STD: Triple[Positive] = (1.0, 1.0, 1.0)
    """Each channel is divided by it, in PIXEL_MEAN's order and scale."""
    TO_BGR255: Switch = True
    """Give the model BGR in 0..255, as Caffe2's weights want it, instead of RGB in [0, 1]."""
    BRIGHTNESS: NonNegative = 0.0
    """Colour jitter: the factor is drawn from 1 - x to 1 + x."""
    CONTRAST: NonNegative = 0.0
    """Colour jitter: the factor is drawn from 1 - x to 1 + x."""
    SATURATION: NonNegative = 0.0
    """Colour jitter: the factor is drawn from 1 - x to 1 + x."""
    HUE: Annotated[Fraction, Field(le=0.5)] = 0.0
    """Colour jitter: the shift, in turns of the colour circle, is drawn from -x to x."""
    HORIZONTAL_FLIP_PROB_TRAIN: Fraction = 0.5
    """The probability of mirroring left to right."""
    VERTICAL_FLIP_PROB_TRAIN: Fraction = 0.0
    """The probability of mirroring top to bottom."""


class Datasets(Section):
    """What is trained on and scored."""

    TRAIN: Several[str] = ()
    """Names of the data sets to train on, together."""
    TEST: Several[str] = ()
    """Names of the data sets to score, one after the other."""
    DEFINE: Named[Annotated[DatasetDefinition, Field(discriminator="FORMAT")]] = Field(default={})
    """Data sets by name: where their files are, and in which format."""
    ROOT: str = ""
    """Where relative paths in DEFINE start; empty: at the working folder."""
    CLASSES: Maybe[OneOrMore[str]] = None
    """The classes to use, as labels 1, 2, ...; None: all, as the data sets order them."""


class DataLoader(Section):
    """How batches are made."""

    NUM_WORKERS: Count = 4
    """Loading processes of each rank; 0: the training process loads by itself."""
    SIZE_DIVISIBILITY: Maybe[Count] = 0
    """Batches are padded to multiples of this many pixels; 0: to the largest image; None: to
    multiples of the backbone's coarsest stride."""
    ASPECT_RATIO_GROUPING: Switch = True
    """Put upright and lying images into separate batches, which saves padding."""


class Solver(Section):
    """How the weights are updated. An iteration is one step of the optimizer."""

    MAX_ITER: Count = 40000
    """Iterations of the whole run."""
    IMS_PER_BATCH: Size = 16
    """Images of one iteration, over all ranks and micro-batches."""
    ACCUMULATE: Size = 1
    """Micro-batches of one iteration; divides IMS_PER_BATCH."""
    OPTIMIZER: Literal["sgd", "adamw"] = "sgd"
    """The update rule."""
    BASE_LR: Positive = 0.001
    """The learning rate after warm-up."""
    BIAS_LR_FACTOR: NonNegative = 2.0
    """The learning rate of biases, relative to BASE_LR."""
    MOMENTUM: BelowOne = 0.9
    """SGD's momentum."""
    BETAS: Pair[BelowOne] = (0.9, 0.999)
    """AdamW's decay rates of the two running averages."""
    WEIGHT_DECAY: NonNegative = 0.0005
    """Weight decay of everything but biases."""
    WEIGHT_DECAY_BIAS: NonNegative = 0.0
    """Weight decay of biases."""
    CLIP_NORM: Maybe[Positive] = None
    """The limit of the gradients' total L2 norm; None: not limited."""
    SCHEDULE: Literal["multistep", "cosine", "onecycle"] = "multistep"
    """The course of the learning rate; the first two begin with the warm-up."""
    STEPS: Several[Count] = (30000,)
    """multistep: the iterations at which the learning rate is multiplied by GAMMA, ascending."""
    GAMMA: Positive = 0.1
    """multistep: the factor at each of STEPS."""
    MIN_LR_FACTOR: Fraction = 0.0
    """cosine, onecycle: the last learning rate, relative to BASE_LR."""
    ONE_CYCLE_WARMUP_FRACTION: Fraction = 0.1
    """onecycle: the part of the run in which the learning rate rises."""
    WARMUP_METHOD: Literal["constant", "linear"] = "linear"
    """multistep, cosine: how the learning rate gets from WARMUP_FACTOR to 1."""
    WARMUP_FACTOR: NonNegative = 1 / 3
    """The first learning rate, relative to BASE_LR; onecycle's too."""
    WARMUP_ITERS: Count = 500
    """multistep, cosine: iterations of the warm-up."""
    EMA_DECAY: Maybe[BelowOne] = None
    """Decay of the weights' running average, which is scored and saved too; None: no average."""
    EMA_WARMUP_ITERS: Count = 0
    """Iterations over which the decay rises to EMA_DECAY."""
    ON_NONFINITE: Literal["stop", "skip"] = "stop"
    """At an infinite or NaN gradient: stop the run, or leave that update out."""
    LOG_PERIOD: Size = 20
    """Iterations between two log lines."""
    CHECKPOINT_PERIOD: Size = 2500
    """Iterations between two checkpoints."""
    TEST_PERIOD: Count = 0
    """Iterations between two evaluations of DATASETS.TEST; 0: only at the end."""


class BoxAugmentation(Section):
    """Test-time augmentation: detections over several views of an image, merged."""

    ENABLED: Switch = False
    """Whether to use more views than the image itself."""
    H_FLIP: Switch = False
    """Add the image mirrored left to right."""
    SCALES: Several[Size] = ()
    """Add the image at these lengths of the shorter side, in pixels."""
    MAX_SIZE: Size = 4000
    """The longer side's limit at SCALES, in pixels."""
    SCALE_H_FLIP: Switch = False
    """Add the mirrored image at each of SCALES."""


class Evaluation(Section):
    """How the model is scored."""

    IMS_PER_BATCH: Size = 8
    """Images of one batch, over all ranks."""
    DETECTIONS_PER_IMG: Size = 100
    """RetinaNet: the most detections of one image. R-CNN has ROI_HEADS.DETECTIONS_PER_IMG."""
    EXPECTED_RESULTS: Several[ExpectedResult] = ()
    """(task, metric, (mean, standard deviation)), such as (bbox, AP, (0.377, 0.001))."""
    EXPECTED_RESULTS_SIGMA_TOL: Positive = 4.0
    """How many standard deviations from its mean a metric may be."""
    PICTURES: Count = 8
    """Pictures of truth and prediction written for each test set."""
    BBOX_AUG: BoxAugmentation = BoxAugmentation()


class Config(Section):
    """The whole configuration of a run. Consistent in itself; files are looked at elsewhere."""

    CONVENTIONS: Conventions = "maskrcnn_benchmark"
    """Which table of defaults and which arithmetic: the predecessor's, or torchvision's."""
    OUTPUT_DIR: str = "."
    """The folder everything is written to."""
    SEED: Count = 0
    """The seed of the data's order, of the transforms and of the model's draws."""
    DTYPE: Literal["float32", "bfloat16", "float16"] = "float32"
    """The precision of the forward pass; parameters are float32."""
    MODEL: Model = Model()
    INPUT: Input = Input()
    DATASETS: Datasets = Datasets()
    DATALOADER: DataLoader = DataLoader()
    SOLVER: Solver = Solver()
    TEST: Evaluation = Evaluation()
    AMP_VERBOSE: Switch = False
    """Of the predecessor's mixed precision; has no effect."""
    PATHS_CATALOG: str = ""
    """The predecessor's Python file of data sets; has no effect, see DATASETS.DEFINE."""

    @model_validator(mode="after")
    def _raise_if_inconsistent(self) -> "Config":
        solver = self.SOLVER
        if solver.IMS_PER_BATCH % solver.ACCUMULATE:
            raise ValueError(
                f"SOLVER.IMS_PER_BATCH is {solver.IMS_PER_BATCH}, which SOLVER.ACCUMULATE, "
                f"{solver.ACCUMULATE}, does not divide; expected a multiple of it"
            )
        if list(solver.STEPS) != sorted(solver.STEPS):
            raise ValueError(f"SOLVER.STEPS is {solver.STEPS}; expected ascending iterations")
        if not self.INPUT.TO_BGR255 and max(self.INPUT.PIXEL_MEAN) > 1:
            raise ValueError(
                f"INPUT.PIXEL_MEAN is {self.INPUT.PIXEL_MEAN}; expected the mean of RGB in [0, 1] "
                "where INPUT.TO_BGR255 is False"
            )
        _raise_if_doubled("DATASETS.CLASSES", self.DATASETS.CLASSES)
        for name, definition in self.DATASETS.DEFINE.items():
            if isinstance(definition, VocDefinition):
                _raise_if_doubled(f"DATASETS.DEFINE.{name}.CLASSES", definition.CLASSES)
        return self


def _raise_if_doubled(key: str, names: tuple[str, ...] | None) -> None:
    doubled = [name for name, count in Counter(names).items() if count > 1]
    if doubled:
        raise ValueError(f"{key} has {doubled[0]!r} twice; expected each class once")
