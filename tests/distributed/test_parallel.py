"""Several ranks that train one model: the numbers of a single one, and torch's options."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from detengine.checkpoint.files import load_file
from detengine.distributed.batch_norm import CPUSyncBatchNorm, share_buffers, synchronize_batch_norm
from detengine.distributed.parallel import distribute

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()),
    reason="this torch has no gloo to join processes with",
)

CPU = torch.device("cpu")
FLOAT = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture(scope="module")
def printed(run_ranks: Callable[..., list[str]], folder: Path) -> list[str]:
    """What the ranks of all groups printed."""
    program = Path(__file__).with_name("parallel_program.py")
    return [line for world in (1, 2, 3) for line in run_ranks(world, program, folder, seconds=30)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parallel")


@pytest.fixture(scope="module")
def of_world(printed: list[str], folder: Path) -> dict[int, dict[str, Any]]:
    """By the number of ranks, what parallel_program.py found."""
    return {world: torch.load(folder / f"{world}.pth") for world in (1, 2, 3)}


def equal(one: Any, other: Any) -> bool:
    try:
        torch.testing.assert_close(one, other, **FLOAT)
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize(
    ("world", "case", "images"),
    [
        (2, "images=2", 2),
        (3, "images=3", 3),
        (1, "images=2 accumulate=2", 2),
        (1, "images=4 accumulate=2", 4),
        (2, "images=4 accumulate=2", 4),
    ],
)
def test_ranks_and_micro_batches_give_the_losses_and_weights_of_one_batch(
    of_world: dict[int, dict[str, Any]], world: int, case: str, images: int
) -> None:
    torch.testing.assert_close(of_world[world][case], of_world[1][f"images={images}"], **FLOAT)


def test_synchronized_batch_norm_makes_two_ranks_one(of_world: dict[int, dict[str, Any]]) -> None:
    """Losses, weights and running statistics; the names in the state are batch norm's."""
    torch.testing.assert_close(of_world[2]["synced"], of_world[1]["apart"], **FLOAT)
    torch.testing.assert_close(of_world[1]["synced"], of_world[1]["apart"], rtol=0, atol=0)


def test_batch_norm_that_is_not_synchronized_is_another_model(
    of_world: dict[int, dict[str, Any]],
) -> None:
    assert not equal(of_world[2]["apart"]["losses"], of_world[1]["apart"]["losses"])
    assert not equal(of_world[2]["apart"]["state"], of_world[1]["apart"]["state"])


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_with_other_numbers_of_images_or_none_normalize_like_torch_on_all_of_them(
    of_world: dict[int, dict[str, Any]], world: int
) -> None:
    """Outputs, gradients and running statistics, of values far from zero."""
    found = of_world[world]["normalized"]
    torch.testing.assert_close(found["ours"], found["torch"], rtol=1e-3, atol=1e-3)


def test_running_statistics_drift_apart_until_rank_0_gives_its_own_to_all(
    of_world: dict[int, dict[str, Any]],
) -> None:
    found = of_world[2]["statistics"]
    assert found["before"] == pytest.approx([0.15, 0.3])
    assert found["after"] == [found["before"][0]] * 2


def test_a_foreign_model_may_leave_a_parameter_unused_on_one_rank(
    of_world: dict[int, dict[str, Any]],
) -> None:
    found = of_world[2]["dynamic"]
    assert found["gradients"] == [[2, 2], [2, 2], [2, 1], [2, 2]]


def test_a_foreign_models_state_is_rank_0s_at_each_step(
    of_world: dict[int, dict[str, Any]],
) -> None:
    """Four steps count 1 each on rank 0; rank 1 begins the last at rank 0's 3, and counts 2."""
    assert of_world[2]["dynamic"]["counted"] == [4, 5]


def test_torch_says_nothing_of_parameters_that_might_have_been_unused(printed: list[str]) -> None:
    assert not any("find_unused_parameters" in each for each in printed)


def test_in_a_static_graph_other_losses_are_an_error_that_names_both(
    of_world: dict[int, dict[str, Any]],
) -> None:
    assert of_world[2]["promised"]["gradients"] == [[2, 2]] * 4
    found = of_world[2]["static"]
    assert len(found["gradients"]) == 2
    assert found["said"].startswith(
        "DISTRIBUTED.STATIC_GRAPH is True, but in step 3 of this start the model returned the "
        "losses loss_one on rank 0, and in the first one loss_one, loss_other. Set STATIC_GRAPH "
    )


