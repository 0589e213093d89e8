"""An R-CNN's evaluation of whole batches: its layers, arithmetic and limits, in a graph."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detengine.modeling.export_batch import UNWANTED, Chosen, choose, preprocessed, survivors
from detengine.modeling.export_operators import points_of_heatmaps
from detengine.modeling.export_pooler import ExportPooler
from detengine.modeling.fixed_proposals import FixedProposals
from detengine.modeling.poolers import Pooler
from detengine.modeling.rcnn import GeneralizedRCNN
from detengine.modeling.roi_heads import RoIHeads
from detengine.modeling.rpn import RegionProposalNetwork, one_row_per_anchor

Size = tuple[int, int]


class ExportRCNN(nn.Module):
    """Detections of all images of a batch in a row: those of the first image, best first, and on.

    model: is copied, and left as it is. output_names: of what forward returns.
    """

    def __init__(self, model: GeneralizedRCNN) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).eval()
        heads = self.model.roi_heads
        self.output_names = ["boxes", "scores", "image_index"]
        if heads is not None:
            for name, part in list(heads.named_children()):
                if isinstance(part, Pooler):
                    setattr(heads, name, ExportPooler(part))
            self.output_names.insert(2, "labels")
            self.output_names += ["mask_probs"] * heads.has_masks
            self.output_names += ["keypoints", "keypoints_scores"] * heads.has_keypoints

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """images: uint8[N, 3, H, W], RGB. Returns, of D detections, in the order of output_names:

        boxes float32[D, 4], scores float32[D], labels int64[D] (not of proposals alone),
        image_index int64[D], and where the model has them mask_probs float32[D, M, M], keypoints
        float32[D, J, 3] and keypoints_scores float32[D, J].
        """
        size = (images.shape[2], images.shape[3])
        batch = preprocessed(self.model.preprocess, images)
        features = self.model.backbone(batch)
        padded_size = (batch.shape[2], batch.shape[3])
        proposals = propose(self.model.rpn, features, padded_size, size)
        if self.model.roi_heads is None:
            chosen = choose(proposals.scores, 0, keep_ties=False)
            return proposals.boxes[chosen.image, chosen.place], chosen.scores, chosen.image
        return _detect(self.model.roi_heads, features, proposals, size)


def propose(
    rpn: RegionProposalNetwork, features: list[Tensor], padded_size: Size, size: Size
) -> FixedProposals:
    """The proposals that the network has for images of one size, best first; others score -1."""
    limits, is_detectron = rpn.test_limits, rpn.style == "detectron"
    logit_maps, delta_maps = rpn.head(features)
    anchors = rpn.anchor_generator(features, padded_size)
    boxes_of_levels, scores_of_levels = [], []
    for logit_map, delta_map, of_level in zip(logit_maps, delta_maps, anchors, strict=True):
        ranked = one_row_per_anchor(logit_map, 1)[:, :, 0].float()
        ranked = ranked.sigmoid() if is_detectron else ranked
        values, index = ranked.topk(torch.sym_min(limits.pre_nms, ranked.shape[1]), dim=1)
        scores = values if is_detectron else values.sigmoid()
        deltas = one_row_per_anchor(delta_map, 4).float()
        boxes = rpn.arithmetic.clip(rpn.decode(deltas, of_level, index), size)
        is_large = (rpn.arithmetic.sides(boxes) >= rpn.min_size).all(dim=2)
        scores = scores.where(is_large, UNWANTED)
        stays = survivors(rpn.arithmetic, boxes, scores[:, None], iou_threshold=rpn.nms_threshold)[
            :, 0
        ]
        if limits.post_nms < limits.pre_nms and rpn.nms_limits:
            stays = stays & (stays.long().cumsum(dim=1) <= limits.post_nms)
        boxes_of_levels.append(boxes)
        scores_of_levels.append(scores.where(stays, UNWANTED))
    boxes, scores = torch.cat(boxes_of_levels, dim=1), torch.cat(scores_of_levels, dim=1)
    total = scores.shape[1]
    count = total if limits.of_image is None else torch.sym_min(limits.of_image, total)
    best, place = scores.topk(count, dim=1)
    chosen = boxes.gather(1, place[:, :, None].expand(-1, -1, 4))
    return FixedProposals(chosen, best, best > UNWANTED / 2)


def _detect(
    heads: RoIHeads, features: list[Tensor], proposals: FixedProposals, size: Size
) -> tuple[Tensor, ...]:
    boxes, scores = _class_boxes(heads, features, proposals, size)
    chosen, labels, detected = _select(heads, boxes, scores)
    rois = torch.cat([chosen.image[:, None].to(detected.dtype), detected], dim=1)
    outputs = [detected, chosen.scores, labels, chosen.image]
    if heads.has_masks:
        logits = heads.predict_masks(features, rois)
        side = logits.shape[-1]
        own = labels[:, None, None, None].expand(-1, 1, side, side)
        outputs.append(logits.gather(1, own)[:, 0].float().sigmoid())
    if heads.has_keypoints:
        found = points_of_heatmaps(heads.predict_keypoints(features, rois), detected)
        outputs += [F.pad(found[:, :, :2], (0, 1), value=1.0), found[:, :, 2]]
    return tuple(outputs)


def _class_boxes(
    heads: RoIHeads, features: list[Tensor], proposals: FixedProposals, size: Size
) -> tuple[Tensor, Tensor]:
    """Every place of a proposal as each class without the background, C of them.

    Boxes float32[N, C or 1, P, 4], 1 where they are regressed for all classes together, and scores
    float32[N, C, P]. Only real proposals go through the head.
    """
    image, place = torch.where(proposals.is_real)
    starts = proposals.boxes[image, place]
    rois = torch.cat([image[:, None].to(starts.dtype), starts], dim=1)
    class_logits, deltas = heads.predict_boxes(heads.box_head(heads.box_pooler(features, rois)))
    scores = class_logits.softmax(dim=1)[:, 1:]
    decoded = heads.arithmetic.decode(deltas, starts, heads.box_weights)[:, 1:]
    boxes = heads.arithmetic.clip(decoded, size)
    images, places = proposals.scores.shape
    all_scores = scores.new_full((images, places, scores.shape[1]), UNWANTED)
    all_boxes = boxes.new_zeros(images, places, boxes.shape[1], 4)
    return (
        all_boxes.index_put((image, place), boxes).transpose(1, 2),
        all_scores.index_put((image, place), scores).transpose(1, 2),
    )


def _select(heads: RoIHeads, boxes: Tensor, scores: Tensor) -> tuple[Chosen, Tensor, Tensor]:
    """What is given out, its labels int64[D] and its boxes float32[D, 4].

    boxes: float32[N, C or 1, P, 4]; scores: float32[N, C, P].
    """
    limits, (images, classes, places) = heads.limits, scores.shape
    if limits.min_size > 0:
        is_large = (heads.arithmetic.sides(boxes) >= limits.min_size).all(dim=3)
        scores = scores.where(is_large, UNWANTED)
    groups = boxes.flatten(0, 1)
    stays = survivors(
        heads.arithmetic,
        groups,
        scores.reshape(groups.shape[0], -1, places),
        iou_threshold=limits.nms,
        score_threshold=limits.score,
    )
    wanted = scores.where(stays.view(images, classes, places), UNWANTED)
    chosen = choose(wanted.flatten(1), limits.per_image, keep_ties=limits.keep_ties)
    of_class = chosen.place // places
    place = chosen.place - of_class * places
    box_class = of_class if boxes.shape[1] == classes else torch.zeros_like(of_class)
    return chosen, of_class + 1, boxes[chosen.image, box_class, place]
