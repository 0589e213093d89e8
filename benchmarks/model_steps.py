"""What the comparisons of models share: ours, torchvision's with the same weights, images, steps.

torchvision's training step is that of its references (references/detection/engine.py of torchvision
0.29), written anew from what it does: the losses are summed, and read once for their finiteness.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from detengine.config.load import load_config
from detengine.config.schema import Config
from detengine.engine.trainer import train_step
from detengine.modeling.build import build_detection_model
from detengine.solver.build import make_lr_scheduler, make_optimizer
from detengine.solver.precision import Precision
from detengine.structures.batch import Batch
from detengine.structures.masks import RunLengthMasks

CLASSES = 91
LR, MOMENTUM, WEIGHT_DECAY = 1e-4, 0.9, 1e-4
Inputs = tuple[list[Tensor], list[dict[str, Any]]]


def theirs(*, masks: bool, side: int, longest: int, detections: int = 100) -> nn.Module:
    """torchvision's Faster or Mask R-CNN R-50-FPN, frozen as for training from ImageNet weights.

    Its own constructors take plain batch norm where no weights are given; here it is the frozen
    one, as with weights. Random weights, tame enough for finite losses.
    """
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=3
    )
    kind = MaskRCNN if masks else FasterRCNN
    model: nn.Module = kind(
        backbone, CLASSES, min_size=side, max_size=longest, box_detections_per_img=detections
    )
    # Of its one size it draws one; without that, the samples are drawn as in our model.
    model.transform.torch_choice = lambda sizes: sizes[0]  # type: ignore[union-attr]
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("bn3.weight"):
                buffer.mul_(0.3)
        model.get_submodule("rpn.head.cls_logits").weight.mul_(20)
    return model


def ours(like: Any, device: torch.device, **options: Any) -> tuple[nn.Module, Config]:
    """Our model with the weights of torchvision's, on the device. options: keys, dots as `__`."""
    pairs = {
        "CONVENTIONS": "modern",
        "MODEL.DEVICE": device.type,
        "MODEL.MASK_ON": str(isinstance(like, MaskRCNN)),
        "MODEL.ROI_BOX_HEAD.NUM_CLASSES": str(CLASSES),
        "MODEL.ROI_HEADS.DETECTIONS_PER_IMG": str(like.roi_heads.detections_per_img),
        "SOLVER.BASE_LR": str(LR),
        "SOLVER.MOMENTUM": str(MOMENTUM),
        "SOLVER.WEIGHT_DECAY": str(WEIGHT_DECAY),
        "SOLVER.WEIGHT_DECAY_BIAS": str(WEIGHT_DECAY),
        "SOLVER.WARMUP_ITERS": "0",
    }
    pairs |= {name.replace("__", "."): str(value) for name, value in options.items()}
    cfg = load_config(None, [part for pair in pairs.items() for part in pair])
    model = build_detection_model(cfg)
    model.load_state_dict(like.state_dict())
    return model.to(device), cfg


def make_inputs(
    count: int, size: tuple[int, int], device: torch.device, *, objects: int = 7
) -> tuple[Inputs, Inputs]:
    """Ours and torchvision's of the same `count` random pictures of ellipses, on the device.

    size: (height, width). objects: of each, on average; COCO's images have 7. Ours are uint8 with
    run lengths as masks, torchvision's floats in [0, 1] with dense masks.
    """
    generator = torch.Generator().manual_seed(0)
    images, targets = [], []
    for index in range(count):
        number = max(1, objects + (index % 5) - 2)
        images.append(torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator))
        targets.append(_ellipses(size, number, generator))
    dense = [target | {"masks": target["masks"].dense()} for target in targets]
    batch = Batch(images, targets, list(range(count))).to(device)
    floats = [image.float().div(255).to(device) for image in images]
    moved = [{key: value.to(device) for key, value in target.items()} for target in dense]
    return (batch.images, batch.targets), (floats, moved)  # type: ignore[return-value]


def _ellipses(size: tuple[int, int], count: int, generator: torch.Generator) -> dict[str, Any]:
    whole = torch.tensor([size[1], size[0]])
    extent = whole * (0.04 + 0.4 * torch.rand(count, 2, generator=generator) ** 2) + 8
    corner = torch.rand(count, 2, generator=generator) * (whole - extent)
    boxes = torch.cat([corner, corner + extent], dim=1)
    x, y = torch.arange(size[1]) + 0.5, torch.arange(size[0]) + 0.5
    across = (x - boxes[:, 0::2].mean(1, keepdim=True)) / (extent[:, :1] / 2)
    down = (y - boxes[:, 1::2].mean(1, keepdim=True)) / (extent[:, 1:] / 2)
    dense = down[:, :, None] ** 2 + across[:, None, :] ** 2 <= 1
    return {
        "boxes": boxes,
        "labels": torch.randint(1, CLASSES, (count,), generator=generator),
        "masks": RunLengthMasks.from_dense(dense),
    }


def our_step(
    model: nn.Module, cfg: Config, inputs: Inputs, device: torch.device, dtype: str = "float32"
) -> Callable[[], dict[str, Tensor]]:
    """The engine's own step on this batch, over and over; gives the losses, on the device."""
    model.train()
    optimizer = make_optimizer(cfg, model)
    scheduler, precision = make_lr_scheduler(cfg, optimizer), Precision(dtype)
    images, targets = inputs
    batch = Batch(images, targets, list(range(len(images))))  # type: ignore[arg-type]

    def step() -> dict[str, Tensor]:
        return train_step(model, [batch], optimizer, scheduler, device, precision).losses

    return step


def their_step(
    model: nn.Module, inputs: Inputs, device: torch.device, dtype: str = "float32"
) -> Callable[[], dict[str, Tensor]]:
    """torchvision's, float16 with its GradScaler."""
    model.train().to(device)
    parameters = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == "float16")
    images, targets = inputs

    def step() -> dict[str, Tensor]:
        with autocast(device, dtype):
            losses = model(images, targets)
            loss = sum(losses.values())
        if not math.isfinite(loss.item()):
            raise RuntimeError(f"torchvision's loss is {loss.item()}; take a smaller LR")
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return {"loss": loss.detach(), **{name: each.detach() for name, each in losses.items()}}

    return step


def autocast(device: torch.device, dtype: str) -> Any:
    name = dtype if dtype != "float32" else "bfloat16"
    return torch.autocast(device.type, getattr(torch, name), enabled=dtype != "float32")


def inference_of(
    model: nn.Module,
    images: Sequence[Tensor],
    device: torch.device,
    dtype: str = "float32",
    *,
    mode: Callable[[], Any] = torch.inference_mode,
) -> Callable[[], list[dict[str, Tensor]]]:
    """The detections of this batch, over and over. mode: torch.inference_mode or torch.no_grad."""
    model.eval().to(device)

    def infer() -> list[dict[str, Tensor]]:
        with mode(), autocast(device, dtype):
            return model(list(images))

    return infer
