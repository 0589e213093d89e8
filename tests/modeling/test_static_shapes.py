"""MODEL.STATIC_SHAPES: the same choice and the same losses, without a read from the device."""

import importlib
import sys

import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher

from detengine.config.errors import ConfigError
from detengine.modeling.boxes import ContinuousBoxes
from detengine.modeling.build import build_detection_model
from detengine.modeling.fixed_sampling import draw_balanced, match_all, pad_truth
from detengine.modeling.matching import RoISamples, match_boxes, sample_balanced
from detengine.modeling.poolers import Pooler, to_rois
from detengine.modeling.suppression import survivors
from modeling.triton_marks import needs_triton, needs_triton_compiler

STATIC = {"MODEL.STATIC_SHAPES": "True"}
KEYPOINTS = {
    "MODEL.KEYPOINT_ON": "True",
    "MODEL.ROI_KEYPOINT_HEAD.CONV_LAYERS": "[16]",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": "64",
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_SCALES": "[0.25, 0.125, 0.0625]",
}
KERNEL = "detengine.modeling.suppression_triton"


def random_boxes(count: int, side: float) -> Tensor:
    corner = torch.rand(count, 2) * side * 0.6
    return torch.cat([corner, corner + 1 + torch.rand(count, 2) * side * 0.4], dim=1)


def rows(boxes: Tensor) -> set[tuple[float, ...]]:
    return {tuple(box) for box in boxes.tolist()}


def compressed(samples: RoISamples) -> RoISamples:
    """Samples of fixed places as the heads get them otherwise: without the empty ones."""
    places = len(samples.matched_boxes)
    is_positive = samples.is_positive
    rest = samples.labels[places:] != -100
    of_places = samples.rois[:places]
    negatives_in_front = of_places[~is_positive & (samples.labels[:places] == 0)]
    per_image = is_positive.split([len(each) for each in samples.matched_index])
    positives = is_positive.sum()
    rois = torch.cat([of_places[is_positive], negatives_in_front, samples.rois[places:][rest]])
    labels = torch.zeros(len(rois), dtype=torch.int64)
    labels[:positives] = samples.labels[:places][is_positive]
    index = [each[own] for each, own in zip(samples.matched_index, per_image, strict=True)]
    return RoISamples(rois, labels, samples.matched_boxes[is_positive], index)


@pytest.fixture(params=[{}, KEYPOINTS], ids=["masks", "keypoints too"])
def family(request):
    return request.param


@pytest.fixture
def make_all_targets(make_targets):
    """As make_targets, each object with 17 keypoints in its box."""

    def make(images, counts):
        targets = make_targets(images, counts)
        for target in targets:
            boxes = target["boxes"][:, None]
            places = boxes[..., :2] + torch.rand(1, 17, 1) * (boxes[..., 2:] - boxes[..., :2])
            target["keypoints"] = torch.nn.functional.pad(places, (0, 1), value=2)
        return targets

    return make


@pytest.mark.parametrize("low_quality", [False, True])
def test_all_images_are_matched_as_each_by_itself(low_quality):
    torch.manual_seed(0)
    matcher = Matcher(0.5, 0.3, allow_low_quality_matches=low_quality)
    targets = [
        {"boxes": random_boxes(count, 60), "labels": torch.ones(count, dtype=torch.int64)}
        for count in (4, 0, 1, 7)
    ]
    truth = pad_truth(targets, torch.device("cpu"))
    shared = random_boxes(200, 60)
    own = torch.stack([random_boxes(50, 60) for _ in targets])
    own[0, :4] = targets[0]["boxes"]
    for candidates in (shared, own):
        matched = match_all(candidates, truth, matcher, ContinuousBoxes())
        for image, target in enumerate(targets):
            alone = candidates if candidates.dim() == 2 else candidates[image]
            expected = match_boxes(alone, target["boxes"], matcher, ContinuousBoxes())
            assert torch.equal(matched[image], expected)


@pytest.mark.parametrize(
    ("positives", "negatives"), [(0, 40), (3, 40), (30, 40), (30, 2), (0, 0), (9, 0)]
)
def test_as_many_are_drawn_as_where_the_host_knows_the_numbers(positives, negatives):
    torch.manual_seed(0)
    kinds = [0] * positives + [-1] * negatives + [-2] * (80 - positives - negatives)
    matched = torch.tensor(kinds)[torch.randperm(80)]
    positive, negative = sample_balanced(matched, 32, 0.25)
    drawn = draw_balanced(matched.expand(3, -1), 32, 0.25)
    assert drawn.candidate.shape == (3, 32)
    for candidate, is_positive, is_used in zip(*drawn, strict=True):
        assert is_positive.sum() == len(positive)
        assert (is_used & ~is_positive).sum() == len(negative)
        assert (matched[candidate[is_positive]] == 0).all()
        assert (matched[candidate[is_used & ~is_positive]] == -1).all()
        assert len(candidate[is_used].unique()) == is_used.sum()
        assert (is_positive.int().diff() <= 0).all()


