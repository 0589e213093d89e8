"""Every option of a run: its type, its meaning and its unit. The model's are in `schema_model`.

The values given here are the predecessor's (maskrcnn_benchmark/config/defaults.py), for its files
name nothing else; `conventions` says what CONVENTIONS: modern changes. The keys that the
predecessor did not have are off by their value here, or do what it did.
"""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from detengine.config.contradictions import find_contradictions
from detengine.config.field_types import (
    BelowOne,
    Boxes,
    BoxesOrAll,
    Count,
    ExpectedResult,
    FewOrNone,
    Fraction,
    Images,
    IoU,
    Maybe,
    MaybeText,
    Named,
    NoEffect,
    NonNegative,
    OneOrMore,
    Pair,
    Pixels,
    PixelsOrNone,
    Positive,
    Section,
    Seed,
    Several,
    Size,
    Switch,
    Triple,
    Unit,
)
from detengine.config.schema_model import Model

Conventions: TypeAlias = Literal["maskrcnn_benchmark", "modern"]

ITERATIONS = Unit("iterations")
INTENSITY = Unit("TO_BGR255: 0..255, else 0..1")
Intensity = Annotated[NonNegative, INTENSITY]
Part: TypeAlias = Maybe[Pair[Fraction]]


class CocoDefinition(Section):
    """A data set in COCO's json format. Relative paths start at DATASETS.ROOT."""

    FORMAT: Literal["coco"]
    IMAGES: str
    """The folder of the images."""
    ANNOTATIONS: str
    """The json file."""
    PART: Part = None
    """(from, to): only these of all images, in an order drawn by their names, so that [0.0, 0.2]
    and [0.2, 1.0] have none in common and an image more moves few others. None: all."""


class CityscapesDefinition(Section):
    """A data set in Cityscapes' layout. Relative paths start at DATASETS.ROOT."""

    FORMAT: Literal["cityscapes"]
    IMAGES: str
    """The folder leftImg8bit, with a folder for each split."""
    ANNOTATIONS: str
    """The folder gtFine, with a folder for each split."""
    SPLIT: Literal["train", "val", "test"]
    """The folder to use in both."""
    MODE: Literal["poly", "mask"] = "mask"
    """Take objects from the polygons (*_polygons.json) or the masks (*_instanceIds.png)."""
    MINI: Maybe[Images] = None
    """At most so many images, evenly spaced; None: all."""
    PART: Part = None
    """As of COCO's."""


class VocDefinition(Section):
    """A data set in PASCAL VOC's layout. Relative paths start at DATASETS.ROOT."""

    FORMAT: Literal["voc"]
    ROOT: str
    """The folder that holds Annotations, ImageSets and JPEGImages."""
    SPLIT: MaybeText = None
    """A list in ImageSets/Main, without .txt; None: all that ANNOTATIONS holds."""
    ANNOTATIONS: str = "Annotations"
    """The folder of the xml files, in ROOT."""
    IMAGES: str = "JPEGImages"
    """The folder of the images, in ROOT."""
    CLASSES: Maybe[Several[str]] = None
    """The class names and their order; None: all that occur."""
    PART: Part = None
    """As of COCO's."""


class LvisDefinition(Section):
    """A data set in LVIS's json format. Relative paths start at DATASETS.ROOT."""

    FORMAT: Literal["lvis"]
    IMAGES: str
    """The folder of COCO's images, or the one that holds train2017 and val2017."""
    ANNOTATIONS: str
    """The json file."""
    PART: Part = None
    """As of COCO's."""


class YoloDefinition(Section):
    """A data set in YOLO's layout. Relative paths start at DATASETS.ROOT."""

    FORMAT: Literal["yolo"]
    IMAGES: str
    """The folder of the images, with all folders in it, or a .txt file with a path on each line."""
    LABELS: MaybeText = None
    """The folder of the .txt files, laid out like IMAGES; None: of each image the folder labels in
    place of the last one named images, or the image's own where there is none."""
    CLASSES: OneOrMore[str]
    """The class names, in the order of the labels' numbers, which begin at 0."""
    PART: Part = None
    """As of COCO's."""


DatasetDefinition: TypeAlias = (
    CocoDefinition | VocDefinition | CityscapesDefinition | LvisDefinition | YoloDefinition
)


