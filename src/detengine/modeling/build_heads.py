"""The heads on an R-CNN's regions, from the configuration."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from detengine.config.schema import Config
from detengine.modeling.box_head import (
    BoxPredictor,
    initialise_as_caffe2,
    initialise_as_torchvision,
    make_conv_head,
    make_fc_head,
)
from detengine.modeling.build_arithmetic import make_arithmetic
from detengine.modeling.build_backbone import build_res5, make_norm_of
from detengine.modeling.build_fbnet import build_fbnet_roi_head
from detengine.modeling.mask_head import MaskPixelPredictor
from detengine.modeling.poolers import Pooler
from detengine.modeling.roi_heads import (
    Branch,
    DetectionLimits,
    RoIHeads,
    RoISampling,
    SharedBranch,
)

_RES5 = "ResNet50Conv5ROIFeatureExtractor"


def build_roi_heads(cfg: Config, backbone: nn.Module) -> RoIHeads:
    """The box head, and the mask and keypoint heads that are on.

    Raises ValueError, naming the key, for values that do not fit together.
    """
    heads, arithmetic = cfg.MODEL.ROI_HEADS, cfg.MODEL.ARITHMETIC
    box = _box_branch(cfg, backbone)
    return RoIHeads(
        box,
        _mask_branch(cfg, backbone, box) if cfg.MODEL.MASK_ON else None,
        _keypoint_branch(cfg, backbone, box) if cfg.MODEL.KEYPOINT_ON else None,
        arithmetic=make_arithmetic(cfg),
        box_weights=heads.BBOX_REG_WEIGHTS,
        sampling=RoISampling(
            Matcher(heads.FG_IOU_THRESHOLD, heads.BG_IOU_THRESHOLD),
            heads.BATCH_SIZE_PER_IMAGE,
            heads.POSITIVE_FRACTION,
        ),
        smooth_l1_beta=cfg.MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA,
        limits=DetectionLimits(
            heads.SCORE_THRESH,
            heads.NMS,
            arithmetic.MIN_DETECTION_SIZE,
            heads.DETECTIONS_PER_IMG,
            arithmetic.KEEP_TIES,
        ),
    )


def _num_classes(cfg: Config) -> int:
    num_classes = cfg.MODEL.ROI_BOX_HEAD.NUM_CLASSES
    if num_classes is None:
        raise ValueError(
            "MODEL.ROI_BOX_HEAD.NUM_CLASSES: None, but a model needs the number of classes with "
            "the background, for example 4 for three classes; `detengine train` takes it from the "
            "data set, in Python give it to load_config"
        )
    return num_classes


def _box_branch(cfg: Config, backbone: Any) -> Branch:
    head, num_classes = cfg.MODEL.ROI_BOX_HEAD, _num_classes(cfg)
    layers, channels = _box_layers(cfg, backbone.out_channels)
    predictor = BoxPredictor(
        channels, num_classes, 2 if cfg.MODEL.CLS_AGNOSTIC_BBOX_REG else num_classes
    )
    if cfg.MODEL.INITIALISATION == "caffe2":
        fresh = nn.Identity() if _gives_maps(head) else layers
        initialise_as_caffe2(fresh, predictor)
    elif head.FEATURE_EXTRACTOR == "FPNXconv1fcFeatureExtractor":
        initialise_as_torchvision(layers)
    return Branch(_pooler(cfg, "ROI_BOX_HEAD", backbone), layers, predictor)


def _box_layers(cfg: Config, in_channels: int) -> tuple[nn.Module, int]:
    """The layers before the box predictor, and the channels they put out."""
    head = cfg.MODEL.ROI_BOX_HEAD
    _raise_if_predictor_does_not_fit(cfg)
    if head.FEATURE_EXTRACTOR == _RES5:
        return _with_channels(_res5(cfg, in_channels))
    if head.FEATURE_EXTRACTOR == "FBNet.roi_head":
        return _with_channels(build_fbnet_roi_head(cfg, "bbox", in_channels=in_channels))
    norm_layer = make_norm_of(cfg, head)
    if head.FEATURE_EXTRACTOR == "FPNXconv1fcFeatureExtractor":
        layers: nn.Module = make_conv_head(
            in_channels,
            head.POOLER_RESOLUTION,
            (head.CONV_HEAD_DIM,) * head.NUM_STACKED_CONVS,
            head.MLP_HEAD_DIM,
            dilation=head.DILATION,
            norm_layer=norm_layer,
        )
    else:
        pooled_values = in_channels * head.POOLER_RESOLUTION**2
        layers = make_fc_head(pooled_values, head.MLP_HEAD_DIM, norm_layer)
    return layers, head.MLP_HEAD_DIM


def _raise_if_predictor_does_not_fit(cfg: Config) -> None:
    """FastRCNNPredictor averages maps, of which the fully connected extractors leave none."""
    head = cfg.MODEL.ROI_BOX_HEAD
    gives_maps = _gives_maps(head)
    fitting = "FastRCNNPredictor" if gives_maps else "FPNPredictor"
    if fitting != head.PREDICTOR:
        raise ValueError(
            f"MODEL.ROI_BOX_HEAD.PREDICTOR: {head.PREDICTOR} does not take what FEATURE_EXTRACTOR "
            f"{head.FEATURE_EXTRACTOR} gives ({'maps' if gives_maps else 'vectors'}); set {fitting}"
        )


def _mask_branch(cfg: Config, backbone: Any, box: Branch) -> Branch | SharedBranch:
    head, num_classes = cfg.MODEL.ROI_MASK_HEAD, _num_classes(cfg)

    def make_predictor(in_channels: int) -> nn.Module:
        if head.PREDICTOR == "MaskRCNNConv1x1Predictor":
            return MaskPixelPredictor(in_channels, num_classes)
        width = _convolutions("ROI_MASK_HEAD", head)[-1]
        predictor: nn.Module = MaskRCNNPredictor(in_channels, width, num_classes)
        return predictor

    enlarged = 1 if head.PREDICTOR == "MaskRCNNConv1x1Predictor" else 2
    _raise_if_resolution_differs(cfg, "ROI_MASK_HEAD", enlarged)
    return _branch(cfg, "ROI_MASK_HEAD", backbone, box, make_predictor)


def _keypoint_branch(cfg: Config, backbone: Any, box: Branch) -> Branch | SharedBranch:
    keypoints = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES

    def make_predictor(in_channels: int) -> nn.Module:
        predictor: nn.Module = KeypointRCNNPredictor(in_channels, keypoints)
        return predictor

    _raise_if_resolution_differs(cfg, "ROI_KEYPOINT_HEAD", enlarged=4)
    return _branch(cfg, "ROI_KEYPOINT_HEAD", backbone, box, make_predictor)


def _branch(
    cfg: Config, section: str, backbone: Any, box: Any, make_predictor: Callable[[int], nn.Module]
) -> Branch | SharedBranch:
    """A head of its own, or one over the box head's features. make_predictor: of its channels."""
    head = getattr(cfg.MODEL, section)
    if not head.SHARE_BOX_FEATURE_EXTRACTOR:
        layers, channels = _layers(cfg, section, backbone.out_channels)
        pooler = _pooler(cfg, _pooling_section(cfg, section), backbone)
        return Branch(pooler, layers, make_predictor(channels))
    return SharedBranch(make_predictor(box.predictor.cls_score.in_features))


