"""A RetinaNet's evaluation of whole batches: its layers, arithmetic and limits, in a graph."""

import copy

import torch
from torch import Tensor, nn

from detengine.modeling.export_batch import UNWANTED, choose, preprocessed, survivors
from detengine.modeling.retinanet import RetinaNet
from detengine.modeling.retinanet_detections import Candidates, best_candidates


class ExportRetinaNet(nn.Module):
    """Detections of all images of a batch in a row: those of the first image, best first, and on.

    model: is copied, and left as it is. output_names: of what forward returns.
    """

    output_names = ("boxes", "scores", "labels", "image_index")

    def __init__(self, model: RetinaNet) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """images: uint8[N, 3, H, W], RGB. Returns boxes float32[D, 4], scores float32[D], labels
        int64[D] and image_index int64[D], of D detections."""
        selector = self.model.selector
        logits, deltas, anchors = self.model.predict(preprocessed(self.model.preprocess, images))
        found = _candidates(logits, anchors, selector.candidates_per_level)
        chosen_deltas = deltas.gather(1, found.anchor[..., None].expand(-1, -1, 4))
        starts = torch.cat(anchors)[found.anchor]
        decoded = selector.arithmetic.decode(
            chosen_deltas.flatten(0, 1), starts.flatten(0, 1), selector.box_weights
        ).view_as(chosen_deltas)
        boxes = selector.arithmetic.clip(decoded, (images.shape[2], images.shape[3]))
        is_large = (selector.arithmetic.sides(boxes) >= selector.min_size).all(dim=2)
        scores = found.score.where(is_large, UNWANTED)
        labels = torch.arange(1, logits.shape[2] + 1, device=logits.device)
        is_of_label = found.label[:, None] == labels[:, None]
        stays = survivors(
            selector.arithmetic,
            boxes,
            scores[:, None].where(is_of_label, UNWANTED),
            iou_threshold=selector.nms_threshold,
            score_threshold=selector.score_threshold,
        ).any(dim=1)
        chosen = choose(
            scores.where(stays, UNWANTED),
            selector.detections_per_image,
            keep_ties=selector.keep_ties,
        )
        image, place = chosen.image, chosen.place
        return boxes[image, place], chosen.scores, found.label[image, place], image


def _candidates(logits: Tensor, anchors: list[Tensor], per_level: int) -> Candidates:
    """As `DetectionSelector` has them. logits: float32[N, A, K]; anchors: of each level."""
    levels, first = [], 0
    for of_level in anchors:
        score, anchor, label = best_candidates(
            logits[:, first : first + of_level.shape[0]], per_level
        )
        levels.append((score, anchor + first, label))
        first = first + of_level.shape[0]
    return Candidates(*(torch.cat(each, dim=1) for each in zip(*levels, strict=True)))