class Input(Section):
    """How images are resized, varied and normalised."""

    MIN_SIZE_TRAIN: OneOrMore[Pixels] = (800,)
    """The shorter side in training, in pixels; of several, one is drawn for each image."""
    MAX_SIZE_TRAIN: Pixels = 1333
    """The longer side's limit in training, in pixels."""
    MIN_SIZE_TEST: Pixels = 800
    """The shorter side in evaluation, in pixels."""
    MAX_SIZE_TEST: Pixels = 1333
    """The longer side's limit in evaluation, in pixels."""
    RESIZE: Literal["pillow", "torch"] = "pillow"
    """pillow: Pillow's bilinear, the longer side cut off to whole pixels, as in the predecessor;
    torch: torch's antialiased bilinear, both sides rounded to the nearest pixel."""
    CROP_SIZE_TRAIN: Maybe[Pair[Pixels]] = None
    """(height, width) of the random crop after resizing, in pixels; None: no crop."""
    PIXEL_MEAN: Triple[Intensity] = (102.9801, 115.9465, 122.7717)
    """Subtracted from each channel: BGR in 0..255 if TO_BGR255, else RGB in [0, 1]."""
    PIXEL_STD: Triple[Annotated[Positive, INTENSITY]] = (1.0, 1.0, 1.0)
    """Each channel is divided by it, in PIXEL_MEAN's order and scale."""
    TO_BGR255: Switch = True
    """Give the model BGR in 0..255, as Caffe2's weights want it, instead of RGB in [0, 1]."""
    BRIGHTNESS: NonNegative = 0.0
    """Colour jitter: the factor is drawn from 1 - x to 1 + x."""
    CONTRAST: NonNegative = 0.0
    """Colour jitter: the factor is drawn from 1 - x to 1 + x."""
    SATURATION: NonNegative = 0.0
    """Colour jitter: the factor is drawn from 1 - x to 1 + x."""
    HUE: Annotated[NonNegative, Field(le=0.5), Unit("turns")] = 0.0
    """Colour jitter: the shift, in turns of the colour circle, is drawn from -x to x."""
    HORIZONTAL_FLIP_PROB_TRAIN: Fraction = 0.5
    """The probability of mirroring left to right."""
    VERTICAL_FLIP_PROB_TRAIN: Fraction = 0.0
    """The probability of mirroring top to bottom."""


class Datasets(Section):
    """What is trained on and scored."""

    TRAIN: Several[str] = ()
    """Names of the data sets to train on, together: of DEFINE, or of the predecessor's catalog."""
    TEST: Several[str] = ()
    """Names of the data sets to score, one after the other."""
    DEFINE: Named[Annotated[DatasetDefinition, Field(discriminator="FORMAT")]] = Field(default={})
    """Data sets by name: where their files are, and in which format. Wins over the catalog."""
    ROOT: str = ""
    """The folder where relative paths of data sets start; empty: the working folder for those in
    DEFINE, `datasets` in it for those that the predecessor's catalog names."""
    CLASSES: Maybe[OneOrMore[str]] = None
    """The classes to use, as labels 1, 2, ...; None: all, as the data sets order them."""
    CACHE: Switch = True
    """Keep what is read of large COCO and LVIS files in $DETENGINE_CACHE/annotations
    (~/.cache/detengine/annotations), from where later starts and other ranks map it."""


class DataLoader(Section):
    """How batches are made."""

    NUM_WORKERS: Annotated[FewOrNone, Unit("processes")] = 4
    """Loading processes of each rank; 0: the training process loads by itself."""
    SIZE_DIVISIBILITY: Maybe[PixelsOrNone] = 0
    """Batches are padded to multiples of this many pixels; 0: to the largest image; None: to
    multiples of the backbone's coarsest stride."""
    ASPECT_RATIO_GROUPING: Switch = True
    """Put upright and lying images into separate batches, which saves padding."""
    REPEAT_THRESHOLD: Maybe[Annotated[Positive, Field(le=1), Unit("fraction")]] = None
    """Repeat images of rare classes: one with a class that is in the fraction f of all training
    images comes sqrt(REPEAT_THRESHOLD / f) times an epoch on average, if that is more than once;
    its rarest class counts. LVIS uses 0.001. None: every image comes once an epoch."""