def _layers(cfg: Config, section: str, in_channels: int) -> tuple[nn.Module, int]:
    """The layers of a mask or keypoint head, and the channels they put out."""
    head = getattr(cfg.MODEL, section)
    if head.FEATURE_EXTRACTOR == _RES5:
        return _with_channels(_res5(cfg, in_channels))
    if head.FEATURE_EXTRACTOR.startswith("FBNet"):
        is_mask = section == "ROI_MASK_HEAD"
        return _with_channels(
            build_fbnet_roi_head(cfg, "mask" if is_mask else "kpts", in_channels=in_channels)
        )
    convolutions = _convolutions(section, head)
    if section == "ROI_KEYPOINT_HEAD":
        return KeypointRCNNHeads(in_channels, convolutions), convolutions[-1]
    norm_layer = make_norm_of(cfg, head)
    return MaskRCNNHeads(in_channels, convolutions, head.DILATION, norm_layer), convolutions[-1]


def _convolutions(section: str, head: Any) -> tuple[int, ...]:
    if not head.CONV_LAYERS:
        raise ValueError(
            f"MODEL.{section}.CONV_LAYERS: [] has no layer, but the head needs at least one; give "
            "the channels of each convolution, such as [256, 256, 256, 256]"
        )
    return tuple(head.CONV_LAYERS)


