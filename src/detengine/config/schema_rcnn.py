"""The options of the two stages of an R-CNN: proposals, and the heads on their regions."""

from typing import Annotated

from pydantic import Field

from detengine.config.field_types import (
    Count,
    Fraction,
    Integer,
    Maybe,
    NonNegative,
    OneOrMore,
    Positive,
    Quadruple,
    Section,
    Several,
    Size,
    Switch,
)


class Rpn(Section):
    """The region proposal network."""

    USE_FPN: Switch = False
    """Whether the features are a pyramid."""
    RPN_HEAD: str = "SingleConvRPNHead"
    """The predecessor's name of the head."""
    ANCHOR_SIZES: OneOrMore[Size] = (32, 64, 128, 256, 512)
    """The anchors' side in pixels of the network's input; on a pyramid one for each level."""
    ANCHOR_STRIDE: OneOrMore[Size] = (16,)
    """The stride of each level, finest first, in pixels."""
    ASPECT_RATIOS: OneOrMore[Positive] = (0.5, 1.0, 2.0)
    """Height / width of the anchors."""
    STRADDLE_THRESH: Integer = 0
    """How far an anchor may reach over the image's edge in training, in pixels; -1: any."""
    FG_IOU_THRESHOLD: Fraction = 0.7
    """From this IoU with an object, an anchor is positive."""
    BG_IOU_THRESHOLD: Fraction = 0.3
    """Below this IoU with all objects, an anchor is negative."""
    BATCH_SIZE_PER_IMAGE: Size = 256
    """Anchors sampled in each image for the loss."""
    POSITIVE_FRACTION: Fraction = 0.5
    """The most positives among them, as a fraction."""
    SMOOTH_L1_BETA: Positive = 1 / 9
    """Where the box loss turns from quadratic to linear."""
    PRE_NMS_TOP_N_TRAIN: Size = 12000
    """Proposals of each level before NMS, in training."""
    PRE_NMS_TOP_N_TEST: Size = 6000
    """Proposals of each level before NMS, in evaluation."""
    POST_NMS_TOP_N_TRAIN: Size = 2000
    """Proposals of each level after NMS, in training."""
    POST_NMS_TOP_N_TEST: Size = 1000
    """Proposals of each level after NMS, in evaluation."""
    FPN_POST_NMS_TOP_N_TRAIN: Size = 2000
    """Proposals of all levels of a pyramid together, in training."""
    FPN_POST_NMS_TOP_N_TEST: Size = 2000
    """Proposals of all levels of a pyramid together, in evaluation."""
    FPN_POST_NMS_PER_BATCH: Switch = True
    """In training, count FPN_POST_NMS_TOP_N_TRAIN over the batch instead of for each image."""
    NMS_THRESH: Fraction = 0.7
    """The IoU from which NMS suppresses."""
    MIN_SIZE: NonNegative = 0.0
    """The least width and height of a proposal, in pixels of the network's input."""


class RegionHeads(Section):
    """What the heads have in common: the regions they train on, and the detections that stay."""

    USE_FPN: Switch = False
    """Whether the features are a pyramid."""
    FG_IOU_THRESHOLD: Fraction = 0.5
    """From this IoU with an object, a region is positive."""
    BG_IOU_THRESHOLD: Fraction = 0.5
    """Below this IoU with all objects, a region is background."""
    BBOX_REG_WEIGHTS: Quadruple[Positive] = (10.0, 10.0, 5.0, 5.0)
    """Factors of the regressed (dx, dy, dw, dh)."""
    BATCH_SIZE_PER_IMAGE: Size = 512
    """Regions sampled in each image for the loss."""
    POSITIVE_FRACTION: Fraction = 0.25
    """The most positives among them, as a fraction."""
    SCORE_THRESH: Fraction = 0.05
    """The lowest score of a detection."""
    NMS: Fraction = 0.5
    """The IoU from which NMS suppresses, within a class."""
    DETECTIONS_PER_IMG: Size = 100
    """The most detections of one image."""


