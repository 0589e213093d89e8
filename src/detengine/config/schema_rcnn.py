"""The options of the two stages of an R-CNN: proposals, and the heads on their regions."""

from typing import Annotated, Literal

from detengine.config.field_types import (
    Bins,
    Boxes,
    BoxesOrAll,
    Channels,
    Classes,
    Count,
    Few,
    Fraction,
    Integer,
    IoU,
    Layers,
    Maybe,
    NoEffect,
    NonNegative,
    OneOrMore,
    Pixels,
    Positive,
    Quadruple,
    Section,
    Several,
    Switch,
    Unit,
)

NormKind = Literal["FrozenBN", "BN", "GN"]
"""Batch norm as it was pretrained, batch norm, or group norm."""


class Rpn(Section):
    """The region proposal network."""

    USE_FPN: Switch = False
    """Whether the features are a pyramid."""
    RPN_HEAD: Literal["SingleConvRPNHead", "FBNet.rpn_head"] = "SingleConvRPNHead"
    """The head, by the predecessor's name: NUM_CONVS convolutions, or FBNet's."""
    NUM_CONVS: Layers = 1
    """Convolutions before the predictors, each with a ReLU; 2 in torchvision's v2 models."""
    ANCHOR_SIZES: OneOrMore[Pixels] = (32, 64, 128, 256, 512)
    """The anchors' side in pixels of the network's input; on a pyramid one for each level."""
    ANCHOR_STRIDE: OneOrMore[Pixels] = (16,)
    """The stride of each level, finest first, in pixels."""
    ASPECT_RATIOS: OneOrMore[Positive] = (0.5, 1.0, 2.0)
    """Height / width of the anchors."""
    STRADDLE_THRESH: Annotated[Integer, Unit("pixels")] = 0
    """How far an anchor may reach over the image's edge in training, in pixels; -1: any."""
    FG_IOU_THRESHOLD: IoU = 0.7
    """From this IoU with an object, an anchor is positive."""
    BG_IOU_THRESHOLD: IoU = 0.3
    """Below this IoU with all objects, an anchor is negative."""
    BATCH_SIZE_PER_IMAGE: Boxes = 256
    """Anchors sampled in each image for the loss."""
    POSITIVE_FRACTION: Fraction = 0.5
    """The most positives among them, as a fraction."""
    SMOOTH_L1_BETA: Positive = 1 / 9
    """Where the box loss turns from quadratic to linear."""
    PRE_NMS_TOP_N_TRAIN: Boxes = 12000
    """Proposals of each level before NMS, in training."""
    PRE_NMS_TOP_N_TEST: Boxes = 6000
    """Proposals of each level before NMS, in evaluation."""
    POST_NMS_TOP_N_TRAIN: Boxes = 2000
    """Proposals of each level after NMS, in training."""
    POST_NMS_TOP_N_TEST: Boxes = 1000
    """Proposals of each level after NMS, in evaluation."""
    FPN_POST_NMS_TOP_N_TRAIN: Boxes = 2000
    """Proposals of all levels of a pyramid together, in training."""
    FPN_POST_NMS_TOP_N_TEST: Boxes = 2000
    """Proposals of all levels of a pyramid together, in evaluation."""
    FPN_POST_NMS_PER_BATCH: Switch = True
    """In training, count FPN_POST_NMS_TOP_N_TRAIN over the batch instead of for each image."""
    NMS_THRESH: IoU = 0.7
    """The IoU from which NMS suppresses."""
    MIN_SIZE: Annotated[NonNegative, Unit("pixels")] = 0.0
    """The least width and height of a proposal, in pixels of the network's input."""


class RegionHeads(Section):
    """What the heads have in common: the regions they train on, and the detections that stay."""

    USE_FPN: Switch = False
    """Whether the features are a pyramid."""
    FG_IOU_THRESHOLD: IoU = 0.5
    """From this IoU with an object, a region is positive."""
    BG_IOU_THRESHOLD: IoU = 0.5
    """Below this IoU with all objects, a region is background."""
    BBOX_REG_WEIGHTS: Quadruple[Positive] = (10.0, 10.0, 5.0, 5.0)
    """Factors of the regressed (dx, dy, dw, dh)."""
    BATCH_SIZE_PER_IMAGE: Boxes = 512
    """Regions sampled in each image for the loss."""
    POSITIVE_FRACTION: Fraction = 0.25
    """The most positives among them, as a fraction."""
    SCORE_THRESH: Fraction = 0.05
    """The lowest score of a detection."""
    NMS: IoU = 0.5
    """The IoU from which NMS suppresses, within a class; under TEST.BBOX_AUG a BUILDER's too."""
    DETECTIONS_PER_IMG: BoxesOrAll = 100
    """The most detections of one image; 0: all. Under TEST.BBOX_AUG a BUILDER's too."""


