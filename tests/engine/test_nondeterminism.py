"""Operators without a deterministic form are named before the first step, without a trace."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import deform_conv2d

from detengine.config.load import load_config, replace
from detengine.data.build import build_datasets, make_training_loader
from detengine.engine.nondeterminism import find_nondeterministic
from detengine.engine.nondeterministic_operators import ON_CUDA
from detengine.engine.trainer import accumulate_gradients
from detengine.parts import assemble
from detengine.run import evaluate, train
from detengine.structures.batch import Batch
from families import FAMILIES, SMALL, add_keypoints
from restless_operators import Enlarge, Middle, Put, RestlessDetector, Warp

pytestmark = pytest.mark.faults

BATCH = Batch(
    list(torch.randint(0, 256, (2, 3, 24, 32), generator=torch.Generator().manual_seed(0)).byte()),
    [{}, {}],
    [1, 2],
)
NECKS: dict[str, tuple[nn.Module, set[tuple[str, str, str]]]] = {
    "grid_sample": (
        Warp(),
        {("aten::grid_sampler_2d_backward", "neck.0", "aten::grid_sampler_2d")},
    ),
    "bicubic": (
        Enlarge("bicubic"),
        {("aten::upsample_bicubic2d_backward", "neck.0", "aten::upsample_bicubic2d")},
    ),
    "adaptive pooling": (
        nn.AdaptiveAvgPool2d(3),
        {("aten::_adaptive_avg_pool2d_backward", "neck.0", "aten::_adaptive_avg_pool2d")},
    ),
    "reflected borders": (
        nn.ReflectionPad2d(1),
        {("aten::reflection_pad2d_backward", "neck.0", "aten::reflection_pad2d")},
    ),
    "a median, in evaluation": (Middle(), {("aten::median.dim", "neck.0", "")}),
    "put_": (Put(), {("aten::put_", "neck.0", "")}),
    "nearest": (Enlarge("nearest"), set()),
    "bilinear, which torch replaces": (Enlarge("bilinear"), set()),
}


@pytest.mark.parametrize("name", NECKS)
def test_what_would_not_be_deterministic_on_cuda_is_named_with_its_module(name: str) -> None:
    neck, expected = NECKS[name]
    found = find_nondeterministic(RestlessDetector(neck), BATCH, on_cuda=True)
    assert {tuple(each) for each in found.nondeterministic} == expected


def test_of_several_each_is_named_where_it_is() -> None:
    model = RestlessDetector(Warp(), nn.Sequential(Enlarge("bicubic"), Warp()), Put())
    on_cuda = find_nondeterministic(model, BATCH, on_cuda=True).nondeterministic
    assert sorted((each.name, each.module) for each in on_cuda) == [
        ("aten::grid_sampler_2d_backward", "neck.0"),
        ("aten::grid_sampler_2d_backward", "neck.1.1"),
        ("aten::put_", "neck.2"),
        ("aten::upsample_bicubic2d_backward", "neck.1.0"),
    ]
    on_the_cpu = find_nondeterministic(model, BATCH, on_cuda=False).nondeterministic
    assert [each.name for each in on_the_cpu] == ["aten::put_"]


def test_a_part_without_gradients_is_not_accused() -> None:
    model = RestlessDetector(Warp()).requires_grad_(False)
    model.head = nn.Conv2d(4, 1, 1)
    model.neck.append(model.head)
    assert not find_nondeterministic(model, BATCH, on_cuda=True).nondeterministic


def test_the_trial_leaves_no_trace_in_model_gradients_or_generators() -> None:
    model = RestlessDetector(Warp(), Put())
    model.neck.eval()
    weight = model.stem[0].weight
    weight.grad = torch.ones_like(weight)
    before = copy.deepcopy(model.state_dict())
    modes = [each.training for each in model.modules()]
    generator = torch.get_rng_state()
    find_nondeterministic(model, BATCH, on_cuda=True)
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.equal(torch.get_rng_state(), generator)
    assert [each.training for each in model.modules()] == modes
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert [each for each in model.parameters() if each.grad is not None] == [weight]
    assert weight.grad.eq(1).all()
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in model.modules())


def test_operators_of_packages_that_torch_does_not_know_are_listed_apart() -> None:
    @torch.library.custom_op("somebody::doubled", mutates_args=())
    def doubled(values: torch.Tensor) -> torch.Tensor:
        return values * 2

    class Doubled(nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return features + doubled(features.detach())

    found = find_nondeterministic(RestlessDetector(Doubled()), BATCH, on_cuda=True)
    assert [(each.name, each.module) for each in found.unknown] == [("somebody::doubled", "neck.0")]
    assert not found.nondeterministic


def test_every_operator_of_the_table_is_one_of_torchs_or_torchvisions() -> None:
    import torchvision  # noqa: F401 (which registers its own)

    known = {schema.name + f".{schema.overload_name}".rstrip(".") for schema in _schemas()}
    assert set(ON_CUDA) <= known


def _schemas() -> Any:
    return torch._C._jit_get_all_schemas()


class RepeatedIndices(TorchDispatchMode):
    """Collects what is added at indices of which one is there twice: `seen`, by its sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "index_put" in func.name() and (*args, *(kwargs or {}).values())[3:4] == (True,):
            indices = [each for each in args[1] if each is not None]
            if indices[0].dtype != torch.bool:
                places = torch.stack(torch.broadcast_tensors(*indices)).flatten(1)
                if len(places.unique(dim=1)[0]) < places.shape[1]:
                    self.seen.append([each.shape for each in (args[0], args[2])])
        return func(*args, **(kwargs or {}))


