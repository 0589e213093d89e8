"""The options of the model outside of its R-CNN parts, which are in `schema_rcnn`."""

from typing import Annotated, Literal

from pydantic import Field

from detengine.config.field_types import (
    BelowOne,
    Boxes,
    Channels,
    Classes,
    Count,
    Few,
    Fraction,
    Integer,
    IoU,
    Layers,
    Maybe,
    MaybeText,
    NonNegative,
    Number,
    OneOrMore,
    Pixels,
    Positive,
    Quadruple,
    Section,
    Several,
    Size,
    SizeOrUnset,
    Stages,
    Switch,
    Unit,
    Width,
)
from detengine.config.schema_rcnn import (
    BoxHead,
    KeypointHead,
    MaskHead,
    NormKind,
    RegionHeads,
    Rpn,
)


class Backbone(Section):
    """The network that turns the image into features."""

    CONV_BODY: str = "R-50-C4"
    """Its name: R-50-FPN and the like (a ResNet's depth, 18, 34, 50, 101 or 152, and C4, C5, FPN or
    FPN-RETINANET), FBNet, or timm:NAME for any model of timm."""
    NORM: NormKind = "FrozenBN"
    """The normalisation: batch norm as it was pretrained, batch norm, or group norm."""
    FREEZE_CONV_BODY_AT: Stages = 2
    """How many stages are not trained, the stem being the first; 0 or less: all are trained."""


class FeaturePyramid(Section):
    """The feature pyramid network."""

    USE_GN: Switch = False
    """Use group norm; the predecessor's way to say NORM: GN."""
    NORM: Maybe[NormKind] = None
    """The norm behind each convolution: BN as in torchvision's v2 models, FrozenBN or GN; None: as
    USE_GN says."""
    USE_RELU: Switch = False
    """Put a ReLU behind each convolution."""


class GroupNorm(Section):
    """Group norm, wherever it is used."""

    DIM_PER_GP: Annotated[SizeOrUnset, Unit("channels")] = -1
    """Channels of a group; -1: see NUM_GROUPS."""
    NUM_GROUPS: Annotated[SizeOrUnset, Unit("groups")] = 32
    """Groups; -1: see DIM_PER_GP."""
    EPSILON: Positive = 1e-5
    """Added to the variance."""


class ResNets(Section):
    """Residual backbones."""

    NUM_GROUPS: Annotated[Width, Unit("groups")] = 1
    """Groups of the 3x3 convolution; more than one makes a ResNeXt."""
    WIDTH_PER_GROUP: Channels = 64
    """Channels of a group in the first stage of blocks."""
    STRIDE_IN_1X1: Switch = True
    """Put the stride into the 1x1 convolution (MSRA's weights) instead of the 3x3 one."""
    TRANS_FUNC: Literal["BottleneckWithFixedBatchNorm", "BottleneckWithGN"] = (
        "BottleneckWithFixedBatchNorm"
    )
    """The bottlenecks, by the predecessor's name: with frozen batch norm, or group norm."""
    STEM_FUNC: Literal["StemWithFixedBatchNorm", "StemWithGN"] = "StemWithFixedBatchNorm"
    """The stem, by the predecessor's name: with frozen batch norm, or group norm."""
    RES5_DILATION: Annotated[Few, Unit("pixels of the feature map")] = 1
    """C4: dilation in the last stage, which is the heads'."""
    STEM_OUT_CHANNELS: Channels = 64
    """Channels of the stem."""
    RES2_OUT_CHANNELS: Channels = 256
    """Channels behind the first stage of bottlenecks; four times those of basic blocks."""
    BACKBONE_OUT_CHANNELS: Channels = 1024
    """Channels that the heads see: the pyramid's, if there is one."""
    STAGE_WITH_DCN: Quadruple[Switch] = (False, False, False, False)
    """Which of the four stages have deformable convolutions."""
    WITH_MODULATED_DCN: Switch = False
    """Use modulated deformable convolutions."""
    DEFORMABLE_GROUPS: Annotated[Size, Unit("groups")] = 1
    """Groups of a deformable convolution's offsets."""