class BoxHead(Section):
    """The head that classifies regions and refines their boxes."""

    FEATURE_EXTRACTOR: Literal[
        "ResNet50Conv5ROIFeatureExtractor",
        "FPN2MLPFeatureExtractor",
        "FPNXconv1fcFeatureExtractor",
        "FBNet.roi_head",
    ] = "ResNet50Conv5ROIFeatureExtractor"
    """The layers before the predictor, by the predecessor's name: the ResNet's last stage, two
    fully connected layers, convolutions and one such layer, or FBNet's."""
    PREDICTOR: Literal["FastRCNNPredictor", "FPNPredictor"] = "FastRCNNPredictor"
    """The predictor, by the predecessor's name."""
    POOLER_RESOLUTION: Bins = 14
    """The side of a pooled region, in bins."""
    POOLER_SAMPLING_RATIO: Annotated[Count, Unit("points")] = 0
    """Sampling points along a bin's side; 0: as many as the region's size needs."""
    POOLER_SCALES: OneOrMore[Positive] = (1 / 16,)
    """1 / stride of the levels that are pooled from, finest first."""
    NUM_CLASSES: Maybe[Classes] = 81
    """Classes with the background; None: taken from the data."""
    SMOOTH_L1_BETA: Positive = 1.0
    """Where the box loss turns from quadratic to linear."""
    MLP_HEAD_DIM: Channels = 1024
    """Channels of the two fully connected layers."""
    USE_GN: Switch = False
    """Use group norm; the predecessor's way to say NORM: GN."""
    NORM: Maybe[NormKind] = None
    """The norm behind each layer of the two fully connected ones (GN alone), or behind each
    convolution (also BN, as in torchvision's v2 models, or FrozenBN); None: as USE_GN says."""
    DILATION: Bins = 1
    """Dilation of the convolutions."""
    CONV_HEAD_DIM: Channels = 256
    """Channels of the convolutions, in the extractors that have some."""
    NUM_STACKED_CONVS: Layers = 4
    """The number of those convolutions."""


class MaskHead(Section):
    """The head that draws masks; used where MODEL.MASK_ON."""

    FEATURE_EXTRACTOR: Literal[
        "ResNet50Conv5ROIFeatureExtractor",
        "MaskRCNNFPNFeatureExtractor",
        "FBNet.roi_head_mask",
    ] = "ResNet50Conv5ROIFeatureExtractor"
    """The layers before the predictor, by the predecessor's name: the ResNet's last stage,
    CONV_LAYERS, or FBNet's."""
    PREDICTOR: Literal["MaskRCNNC4Predictor", "MaskRCNNConv1x1Predictor"] = "MaskRCNNC4Predictor"
    """The predictor, by the predecessor's name."""
    POOLER_RESOLUTION: Bins = 14
    """The side of a pooled region, in bins."""
    POOLER_SAMPLING_RATIO: Annotated[Count, Unit("points")] = 0
    """Sampling points along a bin's side; 0: as many as the region's size needs."""
    POOLER_SCALES: OneOrMore[Positive] = (1 / 16,)
    """1 / stride of the levels that are pooled from, finest first."""
    MLP_HEAD_DIM: Annotated[Channels, NoEffect("this head has no fully connected layers")] = 1024
    """Channels of fully connected layers; unused in the predecessor, too."""
    CONV_LAYERS: Several[Channels] = (256, 256, 256, 256)
    """Channels of each convolution."""
    RESOLUTION: Pixels = 14
    """The side of a predicted mask, in pixels; of FBNet's head the architecture decides."""
    SHARE_BOX_FEATURE_EXTRACTOR: Switch = True
    """Use the box head's features."""
    POSTPROCESS_MASKS: Switch = False
    """Paste masks into the image inside the model."""
    POSTPROCESS_MASKS_THRESHOLD: Fraction = 0.5
    """The probability from which a pixel is inside."""
    DILATION: Bins = 1
    """Dilation of the convolutions."""
    USE_GN: Switch = False
    """Use group norm; the predecessor's way to say NORM: GN."""
    NORM: Maybe[NormKind] = None
    """The norm behind each of CONV_LAYERS: BN as in torchvision's v2 models, FrozenBN or GN; None:
    as USE_GN says."""


class KeypointHead(Section):
    """The head that finds keypoints; used where MODEL.KEYPOINT_ON."""

    FEATURE_EXTRACTOR: Literal["KeypointRCNNFeatureExtractor", "FBNet.roi_head_keypoints"] = (
        "KeypointRCNNFeatureExtractor"
    )
    """The layers before the predictor, by the predecessor's name: CONV_LAYERS, or FBNet's."""
    PREDICTOR: Literal["KeypointRCNNPredictor"] = "KeypointRCNNPredictor"
    """The predictor, by the predecessor's name."""
    POOLER_RESOLUTION: Bins = 14
    """The side of a pooled region, in bins."""
    POOLER_SAMPLING_RATIO: Annotated[Count, Unit("points")] = 0
    """Sampling points along a bin's side; 0: as many as the region's size needs."""
    POOLER_SCALES: OneOrMore[Positive] = (1 / 16,)
    """1 / stride of the levels that are pooled from, finest first."""
    MLP_HEAD_DIM: Annotated[Channels, NoEffect("this head has no fully connected layers")] = 1024
    """Channels of fully connected layers; unused in the predecessor, too."""
    CONV_LAYERS: Several[Channels] = (512, 512, 512, 512, 512, 512, 512, 512)
    """Channels of each convolution."""
    RESOLUTION: Pixels = 14
    """The side of a predicted heatmap, in pixels; of FBNet's head the architecture decides."""
    NUM_CLASSES: Annotated[Few, Unit("keypoints")] = 17
    """The number of keypoints."""
    SHARE_BOX_FEATURE_EXTRACTOR: Switch = True
    """Use the box head's features."""
