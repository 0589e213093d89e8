"""A run at Weights & Biases, offline, begun and resumed; then one that fails."""

import sys
from contextlib import closing, suppress
from pathlib import Path

from PIL import Image

from detengine.monitor.wandb_sink import open_sink

folder = Path(sys.argv[1])
picture = folder / "1.png"
Image.new("RGB", (30, 20), "red").save(picture)

with closing(open_sink(folder, 0, {"SOLVER": {"MAX_ITER": 60}})) as sink:
    sink.write(20, {"train/loss": 0.5, "train/loss_mask": float("nan")})
    sink.write(40, {"train/loss": 0.25})
    sink.write(40, {"val/nuclei_val/bbox/AP": 0.125})
    sink.write_pictures(40, {"nuclei_val/1": picture})
    sink.write(60, {"train/loss": 0.75})

with suppress(KeyError), closing(open_sink(folder, 40, {"SOLVER": {"MAX_ITER": 80}})) as sink:
    sink.write(60, {"train/loss": 0.75})
    raise KeyError