class RetinaNet(Section):
    """The one-stage detector; used where MODEL.RETINANET_ON."""

    NUM_CLASSES: Maybe[Classes] = 81
    """Classes with the background; None: taken from the data."""
    ANCHOR_SIZES: OneOrMore[Pixels] = (32, 64, 128, 256, 512)
    """The anchors' side, one for each level, in pixels of the network's input."""
    ASPECT_RATIOS: OneOrMore[Positive] = (0.5, 1.0, 2.0)
    """Height / width of the anchors."""
    ANCHOR_STRIDES: OneOrMore[Pixels] = (8, 16, 32, 64, 128)
    """The stride of each level, in pixels."""
    STRADDLE_THRESH: Annotated[Integer, Unit("pixels")] = 0
    """As in the predecessor of no account: an anchor may reach over the image's edge by any."""
    OCTAVE: Positive = 2.0
    """The factor that SCALES_PER_OCTAVE sizes span."""
    SCALES_PER_OCTAVE: Annotated[Few, Unit("sizes")] = 3
    """Sizes of the anchors of one level."""
    USE_C5: Switch = True
    """Make the level P6 of C5 instead of P5."""
    NUM_CONVS: Layers = 4
    """Convolutions of each tower before the last one."""
    BBOX_REG_WEIGHT: Positive = 4.0
    """The box loss is divided by it."""
    BBOX_REG_BETA: Positive = 0.11
    """Where smooth L1 turns from quadratic to linear."""
    PRE_NMS_TOP_N: Boxes = 1000
    """Candidates of each level before NMS."""
    FG_IOU_THRESHOLD: IoU = 0.5
    """From this IoU with an object, an anchor is positive."""
    BG_IOU_THRESHOLD: IoU = 0.4
    """Below this IoU with all objects, an anchor is negative."""
    LOSS_ALPHA: Fraction = 0.25
    """Focal loss: the weight of positives."""
    LOSS_GAMMA: NonNegative = 2.0
    """Focal loss: the exponent."""
    PRIOR_PROB: Annotated[BelowOne, Field(gt=0), Unit("fraction")] = 0.01
    """The score of every class at the start."""
    INFERENCE_TH: Fraction = 0.05
    """The lowest score of a detection."""
    NMS_TH: IoU = 0.4
    """The IoU from which NMS suppresses."""


class Arithmetic(Section):
    """How the model computes with boxes: in the predecessor's ways, or in torchvision's."""

    INCLUSIVE_PIXELS: Switch = True
    """A box is x2 - x1 + 1 pixels wide, and NMS suppresses at its threshold too; else x2 - x1."""
    ANCHORS: Literal["detectron", "torchvision", "detectron2"] = "detectron"
    """detectron: the ratio's sides are rounded at the stride's size, then scaled, and centred
    on the middle of the cell's pixels; torchvision: centred on the cell's corner, rounded last;
    detectron2: as torchvision's, not rounded, and a stride apart also where a level is cut short.
    Also how proposals are ranked: by score, level by level, or by logit, the best first."""
    ROI_LEVELS: Literal["detectron", "torchvision"] = "detectron"
    """Where the 1e-6 stands that a region's level is rounded with: in the logarithm, or behind.
    Under detectron a mask head's own ResNet stage pools as ROI_BOX_HEAD says."""
    ROI_ALIGNED: Switch = False
    """RoIAlign takes a feature to stand in the middle of its pixel instead of its corner, as
    detectron2's ROIAlignV2 does; the weights of the predecessor and of torchvision want False."""
    FROZEN_BN_EPSILON: NonNegative = 0.0
    """Added to the variance in frozen batch norm."""
    KEEP_TIES: Switch = True
    """Keep all detections with the score of the last one that DETECTIONS_PER_IMG lets through."""
    MIN_DETECTION_SIZE: Annotated[NonNegative, Unit("pixels")] = 0.0
    """The least width and height of a detection, in pixels of the network's input."""


