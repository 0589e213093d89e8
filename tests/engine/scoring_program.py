"""Run on every rank: scores predictions that a model looks up by image, and what is amiss with ids.

usage: scoring_program.py FOLDER ANNOTATIONS BATCH_SIZE [mistakes]
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from detengine.data.coco import load_coco
from detengine.distributed import comm
from detengine.distributed.launch import start_distributed, stop_distributed
from detengine.engine.inference import inference
from detengine.evaluation.predictions_file import load_predictions
from detengine.structures.batch import Batch

BOTH = ("bbox", "segm")


class Stored(nn.Module):
    """The truth, moved a little, with false alarms; the image of every third id finds nothing."""

    def __init__(self, truth: Any) -> None:
        super().__init__()
        self.outputs = {}
        labels = truth.categories.labels_of_ids(truth.categories.names)
        for index, image_id in enumerate(truth.image_ids.tolist()):
            rows = truth.annotations_of(index)
            rows = slice(0, 0) if image_id % 3 == 0 else rows
            generator = torch.Generator().manual_seed(image_id)
            boxes = truth.boxes_xywh[rows].float()
            boxes = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1)
            boxes = boxes + 4 * torch.rand(boxes.shape, generator=generator)
            boxes = torch.cat([boxes, boxes.flip(1).sort(dim=1).values])
            numbers = [labels[each] for each in truth.category_ids[rows].tolist()] * 2
            self.outputs[image_id] = {
                "boxes": boxes,
                "scores": torch.rand(len(boxes), generator=generator),
                "labels": torch.tensor(numbers, dtype=torch.int64),
                "mask_probs": torch.rand(len(boxes), 28, 28, generator=generator) / 2 + 0.4,
            }

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        return [self.outputs[int(image.sum())] for image in images]


class Loader:
    def __init__(self, truth: Any, image_ids: list[int], batch_size: int) -> None:
        self.dataset, self.image_ids, self.batch_size = self, image_ids, batch_size
        self.truth, self.class_names = truth, truth.categories.names

    def ground_truth(self) -> Any:
        return self.truth

    def __len__(self) -> int:
        return -(-len(self.image_ids) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        sizes = dict(zip(self.truth.image_ids.tolist(), self.truth.image_sizes, strict=True))
        for start in range(0, len(self.image_ids), self.batch_size):
            ids = self.image_ids[start : start + self.batch_size]
            targets = [
                dict.fromkeys(("image_size", "original_size"), sizes.get(n, sizes[100]))
                for n in ids
            ]
            known = [n if n in sizes else 100 for n in ids]
            yield Batch([torch.tensor(n) for n in known], targets, ids)


def outcome(loader: Loader, **options: Any) -> Any:
    try:
        result = inference(Stored(loader.truth), loader, "stored", BOTH, device="cpu", **options)
        return asdict(result)
    except ValueError as error:
        return str(error)


folder, annotations, batch_size = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
start_distributed("cpu")
rank, world_size = comm.get_rank(), comm.get_world_size()
truth = load_coco(annotations, annotations.parent / "images", "stored")
own = truth.image_ids.tolist()[rank::world_size]
if "mistakes" in sys.argv:
    own = {0: [*own[1:], 4321], 1: [*own, own[0], 102]}.get(rank, own)  # 100 is missing
loader = Loader(truth, own, batch_size)
seen = {"images": len(own), "plain": outcome(loader, output_folder=folder)}
if "mistakes" in sys.argv:
    seen["warned"] = outcome(loader, output_folder=folder / "warned", on_wrong_images="warn")
    comm.synchronize()
    stored = [image_id for image_id, _ in load_predictions(folder / "warned")]
    seen["stored"] = sorted(stored)
(folder / f"rank{rank}.json").write_text(json.dumps(seen))
stop_distributed()
