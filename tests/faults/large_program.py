"""usage: python large_program.py CONFIG EPOCHS: reads the data, and the order of so many epochs.

Prints, as JSON, the data's size and how many MB each step has added to this process's memory.
"""

import json
import os
import sys
from itertools import pairwise

from detengine.config.load import load_config
from detengine.data.build import build_datasets, make_training_loader
from footprint import resident_kb

if __name__ == "__main__":
    cfg, epochs = load_config(sys.argv[1]), int(sys.argv[2])
    steps = [resident_kb(os.getpid())]
    datasets = build_datasets(cfg, cfg.DATASETS.TRAIN)
    steps.append(resident_kb(os.getpid()))
    loader = make_training_loader(cfg, datasets, 0, rank=0, world_size=1)
    sampler = loader.batch_sampler
    sampler.max_iter = sampler.order.batches_per_epoch * epochs
    images = sum(len(keys) for keys in sampler)
    steps.append(resident_kb(os.getpid()))
    data_mb, order_mb = ((after - before) / 1024 for before, after in pairwise(steps))
    truth = datasets[0].ground_truth()
    found = {"images": len(truth), "annotations": len(truth.annotation_ids), "read": images}
    print(json.dumps(found | {"data_mb": data_mb, "order_mb": order_mb}))
