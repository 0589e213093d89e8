"""Proposals, their losses and the anchors' labels against the predecessor's recordings."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detengine.checkpoint.maskrcnn_benchmark import convert
from detengine.config.load import load_config
from detengine.modeling.anchors import lies_inside
from detengine.modeling.build_backbone import build_backbone
from detengine.modeling.build_rpn import build_rpn
from detengine.modeling.matching import BACKGROUND, match_boxes
from detengine.modeling.rpn import Proposals, RegionProposalNetwork

GOLDEN = Path(__file__).parents[2] / "../shared/golden"
RECORDED = [
    "e2e_mask_rcnn_R_50_FPN_1x",
    "e2e_faster_rcnn_R_50_C4_1x",
    "rpn_R_50_FPN_1x",
    "gn_e2e_mask_rcnn_R_50_FPN_Xconv1fc_1x_gn",
    "dcn_substituted_e2e_faster_rcnn_dconv_R_50_FPN_1x",
    "e2e_faster_rcnn_fbnet",
]


class Recording(NamedTuple):
    """The predecessor's backbone and RPN with its weights, and what they saw and gave."""

    backbone: nn.Module
    rpn: RegionProposalNetwork
    batch: Tensor
    image_sizes: list[tuple[int, int]]
    targets: list[dict[str, Tensor]]
    evaluated: dict[str, Tensor]
    trained: dict[str, Tensor]
    losses: dict[str, dict[str, float]]

    def propose(self, targets: Any = None) -> tuple[list[Proposals], dict[str, Tensor]]:
        features = self.backbone(self.batch)
        padded = (self.batch.shape[2], self.batch.shape[3])
        return self.rpn(features, padded, self.image_sizes, targets)


class FirstStage(nn.Module):
    """Under the names of a whole model."""

    def __init__(self, backbone: nn.Module, rpn: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.rpn = rpn


@pytest.fixture(scope="module", params=RECORDED)
def recording(request: pytest.FixtureRequest) -> Recording:
    folder = GOLDEN / request.param
    if not folder.exists():
        pytest.skip("../shared is absent")
    settings = json.loads((folder / "overrides.json").read_text())
    overrides = [str(value) for value in settings["overrides"]]
    cfg = load_config(GOLDEN / settings["upstream_config"], overrides)
    backbone = build_backbone(cfg)
    model = FirstStage(backbone, build_rpn(cfg, backbone))
    weights = torch.load(folder / "weights.pth", weights_only=True)
    sources = convert(weights, model).sources
    model.load_state_dict({name: weights[sources[name]] for name in model.state_dict()})
    seen = np.load(GOLDEN / settings["preprocessed"])
    sizes = [tuple(size) for size in seen["image_sizes_hw"].tolist()]
    return Recording(
        backbone,
        model.rpn,
        torch.from_numpy(seen["tensor"]),
        sizes,
        [resized(target, size) for target, size in zip(read_targets(), sizes, strict=True)],
        tensors(folder / "eval.npz"),
        tensors(folder / "train.npz"),
        json.loads((folder / "train.json").read_text()),
    )


def read_targets() -> list[dict[str, Any]]:
    targets: list[dict[str, Any]] = json.loads((GOLDEN / "common/targets.json").read_text())
    return targets


def resized(target: dict[str, Any], size: tuple[int, int]) -> dict[str, Tensor]:
    (width, height), boxes = target["size_wh"], torch.tensor(target["boxes"])
    scale = torch.tensor([size[1] / width, size[0] / height])
    return {"boxes": boxes * scale.repeat(2), "labels": torch.tensor(target["labels"])}


def tensors(path: Path) -> dict[str, Tensor]:
    return {name: torch.from_numpy(values) for name, values in np.load(path).items()}


def recorded_proposals(evaluated: dict[str, Tensor], image: int) -> Proposals:
    """Of an RPN alone they are what it gives out."""
    if f"img{image}_proposals" in evaluated:
        name = f"img{image}_proposals"
        return Proposals(evaluated[name], evaluated[f"{name}_objectness"])
    return Proposals(evaluated[f"img{image}_boxes"], evaluated[f"img{image}_objectness"])


def test_proposals_are_those_of_the_predecessor(recording: Recording) -> None:
    recording.backbone.eval()
    recording.rpn.eval()
    with torch.no_grad():
        proposals, losses = recording.propose()
    assert losses == {}
    for image, ours in enumerate(proposals):
        theirs = recorded_proposals(recording.evaluated, image)
        assert len(ours.boxes) == len(theirs.boxes)
        is_same = (ours.boxes[:, None] - theirs.boxes).abs().amax(dim=2) < 0.05
        is_same &= (ours.scores[:, None] - theirs.scores).abs() < 1e-3
        assert is_same.any(dim=0).all()
        assert is_same.any(dim=1).all()


@pytest.mark.parametrize("sampler", ["losses_seed0_randperm", "losses_arange"])
def test_losses_are_those_of_the_predecessor(
    recording: Recording, sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sampler == "losses_arange":
        monkeypatch.setattr(torch, "randperm", lambda count, **_: torch.arange(count))
    state = {name: value.clone() for name, value in recording.backbone.state_dict().items()}
    recording.backbone.train()
    recording.rpn.train()
    torch.manual_seed(0)
    with torch.no_grad():
        _, losses = recording.propose(recording.targets)
    recording.backbone.load_state_dict(state)
    assert set(losses) == {"loss_objectness", "loss_rpn_box_reg"}
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(recording.losses[sampler][name], rel=1e-6)


def test_anchors_are_labelled_as_by_the_predecessor(recording: Recording) -> None:
    rpn, padded = recording.rpn, (recording.batch.shape[2], recording.batch.shape[3])
    with torch.no_grad():
        features = recording.backbone.eval()(recording.batch)
    anchors = torch.cat(rpn.anchor_generator(features, padded))
    for image, (target, size) in enumerate(
        zip(recording.targets, recording.image_sizes, strict=True)
    ):
        matched = match_boxes(anchors, target["boxes"], rpn.sampling.matcher, rpn.arithmetic)
        labels = torch.where(matched >= 0, 1, torch.where(matched == BACKGROUND, 0, -1))
        labels[~lies_inside(anchors, size, rpn.sampling.straddle)] = -1
        assert torch.equal(labels, recording.trained[f"img{image}_anchor_labels"].long())
