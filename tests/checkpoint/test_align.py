import re
from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import maskrcnn_resnet50_fpn

from detengine.checkpoint.align import align, compare_classes, load_weights, unwrapped


def make_model(classes: int = 3, width: int = 4, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    trunk = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, width, 3),
            bn1=nn.BatchNorm2d(width),
            conv2=nn.Conv2d(width, width, 3),
        )
    )
    return nn.ModuleDict({"body": trunk, "cls_score": nn.Linear(width, classes)})


def equal(ours: nn.Module, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, state[name]) for name, tensor in ours.state_dict().items())


def test_a_model_takes_its_own_state_completely() -> None:
    model, other = make_model(seed=0), make_model(seed=1)
    alignment = load_weights(model, other.state_dict(), source="x.pth", strict=True)
    assert alignment.is_complete
    assert alignment.report() == "11 tensors match"
    assert equal(model, other.state_dict())


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod."])
def test_names_of_wrappers_are_taken_off(wrapper: str) -> None:
    model, other = make_model(seed=0), make_model(seed=1)
    wrapped = {f"{wrapper}{name}": tensor for name, tensor in other.state_dict().items()}
    assert load_weights(model, wrapped, source="x.pth", strict=True).is_complete
    assert equal(model, other.state_dict())


def test_a_compiled_model_is_loaded_like_its_inner_one() -> None:
    model, other = make_model(seed=0), make_model(seed=1)
    compiled = torch.compile(model)
    assert unwrapped(compiled) is model
    load_weights(compiled, other.state_dict(), source="x.pth", strict=True)
    assert equal(model, other.state_dict())


def test_strict_names_whatever_does_not_fit_and_leaves_the_model_alone() -> None:
    model = make_model(classes=3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = make_model(classes=5, seed=1).state_dict()
    state["extra.weight"] = state.pop("body.conv2.bias")
    with pytest.raises(ValueError, match=re.escape("the weights in x.pth are not")) as error:
        load_weights(model, state, source="x.pth", strict=True)
    message = str(error.value)
    assert "cls_score.weight: [5, 4] -> [3, 4]" in message
    assert "1 of the model, missing in the file:\n  body.conv2.bias" in message
    assert "1 in the file, unknown to the model:\n  extra.weight" in message
    assert "MODEL.WEIGHT" in message
    assert equal(model, before)


def test_not_strict_a_head_for_other_classes_stays_as_it_was_initialised() -> None:
    model, other = make_model(classes=3, seed=0), make_model(classes=5, seed=1)
    fresh = model["cls_score"].weight.clone()
    alignment = load_weights(model, other.state_dict(), source="x.pth", strict=False)
    assert [name for name, _, _ in alignment.wrong_shape] == ["cls_score.weight", "cls_score.bias"]
    assert torch.equal(model["cls_score"].weight, fresh)
    assert torch.equal(model["body"].conv1.weight, other["body"].conv1.weight)


def test_the_weights_of_a_part_find_their_place_by_the_end_of_their_names() -> None:
    model, trunk = make_model(seed=0), make_model(seed=1)["body"]
    state = {**trunk.state_dict(), "fc.weight": torch.ones(2, 2), "else.weight": torch.ones(1)}
    alignment = load_weights(model, state, source="x.pth", strict=False)
    assert "the file has the part 'body.' of the model" in alignment.report()
    assert alignment.unexpected == ["else.weight"]
    assert torch.equal(model["body"].conv2.weight, trunk.conv2.weight)


def test_a_trunk_without_heads_is_one_calm_line() -> None:
    state = {**make_model(seed=1)["body"].state_dict(), "fc.weight": torch.ones(2, 2)}
    alignment = align(make_model(seed=0), state)
    assert alignment.fills_whole_parts
    assert alignment.summary() == (
        "9 tensors match (the file has the part 'body.' of the model); 1 set aside (ImageNet's "
        "classifier, which no detector has); 2 of the model are not in the file and stay as they "
        "were initialised: 1 of cls_score.weight, 1 of cls_score.bias"
    )


def test_a_trunk_that_lacks_a_layer_and_a_tensor_without_a_place_are_no_whole_parts(
    model_of: Callable[..., nn.Module],
) -> None:
    names = [f"backbone.body.conv{i}.weight" for i in range(3)]
    names += ["backbone.body.conv2.offset.weight", "rpn.head.weight"]
    model = model_of(dict.fromkeys(names, torch.zeros(1)))
    trunk = dict.fromkeys(names[:3], torch.zeros(1))
    assert align(model, trunk).fills_whole_parts
    assert not align(model, dict(list(trunk.items())[:2])).fills_whole_parts
    assert not align(model, trunk | {"else.weight": torch.zeros(1)}).fills_whole_parts
    assert not align(model, trunk | {"rpn.head.weight": torch.zeros(2)}).fills_whole_parts


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_ran_away_are_refused(bad: float) -> None:
    model, state = make_model(), make_model(seed=1).state_dict()
    state["body.conv2.weight"][0] = bad
    with pytest.raises(ValueError, match=r"1 of the 8 parameters in x\.pth are not finite .*conv2"):
        load_weights(model, state, source="x.pth", strict=False)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("state", [{}, {"a.b": torch.ones(1)}, {"cls_score.bias": torch.ones(9)}])
def test_a_file_of_which_nothing_fits_is_an_error(state: dict[str, Tensor], strict: bool) -> None:
    with pytest.raises(ValueError, match=rf"none of the {len(state)} tensors in x\.pth fits"):
        load_weights(make_model(), state, source="x.pth", strict=strict)


def test_the_counters_of_batch_normalisation_are_no_weights() -> None:
    state = make_model(seed=1).state_dict()
    del state["body.bn1.num_batches_tracked"]
    assert load_weights(make_model(), state, source="x.pth", strict=True).is_complete


def test_a_long_list_is_cut() -> None:
    state = {f"other{i}": torch.ones(1) for i in range(25)}
    report = align(make_model(), state).report()
    assert "25 in the file, unknown to the model:" in report
    assert "... and 15 more" in report
    assert report.count("\n") < 25


@pytest.fixture(scope="module")
def mask_rcnn() -> nn.Module:
    return maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=2)


