"""RoIAlign's gradients of our own, against torchvision's."""

import importlib
import sys
import threading

import pytest
import torch
from torch import Tensor

from detengine.modeling.roi_align import Sampling, roi_align
from modeling.triton_marks import needs_triton, needs_triton_compiler

KERNEL = "detengine.modeling.roi_align_triton"


def random_rois(count: int, images: int, extent: float, dtype: torch.dtype = torch.float32):
    """Some reach over the edge, and the first has no area."""
    corner = torch.rand(count, 2) * extent - 8
    sides = torch.rand(count, 2) * extent
    sides[:1] = 0
    image = torch.randint(0, images, (count, 1)).float()
    return torch.cat([image, corner, corner + sides], dim=1).to(dtype)


def of_torchvision(features: Tensor, rois: Tensor, sampling: Sampling) -> Tensor:
    side, scale, ratio, aligned = sampling
    return torch.ops.torchvision.roi_align(features, rois, scale, side, side, ratio, aligned)


@pytest.fixture(params=[1, 2, 3])
def threads(request, monkeypatch):
    """So many for each gradient, however small it is."""
    monkeypatch.setattr("detengine.modeling.roi_align._WORTH_THREADS", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize(("channels", "count"), [(1, 5), (7, 20), (7, 0), (64, 9)])
def test_on_a_cpu_pooled_and_gradient_are_torchvisions_to_the_bit(
    threads, channels, count, ratio, aligned
):
    torch.manual_seed(0)
    features = torch.randn(2, channels, 17, 23, requires_grad=True)
    rois, sampling = random_rois(count, 2, 90), Sampling(7, 0.25, ratio, aligned)
    ours, theirs = roi_align(features, rois, sampling), of_torchvision(features, rois, sampling)
    assert torch.equal(ours, theirs)
    weights = torch.randn_like(ours)
    (gradient,) = torch.autograd.grad(ours, features, weights)
    assert torch.equal(gradient, *torch.autograd.grad(theirs, features, weights))


def test_no_thread_stays_after_a_backward_which_a_forked_process_would_lack(threads):
    features = torch.randn(1, 8, 9, 9, requires_grad=True)
    roi_align(features, random_rois(3, 1, 30), Sampling(2, 0.25, 2, False)).sum().backward()
    assert not [each for each in threading.enumerate() if each.name.startswith("roi_align")]


def test_without_a_gradient_nothing_is_kept_for_one():
    features, rois = torch.randn(1, 2, 9, 9, requires_grad=True), random_rois(3, 1, 30)
    with torch.no_grad():
        assert not roi_align(features, rois, Sampling(2, 0.25, 2, False)).requires_grad
    pooled = roi_align(features.detach(), rois, Sampling(2, 0.25, 2, False))
    assert not pooled.requires_grad


@pytest.fixture
def interpreted(monkeypatch):
    """The module of the gathering kernel, its kernels run by triton's interpreter on the CPU."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.delitem(sys.modules, KERNEL, raising=False)
    yield importlib.import_module(KERNEL)
    del sys.modules[KERNEL]


@needs_triton
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gathered_gradient_is_torchvisions_to_rounding(interpreted, dtype, ratio, aligned):
    torch.manual_seed(0)
    features = torch.randn(2, 5, 13, 19, dtype=dtype, requires_grad=True)
    rois, sampling = random_rois(7, 2, 90, dtype), Sampling(4, 0.25, ratio, aligned)
    pooled = of_torchvision(features, rois, sampling)
    weights = torch.randn_like(pooled)
    gathered = interpreted.gather_gradient(weights, rois, features.shape, sampling)
    (expected,) = torch.autograd.grad(pooled, features, weights)
    torch.testing.assert_close(gathered, expected, rtol=1e-5, atol=2e-6)


@needs_triton
def test_the_gathered_gradient_does_not_depend_on_the_other_images_of_a_batch(interpreted):
    torch.manual_seed(0)
    rois, sampling = random_rois(6, 2, 60), Sampling(3, 0.25, 2, False)
    weights = torch.randn(6, 3, 3, 3)
    both = interpreted.gather_gradient(weights, rois, (2, 3, 9, 10), sampling)
    is_first = rois[:, 0] == 0
    alone = interpreted.gather_gradient(weights[is_first], rois[is_first], (1, 3, 9, 10), sampling)
    assert torch.equal(both[:1], alone)
    none = interpreted.gather_gradient(weights[:0], rois[:0], (2, 3, 9, 10), sampling)
    assert torch.equal(none, torch.zeros(2, 3, 9, 10))


@needs_triton_compiler
@pytest.mark.parametrize("ratio", [0, 2])
def test_the_gathering_kernel_compiles_for_hopper_without_a_device(ratio):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    constants = {"BINS": 7, "RATIO": ratio, "ALIGNED": False, "TILE": 8, "BLOCK": 128}
    # in the kernel's order, and without its constants: so triton 3.2 takes it, too
    signature = {"gradient": "*fp32", "rois": "*fp32", "order": "*i64", "starts": "*i64"}
    signature |= {"found": "*fp32"}
    signature |= dict.fromkeys(("height", "width", "channels", "tiles_across"), "i32")
    signature |= {"scale": "fp32"}
    kernel = importlib.import_module(KERNEL)._gather
    source = ASTSource(kernel, signature, constants)
    compiled = triton.compile(source, GPUTarget("cuda", 90, 32), {"enable_fp_fusion": True})
    assert "red.global" not in compiled.asm["ptx"]
    assert "atom.global" not in compiled.asm["ptx"]