def _raise_if_resolution_differs(cfg: Config, section: str, enlarged: int) -> None:
    """enlarged: how many times the predictor's output is as large as the features it gets."""
    head = getattr(cfg.MODEL, section)
    source = cfg.MODEL.ROI_BOX_HEAD if head.SHARE_BOX_FEATURE_EXTRACTOR else head
    extractor = source.FEATURE_EXTRACTOR
    if extractor.startswith("FBNet"):
        return  # the architecture's strides decide
    pooled = getattr(cfg.MODEL, _pooling_section(cfg, section))
    side = pooled.POOLER_RESOLUTION
    if extractor == _RES5 and cfg.MODEL.RESNETS.RES5_DILATION == 1:
        side = (side + 1) // 2
    if enlarged * side != head.RESOLUTION:
        raise ValueError(
            f"MODEL.{section}.RESOLUTION: {head.RESOLUTION}, but from POOLER_RESOLUTION "
            f"{pooled.POOLER_RESOLUTION} the head gives {enlarged * side} x {enlarged * side}; "
            f"set RESOLUTION to {enlarged * side}, or POOLER_RESOLUTION to another value"
        )


def _pooling_section(cfg: Config, section: str) -> str:
    """The section whose POOLER keys a mask or keypoint head goes by: its own, unless it shares.

    In the predecessor the ResNet's last stage always takes the box head's, as one class serves both
    heads (roi_box_feature_extractors.py).
    """
    head = getattr(cfg.MODEL, section)
    is_as_there = cfg.MODEL.ARITHMETIC.ROI_LEVELS == "detectron"
    pools_as_boxes = is_as_there and head.FEATURE_EXTRACTOR == _RES5
    return "ROI_BOX_HEAD" if head.SHARE_BOX_FEATURE_EXTRACTOR or pools_as_boxes else section


def _gives_maps(box_head: Any) -> bool:
    """Whether the box head's layers put out maps; the fully connected ones give vectors."""
    extractor: str = box_head.FEATURE_EXTRACTOR
    return extractor == _RES5 or extractor.startswith("FBNet")


def _res5(cfg: Config, in_channels: int) -> nn.Module:
    stage = build_res5(cfg)
    if stage.in_channels != in_channels:
        raise ValueError(
            f"MODEL.BACKBONE.CONV_BODY: {cfg.MODEL.BACKBONE.CONV_BODY} gives {in_channels} "
            f"channels, but {_RES5} takes {stage.in_channels} (four times "
            "MODEL.RESNETS.RES2_OUT_CHANNELS); set another FEATURE_EXTRACTOR"
        )
    return stage


def _with_channels(layers: Any) -> tuple[nn.Module, int]:
    return layers, layers.out_channels


def _pooler(cfg: Config, section: str, backbone: Any) -> Pooler:
    head = getattr(cfg.MODEL, section)
    strides = list(backbone.strides)
    wanted = [_stride_of(scale, strides) for scale in head.POOLER_SCALES]
    if not _is_run_of(strides, wanted):
        raise ValueError(
            f"MODEL.{section}.POOLER_SCALES: {list(head.POOLER_SCALES)}, but the backbone has the "
            f"strides {strides}, which are the scales {[1 / stride for stride in strides]}; give "
            "some of these, finest first, with no gap"
        )
    return Pooler(
        strides,
        wanted,
        head.POOLER_RESOLUTION,
        head.POOLER_SAMPLING_RATIO,
        arithmetic=make_arithmetic(cfg),
        level_rule=cfg.MODEL.ARITHMETIC.ROI_LEVELS,
        aligned=cfg.MODEL.ARITHMETIC.ROI_ALIGNED,
        static_shapes=cfg.MODEL.STATIC_SHAPES,
    )


def _stride_of(scale: float, strides: Sequence[int]) -> int:
    """The stride that a scale is the inverse of, written with three digits or more; 0: none."""
    return next((stride for stride in strides if abs(scale * stride - 1) < 5e-3), 0)


def _is_run_of(whole: Sequence[int], part: Sequence[int]) -> bool:
    """Whether `part` stands in `whole` without a gap."""
    return any(list(part) == list(whole[i : i + len(part)]) for i in range(len(whole)))