def test_a_repeated_index_is_seen() -> None:
    features = torch.ones(4, requires_grad=True)
    with RepeatedIndices() as repeated:
        (features[torch.tensor([0, 1])] * 2).sum().backward()
        assert repeated.seen == []
        (features[torch.tensor([1, 1])] * 2).sum().backward()
    assert len(repeated.seen) == 1


BUILT_HERE = ("Mask R-CNN", "Keypoint R-CNN", "proposals", "RetinaNet", "static shapes")


@pytest.mark.parametrize("family", [each for each in FAMILIES if each.startswith(BUILT_HERE)])
def test_no_detector_built_here_needs_the_switch_on_a_cpu_or_would_be_refused_on_cuda(
    write_tiny_run: Callable[[Path], Path], tmp_path: Path, family: str
) -> None:
    """A CPU adds in another order each time only where an index is there more than once."""
    config = write_tiny_run(tmp_path)
    for name in ("train", "val"):
        add_keypoints(tmp_path / f"{name}.json")
    cfg = replace(load_config(config), SMALL | FAMILIES[family])
    cpu, datasets = torch.device("cpu"), build_datasets(cfg, cfg.DATASETS.TRAIN)
    parts = assemble(cfg, tmp_path, cpu, datasets, [])
    loader = make_training_loader(cfg, datasets, 0, rank=0, world_size=1)
    batch = next(iter(loader))
    with RepeatedIndices() as repeated:
        accumulate_gradients(parts.model, [batch], cpu, parts.precision)
    assert repeated.seen == []
    found = find_nondeterministic(parts.model, batch, parts.precision, on_cuda=True)
    assert not found.nondeterministic
    assert not found.unknown


def test_deformable_convolutions_are_refused_on_cuda() -> None:
    class Deformed(nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            offsets = features.mean(1, keepdim=True).expand(-1, 18, -1, -1)
            return deform_conv2d(features, offsets, torch.ones(4, 4, 3, 3), padding=1)

    found = find_nondeterministic(RestlessDetector(Deformed()), BATCH, on_cuda=True)
    assert [each.name for each in found.nondeterministic] == [
        "torchvision::_deform_conv2d_backward"
    ]


@pytest.fixture
def make_config(tiny_config: Path, tmp_path: Path) -> Callable[..., Any]:
    def make(builder: str, **changes: Any) -> Any:
        own = {
            "OUTPUT_DIR": str(tmp_path / "run"),
            "MODEL.BUILDER": f"restless_operators:{builder}",
            "MODEL.MASK_ON": False,
            "SOLVER.MAX_ITER": 2,
            "TEST.PICTURES": 0,
            "DETERMINISTIC": True,
        }
        return replace(load_config(tiny_config), own | changes)

    return make


def test_a_run_that_is_to_be_deterministic_is_refused_before_its_first_step(
    make_config: Callable[..., Any], record_fault: Callable[..., None]
) -> None:
    cfg = make_config("putting")
    with pytest.raises(
        ValueError,
        match=r"DETERMINISTIC is on, .* on cpu .*\n +aten::put_ in neck\.0 \(instead: "
        r"index_put_\), \d times\nReplace them in the model, or set DETERMINISTIC False\.",
    ):
        train(cfg)
    folder = Path(cfg.OUTPUT_DIR)
    assert "iter: " not in (folder / "log.txt").read_text()
    assert not list(folder.glob("*.pth"))
    allowed = make_config("putting", DETERMINISTIC=False, OUTPUT_DIR=f"{folder}_allowed")
    assert train(allowed).finished
    names = sorted({name for _, expected in NECKS.values() for name, _, _ in expected})
    record_fault(
        "Determinism",
        "an operator without a deterministic form",
        made="DETERMINISTIC, and a BUILDER's model with such operators (on a CPU as they would be "
        "on CUDA, and put_, which has none on a CPU either)",
        promised="named before the first step, with its module; the trial leaves no trace",
        tried=f"{len(names)} operators, {len(NECKS)} models",
        happened=f"{', '.join(name.partition('::')[2] for name in names)}: each named, nothing "
        "else; the run was refused before its first step",
    )


def test_the_trial_changes_no_bit_of_a_run(make_config: Callable[..., Any]) -> None:
    folder = Path(make_config("quiet").OUTPUT_DIR)
    states = []
    for switch in (True, False):
        cfg = make_config("quiet", DETERMINISTIC=switch, OUTPUT_DIR=f"{folder}_{switch}")
        states.append(train(cfg).model.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_a_model_that_is_not_scored_is_not_evaluated(make_config: Callable[..., Any]) -> None:
    cfg = make_config("never_evaluated")
    with pytest.raises(ValueError, match="never evaluated"):
        train(cfg)
    assert train(replace(cfg, {"OUTPUT_DIR": f"{cfg.OUTPUT_DIR}_so"}), skip_test=True).finished


def test_scoring_alone_is_deterministic_too(make_config: Callable[..., Any]) -> None:
    cfg = make_config("putting", DETERMINISTIC=False)
    train(cfg, skip_test=True)
    scoring = make_config("putting", OUTPUT_DIR=f"{cfg.OUTPUT_DIR}_scored")
    with pytest.raises(ValueError, match="put_ has no form on cpu"):
        evaluate(scoring, Path(cfg.OUTPUT_DIR) / "model_final.pth")