class FBNet(Section):
    """The mobile backbones and heads; used where CONV_BODY is FBNet."""

    ARCH: str = "default"
    """The architecture's name."""
    ARCH_DEF: str = ""
    """An architecture of your own, as json; empty: look ARCH up."""
    BN_TYPE: Literal["bn", "af", "gn"] = "bn"
    """The normalisation: batch norm, frozen batch norm (af) or group norm."""
    SCALE_FACTOR: Positive = 1.0
    """All channels are multiplied by it."""
    WIDTH_DIVISOR: Channels = 1
    """All channels are multiples of it."""
    DW_CONV_SKIP_BN: Switch = True
    """No normalisation behind the depthwise convolution."""
    DW_CONV_SKIP_RELU: Switch = True
    """No ReLU behind the depthwise convolution."""
    DET_HEAD_LAST_SCALE: Number = 1.0
    """Box head: the last layer's width factor; 0: no such layer; negative: the same width."""
    DET_HEAD_BLOCKS: Several[Count] = ()
    """Box head: which blocks of the stage are used; none: all."""
    DET_HEAD_STRIDE: Count = 0
    """Box head: the first block's stride; 0: the architecture's."""
    KPTS_HEAD_LAST_SCALE: Number = 0.0
    """Keypoint head: as for the box head."""
    KPTS_HEAD_BLOCKS: Several[Count] = ()
    """Keypoint head: as for the box head."""
    KPTS_HEAD_STRIDE: Count = 0
    """Keypoint head: as for the box head."""
    MASK_HEAD_LAST_SCALE: Number = 0.0
    """Mask head: as for the box head."""
    MASK_HEAD_BLOCKS: Several[Count] = ()
    """Mask head: as for the box head."""
    MASK_HEAD_STRIDE: Count = 0
    """Mask head: as for the box head."""
    RPN_HEAD_BLOCKS: Count = 0
    """RPN: the number of last blocks used; 0: all."""
    RPN_BN_TYPE: Literal["", "bn", "af", "gn"] = ""
    """RPN: the normalisation; empty: BN_TYPE."""


class Model(Section):
    """What is built."""

    META_ARCHITECTURE: Literal["GeneralizedRCNN"] = "GeneralizedRCNN"
    """The kind of detector; the predecessor has one name for all."""
    BUILDER: MaybeText = None
    """A model of your own: package.module:function, called with the configuration."""
    DEVICE: str = "cuda"
    """A device of torch, or auto: cuda if there is one, else mps, else cpu."""
    WEIGHT: str = ""
    """The weights to start from: a file, an address (https://...#sha256=...), or a name such as
    catalog://ImageNetPretrained/MSRA/R-50 (the predecessor's), torchvision://resnet50 or
    timm://resnet50; empty: none."""
    MASK_ON: Switch = False
    """Predict masks."""
    KEYPOINT_ON: Switch = False
    """Predict keypoints."""
    RETINANET_ON: Switch = False
    """Build RetinaNet."""
    RPN_ONLY: Switch = False
    """Build only the proposals' part."""
    CLS_AGNOSTIC_BBOX_REG: Switch = False
    """Regress one box for all classes instead of one for each."""
    INITIALISATION: Literal["caffe2", "torchvision"] = "caffe2"
    """How the parameters that no weights fill are drawn: as the predecessor draws them, after
    Caffe2's fills, or as torchvision's models do."""
    CHANNELS_LAST: Maybe[Switch] = None
    """Keep weights and features channels last in memory, as convolutions in 16 bits want them;
    results differ in rounding. None: under a DTYPE of 16 bits."""
    FOLD_FROZEN_BN: Maybe[Switch] = None
    """Multiply frozen batch norm into the convolution before it, which saves two passes over its
    output, and in 16 bits that this becomes 32; results differ in rounding. None: under a DTYPE of
    16 bits."""
    COMPILE: Switch = False
    """Compile the backbone and the heads with torch.compile: the first iterations take minutes,
    those after them less time. Results differ in rounding. A BUILDER's model is compiled whole."""
    STATIC_SHAPES: Switch = False
    """R-CNNs: choose proposals and samples in shapes that do not depend on the data, so that in
    training the host never waits for the device. A seed then draws other samples, as random. Needs
    ARITHMETIC.INCLUSIVE_PIXELS False, ANCHORS other than detectron, no FPN_POST_NMS_PER_BATCH."""
    ARITHMETIC: Arithmetic = Arithmetic()
    BACKBONE: Backbone = Backbone()
    FPN: FeaturePyramid = FeaturePyramid()
    GROUP_NORM: GroupNorm = GroupNorm()
    RESNETS: ResNets = ResNets()
    RPN: Rpn = Rpn()
    ROI_HEADS: RegionHeads = RegionHeads()
    ROI_BOX_HEAD: BoxHead = BoxHead()
    ROI_MASK_HEAD: MaskHead = MaskHead()
    ROI_KEYPOINT_HEAD: KeypointHead = KeypointHead()
    RETINANET: RetinaNet = RetinaNet()
    FBNET: FBNet = FBNet()