class BoxHead(Section):
    """The head that classifies regions and refines their boxes."""

    FEATURE_EXTRACTOR: str = "ResNet50Conv5ROIFeatureExtractor"
    """The predecessor's name of the layers before the predictor."""
    PREDICTOR: str = "FastRCNNPredictor"
    """The predecessor's name of the predictor."""
    POOLER_RESOLUTION: Size = 14
    """The side of a pooled region, in bins."""
    POOLER_SAMPLING_RATIO: Count = 0
    """Sampling points along a bin's side; 0: as many as the region's size needs."""
    POOLER_SCALES: OneOrMore[Positive] = (1 / 16,)
    """1 / stride of the levels that are pooled from, finest first."""
    NUM_CLASSES: Maybe[Annotated[Size, Field(ge=2)]] = 81
    """Classes with the background; None: taken from the data."""
    SMOOTH_L1_BETA: Positive = 1.0
    """Where the box loss turns from quadratic to linear."""
    MLP_HEAD_DIM: Size = 1024
    """Channels of the two fully connected layers."""
    USE_GN: Switch = False
    """Use group norm."""
    DILATION: Size = 1
    """Dilation of the convolutions."""
    CONV_HEAD_DIM: Size = 256
    """Channels of the convolutions, in the extractors that have some."""
    NUM_STACKED_CONVS: Count = 4
    """The number of those convolutions."""


class MaskHead(Section):
    """The head that draws masks; used where MODEL.MASK_ON."""

    FEATURE_EXTRACTOR: str = "ResNet50Conv5ROIFeatureExtractor"
    """The predecessor's name of the layers before the predictor."""
    PREDICTOR: str = "MaskRCNNC4Predictor"
    """The predecessor's name of the predictor."""
    POOLER_RESOLUTION: Size = 14
    """The side of a pooled region, in bins."""
    POOLER_SAMPLING_RATIO: Count = 0
    """Sampling points along a bin's side; 0: as many as the region's size needs."""
    POOLER_SCALES: OneOrMore[Positive] = (1 / 16,)
    """1 / stride of the levels that are pooled from, finest first."""
    MLP_HEAD_DIM: Size = 1024
    """Of no effect, as in the predecessor."""
    CONV_LAYERS: Several[Size] = (256, 256, 256, 256)
    """Channels of each convolution."""
    RESOLUTION: Size = 14
    """The side of a predicted mask, in pixels."""
    SHARE_BOX_FEATURE_EXTRACTOR: Switch = True
    """Use the box head's features."""
    POSTPROCESS_MASKS: Switch = False
    """Paste masks into the image inside the model."""
    POSTPROCESS_MASKS_THRESHOLD: Fraction = 0.5
    """The probability from which a pixel is inside."""
    DILATION: Size = 1
    """Dilation of the convolutions."""
    USE_GN: Switch = False
    """Use group norm."""


class KeypointHead(Section):
    """The head that finds keypoints; used where MODEL.KEYPOINT_ON."""

    FEATURE_EXTRACTOR: str = "KeypointRCNNFeatureExtractor"
    """The predecessor's name of the layers before the predictor."""
    PREDICTOR: str = "KeypointRCNNPredictor"
    """The predecessor's name of the predictor."""
    POOLER_RESOLUTION: Size = 14
    """The side of a pooled region, in bins."""
    POOLER_SAMPLING_RATIO: Count = 0
    """Sampling points along a bin's side; 0: as many as the region's size needs."""
    POOLER_SCALES: OneOrMore[Positive] = (1 / 16,)
    """1 / stride of the levels that are pooled from, finest first."""
    MLP_HEAD_DIM: Size = 1024
    """Of no effect, as in the predecessor."""
    CONV_LAYERS: Several[Size] = (512, 512, 512, 512, 512, 512, 512, 512)
    """Channels of each convolution."""
    RESOLUTION: Size = 14
    """The side of a predicted heatmap, in pixels."""
    NUM_CLASSES: Size = 17
    """The number of keypoints."""
    SHARE_BOX_FEATURE_EXTRACTOR: Switch = True
    """Use the box head's features."""