def test_every_candidate_is_as_likely_to_be_drawn():
    torch.manual_seed(0)
    matched = torch.tensor([0] * 20 + [-1] * 60).expand(4000, -1)
    drawn = draw_balanced(matched, 32, 0.25)
    counts = torch.bincount(drawn.candidate.flatten(), minlength=80).double()
    for of_kind, likely in ((counts[:20], 8 / 20), (counts[20:], 24 / 60)):
        deviation = (4000 * likely * (1 - likely)) ** 0.5
        assert ((of_kind - 4000 * likely).abs() < 5 * deviation).all()


def test_more_places_than_candidates_are_not_needed():
    drawn = draw_balanced(torch.tensor([[0, -1, -2]]), 512, 0.25)
    assert drawn.is_positive.tolist() == [[True, False, False]]
    assert drawn.is_used.tolist() == [[True, True, False]]


def test_rois_are_pooled_from_every_level_as_from_their_own():
    torch.manual_seed(0)
    features = [torch.rand(2, 3, 256 // s, 256 // s, requires_grad=True) for s in (4, 8, 16)]
    rois = to_rois([random_boxes(30, 256), random_boxes(9, 60)])
    options = {"arithmetic": ContinuousBoxes(), "level_rule": "torchvision"}
    pooled, gradients = [], []
    for static in (False, True):
        pooler = Pooler((4, 8, 16), (4, 8, 16), 7, 2, **options, static_shapes=static)
        pooled.append(pooler(features, rois))
        weights = torch.sin(torch.arange(pooled[-1].numel())).view_as(pooled[-1])
        gradients.append(torch.autograd.grad((pooled[-1] * weights).sum(), features))
    assert torch.equal(*pooled)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"MODEL.RPN.POST_NMS_TOP_N_TRAIN": "30", "MODEL.RPN.PRE_NMS_TOP_N_TRAIN": "300"},
        {"MODEL.RPN.MIN_SIZE": "12"},
    ],
)
def test_the_same_proposals_are_chosen(make_config, narrow, images, calibrate, limits):
    found = []
    for keys in ({}, STATIC):
        torch.manual_seed(0)
        model = build_detection_model(make_config(narrow | limits | keys))
        calibrate(model)
        batch, sizes = model.preprocess(images)
        with torch.no_grad():
            features = model.backbone(batch)
            found.append(model.rpn(features, tuple(batch.shape[2:]), sizes, None)[0])
            found.append(model.rpn.eval()(features, tuple(batch.shape[2:]), sizes, None)[0])
    listed, in_evaluation, fixed, also_in_evaluation = found
    assert fixed.boxes.shape[:2] == fixed.is_real.shape
    for image, (boxes, scores) in zip(listed, fixed.of_images(), strict=True):
        assert 10 < len(boxes) == len(image.boxes)
        assert torch.equal(scores, image.scores)
        assert rows(boxes) == rows(image.boxes)
    for image, other in zip(in_evaluation, also_in_evaluation, strict=True):
        assert torch.equal(image.scores, other.scores)


def test_the_same_samples_give_the_same_losses_and_gradients(
    make_config, narrow, images, make_all_targets, family
):
    torch.manual_seed(0)
    model = build_detection_model(make_config(narrow | family | STATIC))
    targets = make_all_targets(images, [3, 5])
    sample, kept = model.roi_heads.sample, []

    def keep(*args):
        kept.append(sample(*args))
        return kept[-1]

    model.roi_heads.sample = keep
    losses = [model(images, targets)]
    assert kept[0].is_positive.any()
    assert not kept[0].is_positive.all()
    model.roi_heads.sample = lambda *_: compressed(kept[0])
    losses.append(model(images, targets))
    gradients = []
    for each in losses:
        for key in ("loss_objectness", "loss_rpn_box_reg"):  # drawn anew
            each.pop(key)
        trained = [p for name, p in model.named_parameters() if "rpn" not in name]
        gradients.append(torch.autograd.grad(sum(each.values()), trained))
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


