"""The whole RetinaNet, against the predecessor's recording, torchvision's and its contract."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.models.detection import RetinaNet as TorchvisionRetinaNet
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator as TorchvisionAnchors
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from detengine.checkpoint.maskrcnn_benchmark import convert
from detengine.config.load import load_config
from detengine.config.schema import Config
from detengine.modeling.anchors import AnchorGenerator
from detengine.modeling.boxes import ContinuousBoxes
from detengine.modeling.build_retinanet import build_retinanet
from detengine.modeling.preprocess import Preprocess
from detengine.modeling.retinanet import RetinaNet, make_retinanet_head
from detengine.modeling.retinanet_detections import DetectionSelector
from detengine.modeling.retinanet_losses import RetinaNetLosses
from detengine.solver.build import make_lr_scheduler, make_optimizer
from detengine.structures.target import Target

GOLDEN = Path(__file__).parents[2] / "../shared/golden"
FOLDER = GOLDEN / "retinanet_R-50-FPN_P5_1x"
needs_recording = pytest.mark.skipif(not FOLDER.exists(), reason="../shared is absent")
SMALL = {
    "MODEL.RETINANET_ON": True,
    "MODEL.RPN_ONLY": True,
    "MODEL.BACKBONE.CONV_BODY": "R-50-FPN-RETINANET",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 32,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
    "MODEL.RESNETS.BACKBONE_OUT_CHANNELS": 16,
    "MODEL.RETINANET.NUM_CLASSES": 4,
}


class Recording(NamedTuple):
    """A model with the recorded weights, its input, and what the predecessor's gave."""

    cfg: Config
    model: Any
    batch: Tensor
    image_sizes: list[tuple[int, int]]
    outputs: Any
    training: dict[str, Any]


@pytest.fixture
def recording() -> Recording:
    given = json.loads((FOLDER / "overrides.json").read_text())
    training = json.loads((FOLDER / "train.json").read_text())
    overrides = [*given["overrides"], *training["sgd_solver_overrides"]]
    cfg = load_config(GOLDEN / given["upstream_config"], overrides)
    model = build_retinanet(cfg)
    weights = torch.load(FOLDER / "weights.pth", weights_only=True)
    sources = convert(weights, model).sources
    model.load_state_dict({ours: weights[theirs] for ours, theirs in sources.items()})
    network_input = np.load(GOLDEN / given["preprocessed"])
    return Recording(
        cfg,
        model,
        torch.from_numpy(network_input["tensor"]),
        [(int(h), int(w)) for h, w in network_input["image_sizes_hw"]],
        np.load(FOLDER / "eval.npz"),
        training,
    )


def read_targets(image_sizes: list[tuple[int, int]]) -> list[Target]:
    """The recorded training targets, in the pixels of the network's input."""
    targets = []
    recorded = json.loads((GOLDEN / "common/targets.json").read_text())
    for each, (height, width) in zip(recorded, image_sizes, strict=True):
        scale = torch.tensor([width, height] * 2) / torch.tensor(each["size_wh"] * 2)
        targets.append(
            {
                "boxes": torch.tensor(each["boxes"]) * scale,
                "labels": torch.tensor(each["labels"]),
            }
        )
    return targets


@needs_recording
def test_scores_and_shifts_of_all_levels_are_the_predecessors(recording: Recording) -> None:
    with torch.no_grad():
        features = recording.model.backbone(recording.batch)
        logits, deltas, anchors = recording.model.predict(recording.batch)
    assert len(features) == len(anchors) == 5
    counts = [len(level) for level in anchors]
    for kind, rows in (("cls", logits), ("reg", deltas)):
        for level, values in enumerate(rows.split(counts, dim=1)):
            height, width = features[level].shape[2:]
            maps = values.unflatten(1, (height, width, -1)).permute(0, 3, 4, 1, 2).flatten(1, 2)
            assert_is_recorded(maps, recording.outputs, f"rpn_{kind}{level}")
    for level, feature in enumerate(features):
        assert_is_recorded(feature, recording.outputs, f"feat{level}")