def test_a_static_graph_of_several_micro_batches_is_refused_at_the_start(
    of_world: dict[int, dict[str, Any]],
) -> None:
    assert of_world[2]["accumulated"].startswith(
        "DISTRIBUTED.STATIC_GRAPH is True and SOLVER.ACCUMULATE is 2: "
    )


def test_a_single_process_trains_the_model_itself() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3))
    how = {"static_graph": True, "sync_batchnorm": True, "accumulate": 2}
    assert distribute(model, CPU, foreign=True, **how) is model
    assert type(model[0]) is nn.BatchNorm2d
    share_buffers(model)


def test_a_synchronized_norm_holds_the_tensors_of_the_one_it_replaces() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3, eps=0.1, momentum=0.2), FrozenBatchNorm2d(3)).eval()
    before = model.state_dict(keep_vars=True)
    synchronize_batch_norm(model, CPU)
    after = model.state_dict(keep_vars=True)
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)
    norm, frozen = model
    assert (type(norm), type(frozen)) == (CPUSyncBatchNorm, FrozenBatchNorm2d)
    assert (norm.eps, norm.momentum, norm.training) == (0.1, 0.2, False)


def test_a_layer_that_is_batch_norm_and_more_is_refused_by_its_name() -> None:
    class NormAndRelu(nn.BatchNorm2d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input).relu()

    model = nn.Sequential(nn.Sequential(NormAndRelu(3)))
    with pytest.raises(ValueError, match=r"True, but the layer 0\.0 is a .*NormAndRelu, which"):
        synchronize_batch_norm(model, CPU)


@pytest.fixture
def train_on(
    run_ranks: Callable[..., list[str]], tiny_config: Path, tmp_path: Path
) -> Callable[..., dict[str, Any]]:
    """(ranks, settings by dotted key) -> the last checkpoint of a `detengine train`."""

    def run(ranks: int, settings: dict[str, Any]) -> dict[str, Any]:
        folder = tmp_path / f"run{ranks}"
        pairs = [str(word) for pair in settings.items() for word in pair]
        command = ["train", "-c", tiny_config, "--output-dir", folder, "--skip-test", *pairs]
        run_ranks(ranks, None, *command, seconds=30)
        return load_file(folder / "model_final.pth")

    return run


def test_two_ranks_train_a_real_models_proposals_as_one_does(
    train_on: Callable[..., dict[str, Any]],
) -> None:
    """All anchors are sampled, and all images padded to one size: nothing is drawn, and the losses
    are means over images, of which one has no object."""
    settings = {
        "MODEL.RPN_ONLY": True,
        "MODEL.MASK_ON": False,
        "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 100_000,
        "MODEL.RPN.POSITIVE_FRACTION": 1.0,
        "MODEL.RPN.FG_IOU_THRESHOLD": 0.5,
        "MODEL.RPN.BG_IOU_THRESHOLD": 0.5,
        "DATALOADER.SIZE_DIVISIBILITY": 128,
        "SOLVER.OPTIMIZER": "sgd",
        "SOLVER.MAX_ITER": 5,
    }
    one, two = train_on(1, settings), train_on(2, settings)
    torch.testing.assert_close(two["model"], one["model"], rtol=1e-4, atol=1e-5)
    names = ["loss", "loss_objectness", "loss_rpn_box_reg"]
    losses = [{name: run["meters"][name] for name in names} for run in (one, two)]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"MODEL.ROI_HEADS.POSITIVE_FRACTION": 0.1},  # Mask R-CNN; hardly ever a mask to learn from
        {
            "MODEL.RETINANET_ON": True,
            "MODEL.MASK_ON": False,
            "MODEL.BACKBONE.CONV_BODY": "R-50-FPN-RETINANET",
            "MODEL.RETINANET.NUM_CLASSES": 4,
            "MODEL.RETINANET.NUM_CONVS": 1,
        },
    ],
)
def test_our_models_use_every_parameter_also_for_a_rank_whose_image_has_no_object(
    settings: dict[str, Any], train_on: Callable[..., dict[str, Any]]
) -> None:
    """DistributedDataParallel, which looks for none, would refuse the step after such a one."""
    assert train_on(2, settings | {"SOLVER.MAX_ITER": 6})["iteration"] == 6