def test_the_proposals_network_has_the_same_losses_where_all_anchors_are_drawn(
    make_config, narrow, images, make_targets
):
    every = {"MODEL.RPN.BATCH_SIZE_PER_IMAGE": "100000", "MODEL.RPN.POSITIVE_FRACTION": "1.0"}
    losses = []
    for keys in ({}, STATIC):
        torch.manual_seed(0)
        model = build_detection_model(make_config(narrow | every | keys))
        found = model(images, make_targets(images, [3, 0]))
        losses.append({key: found[key] for key in ("loss_objectness", "loss_rpn_box_reg")})
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("counts", [(0, 0), (0, 4)])
def test_images_without_objects_are_ordinary(
    make_config, narrow, images, make_all_targets, family, counts
):
    torch.manual_seed(0)
    model = build_detection_model(make_config(narrow | family | STATIC))
    losses = model(images, make_all_targets(images, counts))
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(each.grad.isfinite().all() for each in model.parameters())
    if not any(counts):
        assert losses["loss_mask"] == losses["loss_box_reg"] == losses["loss_rpn_box_reg"] == 0


def test_it_learns_in_a_few_steps(make_config, narrow, images, make_targets):
    torch.manual_seed(0)
    model = build_detection_model(make_config(narrow | STATIC))
    targets, totals = make_targets(images, [4, 3]), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(6):
        loss = sum(model(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        totals.append(loss.item())
    assert totals[-1] < 0.8 * totals[0]


def reads_of_a_step(host_reads, model, images, targets) -> int:
    """Of forward and backward. tolist is counted by itself, as torch does not dispatch it."""
    host_reads.counts.clear()
    with host_reads:
        sum(model(images, targets).values()).backward()
    return sum(host_reads.counts[name] for name in ("_local_scalar_dense", "nonzero", "tolist"))


def test_a_training_step_reads_nothing_from_the_device(
    make_config, narrow, images, make_all_targets, family, host_reads
):
    model = build_detection_model(make_config(narrow | family | STATIC))
    assert reads_of_a_step(host_reads, model, images, make_all_targets(images, [3, 5])) == 0


def test_otherwise_the_host_waits_nine_times_for_each_image_and_twice_for_all(
    make_config, narrow, images, make_targets, host_reads
):
    """Of each image: which proposals are large, NMS level by level, and twice what to draw from."""
    reads, level_by_level = [], 3 + 1  # on a CPU: where the boxes of each level are, and of all
    for count in (1, 2):
        torch.manual_seed(0)
        model = build_detection_model(make_config(narrow))
        targets = make_targets(images[:count], [3, 5][:count])
        reads.append(reads_of_a_step(host_reads, model, images[:count], targets))
    of_poolers = 2
    assert reads == [of_poolers + count * (1 + level_by_level + 2 * 2) for count in (1, 2)]


def interpreted(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.delitem(sys.modules, KERNEL, raising=False)
    return importlib.import_module(KERNEL)


@needs_triton
@pytest.mark.parametrize("count", [1, 64, 150])
@pytest.mark.filterwarnings("ignore:invalid value encountered in divide")  # no area by no area
def test_the_kernels_suppress_what_torchvisions_nms_does(monkeypatch, count):
    kernels = interpreted(monkeypatch)
    torch.manual_seed(0)
    groups = torch.stack([random_boxes(count, side) for side in (60, 10, 4)])
    groups[1, -1] = groups[1, 0]
    groups[2, :2] = 0
    expected = survivors(groups, 0.5)
    assert torch.equal(kernels.survivors_on_device(groups, 0.5), expected)
    assert count == 1 or not expected.all()
    assert kernels.survivors_on_device(groups[:, :0], 0.5).shape == (3, 0)
    del sys.modules[KERNEL]


@needs_triton_compiler
def test_the_kernels_compile_for_hopper_without_a_device():
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernels, target = importlib.import_module(KERNEL), GPUTarget("cuda", 90, 32)
    numbers = {"count": "i32", "words": "i32"}
    arguments = {"boxes": "*fp32", "suppressed": "*i64", **numbers, "threshold": "fp32"}
    source = ASTSource(kernels._compare, arguments, {"WORD": 64})
    options = {"enable_fp_fusion": True}
    assert "ptx" in triton.compile(source, target=target, options=options).asm
    arguments = {"suppressed": "*i64", "stays": "*i1", **numbers}
    source = ASTSource(kernels._gather, arguments, {"WORDS": 32, "WORD": 64})
    assert "ptx" in triton.compile(source, target=target, options=options | {"num_warps": 1}).asm


@pytest.mark.parametrize(
    "keys",
    [
        {"MODEL.ARITHMETIC.INCLUSIVE_PIXELS": "True"},
        {"MODEL.ARITHMETIC.ANCHORS": "detectron"},
        {"MODEL.RPN.FPN_POST_NMS_PER_BATCH": "True"},
    ],
)
def test_what_has_no_static_form_says_so(make_config, narrow, keys):
    (key,) = keys
    with pytest.raises(
        ConfigError, match=rf"MODEL\.STATIC_SHAPES is True and {key}.*STATIC_SHAPES"
    ):
        make_config(narrow | STATIC | keys)