def test_an_imagenet_trunk_goes_where_the_detector_has_it(mask_rcnn: nn.Module) -> None:
    trunk = mask_rcnn.backbone.body.state_dict()
    alignment = align(mask_rcnn, trunk)
    assert "'backbone.body.'" in alignment.report()
    assert len(alignment.matched) == len(trunk)


def test_equal_classes_and_unknown_ones_need_no_table() -> None:
    assert compare_classes(["a", "b"], ["a", "b"]) == ""
    assert compare_classes([], ["a"]) == compare_classes(["a"], []) == ""


def test_the_table_of_classes_marks_each_label_that_means_something_else() -> None:
    assert compare_classes(["cat", "dog"], ["cat", "cow", "dog"]).splitlines() == [
        "The model's 2 classes are not the file's 3:",
        "  label  model  file",
        "      1  cat    cat",
        "      2  dog    cow  <--",
        "      3  -      dog  <--",
    ]


class Body(nn.Module):
    """The names of a backbone's body of two stages, and of a head."""

    def __init__(self, blocks: int, width: int = 2) -> None:
        super().__init__()
        stage = [nn.ModuleDict({"conv1": nn.Conv2d(width, width, 1)}) for _ in range(blocks)]
        body = nn.ModuleDict({"conv1": nn.Conv2d(3, width, 1), "layer1": nn.ModuleList(stage)})
        self.backbone = nn.ModuleDict({"body": body})
        self.head = nn.Linear(width, 2)


@pytest.mark.parametrize(
    ("of_file", "misfit"),
    [
        (Body(1), r"fill 4 of its body's 6 tensors, .* \(backbone\.body\.layer1\.1\.conv1\.weight"),
        (Body(3), r"fill 6 of .* and have 2 convolutions that it has not"),
        (Body(2, width=3), r"another backbone|none of the"),
    ],
)
def test_a_body_is_filled_wholly_or_refused(of_file: Body, misfit: str) -> None:
    model = Body(2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weights = {k: v for k, v in of_file.state_dict().items() if k.startswith("backbone")}
    weights["backbone.body.conv1.bias"] = torch.zeros(2)
    with pytest.raises(ValueError, match=misfit):
        load_weights(model, weights, source="other.pth", strict=False)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_body_that_is_filled_wholly_may_begin_other_heads() -> None:
    weights = {k: v for k, v in Body(2).state_dict().items() if k.startswith("backbone")}
    assert load_weights(Body(2), weights, source="body.pth", strict=False).missing