class Solver(Section):
    """How the weights are updated. An iteration is one step of the optimizer."""

    MAX_ITER: Annotated[Count, ITERATIONS] = 40000
    """Iterations of the whole run."""
    IMS_PER_BATCH: Images = 16
    """Images of one iteration, over all ranks and micro-batches."""
    REFERENCE_IMS_PER_BATCH: Maybe[Images] = None
    """The IMS_PER_BATCH that the file's numbers were chosen for: training scales BASE_LR with
    IMS_PER_BATCH, and MAX_ITER, STEPS, WARMUP_ITERS and EMA_WARMUP_ITERS against it (the linear
    scaling rule). None: nothing is scaled."""
    ACCUMULATE: Annotated[Size, Unit("micro-batches")] = 1
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
    STEPS: Several[Annotated[Count, ITERATIONS]] = (30000,)
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
    WARMUP_ITERS: Annotated[Count, ITERATIONS] = 500
    """multistep, cosine: iterations of the warm-up."""
    EMA_DECAY: Maybe[BelowOne] = None
    """Decay of the weights' running average, which is scored and saved too; None: no average."""
    EMA_WARMUP_ITERS: Annotated[Count, ITERATIONS] = 0
    """Iterations over which the decay rises to EMA_DECAY."""
    ON_NONFINITE: Literal["stop", "skip"] = "stop"
    """At a loss or gradient that is infinite or NaN: stop the run, or leave that update out."""
    SKIP_LIMIT: Annotated[Size, ITERATIONS] = 10
    """ON_NONFINITE skip: the run stops when so many updates in a row were left out."""
    LOG_PERIOD: Annotated[Size, ITERATIONS] = 20
    """Iterations between two log lines."""
    CHECKPOINT_PERIOD: Annotated[Size, ITERATIONS] = 2500
    """Iterations between two checkpoints."""
    KEEP_CHECKPOINTS: Maybe[Annotated[Size, Unit("checkpoints")]] = None
    """How many of those are kept, the newest; model_final and model_best stay. None: all."""
    BEST_METRIC: Maybe[str] = None
    """task/metric, such as bbox/AP, of the first of DATASETS.TEST: whenever TEST_PERIOD's scores
    raise it, the run is saved as model_best too; or, such as loss/loss with TEST.LOSS, lower it.
    None: no such file."""
    EARLY_STOPPING: Maybe[Annotated[Size, Unit("evaluations")]] = None
    """The run ends, with its model_final, when so many of TEST_PERIOD's evaluations in a row have
    not made BEST_METRIC better. None: it goes on to MAX_ITER."""
    TIME_LIMIT: Maybe[Annotated[Positive, Unit("minutes")]] = None
    """After so many minutes the run saves and stops, to be resumed; None: it has no limit."""
    TEST_PERIOD: Annotated[Count, ITERATIONS] = 0
    """Iterations between two evaluations of DATASETS.TEST; 0: only at the end."""


class BoxAugmentation(Section):
    """Test-time augmentation: detections over several views of an image, merged."""

    ENABLED: Switch = False
    """Whether to use more views than the image itself. R-CNNs and RetinaNet take their detections
    from the boxes of all views together, masks and keypoints from the image itself; of a BUILDER's
    the best of all views stay, with their masks and keypoints, by MODEL.ROI_HEADS' NMS and
    DETECTIONS_PER_IMG (RETINANET_ON: by MODEL.RETINANET.NMS_TH and TEST.DETECTIONS_PER_IMG)."""
    H_FLIP: Switch = False
    """Add the image mirrored left to right."""
    SCALES: Several[Pixels] = ()
    """Add the image at these lengths of the shorter side, in pixels."""
    MAX_SIZE: Pixels = 4000
    """The longer side's limit at SCALES, in pixels."""
    SCALE_H_FLIP: Switch = False
    """Add the mirrored image at each of SCALES."""