def assert_is_recorded(maps: Tensor, outputs: Any, name: str) -> None:
    """Whether float[N, C, H, W] have the recorded numbers, to 1e-4 of their range."""
    assert maps.shape == tuple(outputs[f"{name}_shape"])
    rows = maps.double()
    stats = [rows.mean(), rows.std(), rows.abs().sum(), rows.min(), rows.max()]
    np.testing.assert_allclose(torch.stack(stats), outputs[f"{name}_stats"], rtol=1e-4, atol=1e-6)
    _, channels, height, width = maps.shape
    h, w = height // 3, width // 4
    part = maps[:, :: max(1, channels // 8), h : h + 6, w : w + 6]
    corners = torch.stack([maps[:, :, y, x] for y in (0, -1) for x in (0, -1)])
    tolerance = 1e-4 * float(maps.abs().max())
    for given, kind in ((part, "slice"), (corners, "corners")):
        np.testing.assert_allclose(given, outputs[f"{name}_{kind}"], rtol=0, atol=tolerance)


@needs_recording
def test_detections_are_all_those_of_the_predecessor(recording: Recording) -> None:
    model = recording.model.eval()
    with torch.no_grad():
        found = model.selector(*model.predict(recording.batch), recording.image_sizes)
    for image, ours in enumerate(found):
        boxes, scores, labels = (
            recording.outputs[f"img{image}_{key}"] for key in ("boxes", "scores", "labels")
        )
        assert len(ours["scores"]) == len(scores) == 100
        our_order, order = ranked(ours["labels"], ours["scores"]), ranked(labels, scores)
        assert ours["labels"][our_order].tolist() == labels[order].tolist()
        np.testing.assert_allclose(ours["scores"][our_order], scores[order], rtol=0, atol=1e-4)
        np.testing.assert_allclose(ours["boxes"][our_order], boxes[order], rtol=0, atol=0.01)


def ranked(labels: Any, scores: Any) -> NDArray[np.int64]:
    """The order by label, then by score."""
    return np.lexsort((-np.asarray(scores), np.asarray(labels)))


@needs_recording
def test_every_anchor_counts_as_for_the_predecessor(recording: Recording) -> None:
    _, _, anchors = recording.model.predict(recording.batch)
    labels, _ = recording.model.losses.assign(
        torch.cat(anchors), read_targets(recording.image_sizes)
    )
    recorded = np.load(FOLDER / "train.npz")
    for image, ours in enumerate(labels):
        np.testing.assert_array_equal(ours, recorded[f"img{image}_anchor_labels"])


@needs_recording
def test_three_steps_have_the_predecessors_losses(recording: Recording) -> None:
    model = recording.model.train()
    optimizer = make_optimizer(recording.cfg, model)
    scheduler = make_lr_scheduler(recording.cfg, optimizer)
    targets = read_targets(recording.image_sizes)
    for step in recording.training["sgd_steps"]:
        losses = model.losses(*model.predict(recording.batch), targets)
        for name in ("loss_retina_cls", "loss_retina_reg"):
            assert losses[name].item() == pytest.approx(step[name], rel=1e-4)
        assert scheduler.get_last_lr()[0] in (step["lr"], 2 * step["lr"])
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        scheduler.step()


def make_small(**overrides: Any) -> Any:
    values = SMALL | {key.replace("__", "."): value for key, value in overrides.items()}
    torch.manual_seed(0)
    return build_retinanet(load_config(None, [part for pair in values.items() for part in pair]))


@pytest.mark.parametrize("conventions", ["maskrcnn_benchmark", "modern"])
def test_it_trains_and_finds_under_both_conventions(conventions, images, make_targets) -> None:
    model = make_small(
        CONVENTIONS=conventions,
        MODEL__DEVICE="cpu",
        MODEL__RETINANET__INFERENCE_TH=0.009,
        TEST__DETECTIONS_PER_IMG=7,
    )
    losses = model(images, make_targets(images, [3, 0]))
    assert list(losses) == ["loss_retina_cls", "loss_retina_reg"]
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert not parameter.requires_grad or parameter.grad.isfinite().all(), name
    for image, found in zip(images, model.eval()(images), strict=True):
        assert list(found) == ["boxes", "scores", "labels"]
        assert len(found["boxes"]) >= 7
        assert {1, 2, 3} >= set(found["labels"].tolist())
        assert found["boxes"].min() >= 0
        assert (found["boxes"][:, 2:].amax(dim=0) <= torch.tensor(image.shape[:0:-1])).all()


def test_a_step_waits_for_the_device_once(host_reads, images, make_targets) -> None:
    model, targets = make_small(), make_targets(images, [3, 2])
    host_reads.counts.clear()
    with host_reads:
        sum(model(images, targets).values()).backward()
    assert host_reads.counts == {"nonzero": 1}


def test_every_class_scores_the_prior_at_the_start(images) -> None:
    model = make_small(MODEL__RETINANET__PRIOR_PROB=0.2)
    logits, _, _ = model.predict(torch.zeros(1, 3, 128, 128))
    torch.testing.assert_close(logits.sigmoid(), torch.full_like(logits, 0.2), rtol=1e-2, atol=0)


@pytest.mark.parametrize("num_convs", [0, 1, 6])
def test_towers_have_as_many_convolutions_as_asked_for(num_convs: int) -> None:
    head = make_retinanet_head(8, 9, 3, num_convs=num_convs, prior=0.01)
    of_one = [f"conv.{i}.0.{kind}" for i in range(num_convs) for kind in ("weight", "bias")]
    for branch, last in (
        (head.classification_head, "cls_logits"),
        (head.regression_head, "bbox_reg"),
    ):
        assert [*branch.state_dict()] == [*of_one, f"{last}.weight", f"{last}.bias"]
        for name, values in branch.state_dict().items():
            if name.endswith("weight"):
                assert values.std().item() == pytest.approx(0.01, rel=0.2)
    assert head([torch.zeros(2, 8, 4, 5)])["cls_logits"].shape == (2, 4 * 5 * 9, 3)


def test_four_convolutions_are_torchvisions_head() -> None:
    theirs = RetinaNetHead(8, 9, 3)
    ours = make_retinanet_head(8, 9, 3, num_convs=4, prior=0.01)
    ours.load_state_dict(theirs.state_dict())
    features = [torch.randn(1, 8, 6, 5)]
    assert torch.equal(ours(features)["cls_logits"], theirs(features)["cls_logits"])
    assert torch.equal(ours(features)["bbox_regression"], theirs(features)["bbox_regression"])


def test_octaves_are_divided_evenly() -> None:
    model = make_small(
        MODEL__RETINANET__SCALES_PER_OCTAVE=2,
        MODEL__RETINANET__OCTAVE=4.0,
        MODEL__RETINANET__ASPECT_RATIOS="(1.0,)",
    )
    cell = model.anchor_generator.cell_anchors_1
    assert (cell[:, 2:] - cell[:, :2] + 1).tolist() == [[64, 64], [128, 128]]
    assert model.head.regression_head.bbox_reg.out_channels == 2 * 4


def test_without_targets_there_is_no_training(images) -> None:
    with pytest.raises(ValueError, match=r"training mode but got no targets; .*model\.eval\(\)"):
        make_small().train()(images)


@pytest.mark.skipif(not GOLDEN.exists(), reason="../shared is absent")
@pytest.mark.parametrize("path", sorted(GOLDEN.glob("configs/retinanet/*")), ids=lambda p: p.stem)
@pytest.mark.parametrize("conventions", ["maskrcnn_benchmark", "modern"])
def test_the_predecessors_files_build_at_full_size(path: Path, conventions: str) -> None:
    """Their 81 classes are a default, which modern has not."""
    cfg = load_config(path, ["CONVENTIONS", conventions, "MODEL.RETINANET.NUM_CLASSES", "81"])
    with torch.device("meta"):
        model = build_retinanet(cfg)
    assert model.head.classification_head.cls_logits.out_channels == 9 * 80
    assert model.backbone.strides == (8, 16, 32, 64, 128)


@pytest.fixture
def torchvision_model() -> TorchvisionRetinaNet:
    """torchvision's own, with random weights that speak up and our order of best first."""
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18",
        weights=None,
        trainable_layers=5,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )
    sizes = tuple((size, int(size * 1.5)) for size in (16, 32, 64, 128, 256))
    anchors = TorchvisionAnchors(sizes, ((0.5, 1.0, 2.0),) * 5)
    model = TorchvisionRetinaNet(
        backbone, 4, anchor_generator=anchors, min_size=96, max_size=200, topk_candidates=50
    )
    with torch.no_grad():
        model.backbone.body.bn1.weight.mul_(0.05)
        model.head.classification_head.cls_logits.weight.mul_(2000)
        model.head.regression_head.bbox_reg.weight.mul_(500)
    return model.eval()


def test_detections_are_those_of_torchvisions_retinanet(torchvision_model, images) -> None:
    arithmetic, weights = ContinuousBoxes(), (1.0, 1.0, 1.0, 1.0)
    anchors = torchvision_model.anchor_generator
    model = RetinaNet(
        Preprocess((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 32),
        _InOrder(torchvision_model.backbone),
        AnchorGenerator(anchors.sizes, (0.5, 1.0, 2.0), (8, 16, 32, 64, 128), "torchvision"),
        torchvision_model.head,
        losses=RetinaNetLosses(arithmetic, weights, Matcher(0.5, 0.4), 0.25, 2, 0.11, 4),
        selector=DetectionSelector(arithmetic, weights, 0.05, 50, 0.5, 300, False, 0),
    )
    with torch.no_grad():
        theirs = torchvision_model([image / 255 for image in images])
        ours = model.eval()(images)
    for their, our in zip(theirs, ours, strict=True):
        assert len(our["scores"]) > 20
        assert torch.equal(our["labels"], their["labels"] + 1)
        torch.testing.assert_close(our["boxes"], their["boxes"], rtol=0, atol=1e-3)
        torch.testing.assert_close(our["scores"], their["scores"], rtol=0, atol=1e-5)


class _InOrder(torch.nn.Module):
    """torchvision's backbone, whose maps have names."""

    def __init__(self, backbone: torch.nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, batch: Tensor) -> list[Tensor]:
        return list(self.backbone(batch).values())
