"""RoIAlign's backward: ours and the deterministic one, beside torchvision's ordinary one.

    python benchmarks/roi_align.py
    python benchmarks/roi_align.py --device cpu
    python benchmarks/roi_align.py --smoke

The finest level of a pyramid at 800 x 1333 and the regions of a training step on it: 2 images (on
CUDA 16 too), 512 regions of each, 256 channels, 7 x 7 bins of 2 x 2 samples. On CUDA: torchvision's
backward, which adds with atomics, and the gathering kernel that DETERMINISTIC takes; the target is
1.3 times the ordinary one's time; and whether each gives the same bits twice. torchvision's own
deterministic form is plain torch over all samples at once, and is measured where its memory
suffices. On a CPU: torchvision's backward, on one thread, and ours, on all of them. The last line
is JSON.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from in_turn import in_turn, machine, print_json, print_table
from torch import Tensor
from torchvision.ops.roi_align import _roi_align

from detengine.modeling.roi_align import Sampling, backward_in_parts

SAMPLING = Sampling(output_size=7, spatial_scale=0.25, sampling_ratio=2, aligned=False)
Backward = Callable[[], Tensor]


def make_rois(images: int, of_image: int, size: tuple[int, int], device: torch.device) -> Tensor:
    """Of 8 to 112 pixels, those that the finest level is for; image by image."""
    generator = torch.Generator().manual_seed(0)
    count = images * of_image
    sides = 8 + 104 * torch.rand(count, 2, generator=generator)
    whole = torch.tensor([size[1], size[0]])
    corner = torch.rand(count, 2, generator=generator) * (whole - sides).clamp(min=0)
    image = torch.arange(images).repeat_interleave(of_image)[:, None].float()
    return torch.cat([image, corner, corner + sides], dim=1).to(device)


def make_backwards(
    images: int, of_image: int, channels: int, size: tuple[int, int], device: torch.device
) -> dict[str, Backward]:
    shape = (images, channels, size[0] // 4, size[1] // 4)
    rois = make_rois(images, of_image, size, device)
    side, scale, ratio, aligned = SAMPLING
    generator = torch.Generator(device).manual_seed(1)
    gradient = torch.randn(len(rois), channels, side, side, device=device, generator=generator)

    def ordinary() -> Tensor:
        found: Tensor = torch.ops.torchvision._roi_align_backward(
            gradient, rois, scale, side, side, *shape, ratio, aligned
        )
        return found

    def plain_torch() -> Tensor:
        features = torch.zeros(shape, device=device, requires_grad=True)
        pooled = _roi_align(features, rois, scale, side, side, ratio, aligned)
        return torch.autograd.grad(pooled, features, gradient)[0]

    if device.type == "cpu":
        return {
            "torchvision's": ordinary,
            "ours": lambda: backward_in_parts(gradient, rois, shape, SAMPLING),
        }
    from detengine.modeling.roi_align_triton import gather_gradient

    return {
        "torchvision's": ordinary,
        "ours, gathered": lambda: gather_gradient(gradient, rois, shape, SAMPLING),
        "torchvision's deterministic form, forward too": plain_torch,
    }


def waited_for(work: Backward, device: torch.device) -> Callable[[], Any]:
    """As often as makes a time that can be told from the launch's."""

    def repeated() -> None:
        for _ in range(1 if device.type == "cpu" else 10):
            work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return repeated


def fits(work: Backward) -> bool:
    try:
        work()
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return False
    return True


def compare(works: dict[str, Backward], device: torch.device, rounds: int) -> dict[str, Any]:
    exact, expected = {}, works["torchvision's"]()
    works = {name: work for name, work in works.items() if fits(work)}
    for name, work in works.items():
        first = work()
        torch.testing.assert_close(first, expected, rtol=1e-3, atol=1e-3)
        exact[name] = all(torch.equal(first, work()) for _ in range(3))
    timings = in_turn({name: waited_for(work, device) for name, work in works.items()}, rounds)
    repeats = 1 if device.type == "cpu" else 10
    ordinary = timings["torchvision's"].median
    print_table(
        ["backward", "ms", "x torchvision's time", "the same bits each time"],
        [
            [
                name,
                each.in_units(1e-3 * repeats),
                f"{each.median / ordinary:.2f}",
                "yes" if exact[name] else "no",
            ]
            for name, each in timings.items()
        ],
    )
    return {
        name: {
            "seconds": each.median / repeats,
            "ratio": each.median / ordinary,
            "exact": exact[name],
        }
        for name, each in timings.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), help="default: CUDA where there is one"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="tiny: shows that it runs")
    options = parser.parse_args()
    found = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(options.device or found)
    if device.type == "cpu":
        print("no CUDA device is used: the deterministic form is not measured")
    size, of_image, channels = ((96, 128), 9, 8) if options.smoke else ((800, 1344), 512, 256)
    batches = [2] if options.smoke or device.type == "cpu" else [2, 16]
    readings = {}
    for batch in batches:
        print(f"\n{batch} images\n")
        works = make_backwards(batch, of_image, channels, size, device)
        readings[f"batch_{batch}"] = compare(works, device, 1 if options.smoke else options.rounds)
    print_json("roi_align", machine("torchvision"), device=device.type, **readings)


if __name__ == "__main__":
    main()