class Evaluation(Section):
    """How the model is scored."""

    IMS_PER_BATCH: Images = 8
    """Images of one batch, over all ranks."""
    DETECTIONS_PER_IMG: BoxesOrAll = 100
    """RetinaNet: the most detections of one image; 0: all. R-CNN: ROI_HEADS.DETECTIONS_PER_IMG."""
    ON_WRONG_IMAGES: Literal["error", "warn"] = "error"
    """When an image was not predicted, or twice, or is none of the data set: stop with an error; or
    warn, and score a missing one as without detections, a doubled one once, a foreign one not."""
    METRICS: Maybe[OneOrMore[Literal["coco", "lvis", "voc", "cityscapes"]]] = None
    """What detections are scored by; None: what suits the format of the data set, COCO's numbers
    and VOC's or Cityscapes' own beside them, or LVIS's. Proposals are scored by their recall."""
    IOU_THRESHOLDS: Maybe[OneOrMore[IoU]] = None
    """COCO, LVIS: the thresholds that AP and AR are the mean over, ascending; None: 0.50, 0.55,
    ..., 0.95."""
    AREA_RANGES: Maybe[Named[Pair[Annotated[NonNegative, Unit("square pixels")]]]] = None
    """COCO: objects of these areas have numbers of their own, AP_name and AR_name; None: small,
    medium and large, from 0, 32 and 96 squared, as APs, APm and APl."""
    MAX_DETECTIONS: Maybe[OneOrMore[Boxes]] = None
    """COCO: the most detections of an image and class that count, ascending, one AR for each; AP
    is taken at the last. None: 1, 10, 100, and 20 for keypoints. LVIS: of an image, 300."""
    KEYPOINT_SIGMAS: Maybe[OneOrMore[Positive]] = None
    """The tolerance of each keypoint, relative to the object's size; None: the 17 of a person, as
    in COCO."""
    VOC_IOU_THRESHOLD: IoU = 0.5
    """VOC: how much a detection overlaps the object it finds."""
    VOC_EXTRA_PIXEL: Switch = True
    """VOC: make boxes wider and higher by a pixel before their overlap is measured, as the
    predecessor does; the devkit does not."""
    EXPECTED_RESULTS: Several[ExpectedResult] = ()
    """(task, metric, (mean, standard deviation)), such as (bbox, AP, (0.377, 0.001)), for each
    test set; for one of several the task is <test set>/bbox."""
    EXPECTED_RESULTS_SIGMA_TOL: Annotated[Positive, Unit("standard deviations")] = 4.0
    """How many standard deviations from its mean a metric may be."""
    LOSS: Switch = False
    """Also measure the losses on DATASETS.TEST (val/<test set>/loss/...), which costs a second pass
    over it. Layers are as in evaluation; an image's loss depends on the others of its batch."""
    PICTURES: Annotated[Count, Unit("images")] = 8
    """Pictures of truth and prediction written for each test set."""
    BBOX_AUG: BoxAugmentation = BoxAugmentation()


class Distributed(Section):
    """How several processes (ranks) work together."""

    SYNC_BATCHNORM: Switch = False
    """Batch norm that is trained takes its mean and variance over the images of all ranks."""
    STATIC_GRAPH: Switch = False
    """Promise that every iteration uses the same parameters and gives the same losses, which saves
    time in a BUILDER's model; an iteration with other losses is an error."""
    TIMEOUT: Maybe[Annotated[Positive, Unit("minutes")]] = 30.0
    """A step, a batch's scoring or an exchange between ranks that takes longer ends the run, after
    every rank has logged where it stands; also with one process. None: they may take for ever."""


class Config(Section):
    """The whole configuration of a run. Consistent in itself; files are looked at elsewhere."""

    CONVENTIONS: Conventions = "maskrcnn_benchmark"
    """Which table of defaults and which arithmetic: the predecessor's, or torchvision's."""
    OUTPUT_DIR: str = "."
    """The folder everything is written to."""
    SEED: Seed = 0
    """The seed of the data's order, of the transforms and of the model's draws."""
    DTYPE: Literal["float32", "bfloat16", "float16"] = "float32"
    """The precision of the forward pass; parameters are float32."""
    DETERMINISTIC: Switch = False
    """Only algorithms that give the same bits each time, which are slower on CUDA; operators of the
    model that have none are named before the first step. On a CPU, with the same number of threads,
    the detectors built here do so anyway; a BUILDER's may not, with several threads."""
    REPORT: Switch = True
    """Keep a record of the run (environment.json) and a page of all that is known of it
    (report.html) in OUTPUT_DIR: on the way, for at most 2 % of the time, and at the end."""
    MODEL: Model = Model()
    INPUT: Input = Input()
    DATASETS: Datasets = Datasets()
    DATALOADER: DataLoader = DataLoader()
    SOLVER: Solver = Solver()
    DISTRIBUTED: Distributed = Distributed()
    TEST: Evaluation = Evaluation()
    SINKS: Several[Literal["tensorboard", "wandb"]] = ()
    """Where a training's metrics and sample pictures go, besides metrics.jsonl: TensorBoard's event
    files, in the output folder; Weights & Biases. Each needs its extra, `detengine[wandb]`."""
    AMP_VERBOSE: Annotated[
        Switch, NoEffect("it was for apex, which torch's own autocast replaces")
    ] = False
    """Whether the predecessor's mixed precision talks."""
    PATHS_CATALOG: Annotated[
        str, NoEffect("a configuration runs no code; describe data sets under DATASETS.DEFINE")
    ] = ""
    """The predecessor's Python file of data sets and weights."""

    @model_validator(mode="after")
    def _raise_if_contradictory(self) -> "Config":
        found = find_contradictions(self)
        if found:
            raise PydanticCustomError(
                "contradictions",
                "{text}",
                {"text": "\n".join(each.message for each in found), "found": found},
            )
        return self
