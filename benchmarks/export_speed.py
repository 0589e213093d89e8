"""An exported file in onnxruntime against the model in torch, on this machine's CPU.

    detengine export runs/nuclei nuclei.onnx
    python benchmarks/export_speed.py runs/nuclei nuclei.onnx picture.png
    python benchmarks/export_speed.py runs/nuclei nuclei.onnx picture.png --batch 4

Both see the same uint8 pictures, resized as in evaluation, and give detections with masks in their
boxes; the two take turns, on as many threads each as torch takes. The last line is JSON.
"""

import argparse
from pathlib import Path

import torch
from in_turn import in_turn, machine, print_json, print_table

from detengine.exporting import as_seen, open_session
from detengine.loading import load_model


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run_or_weights")
    parser.add_argument("file", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=1)
    arguments = parser.parse_args()
    loaded = load_model(arguments.run_or_weights, device="cpu")
    model, session = loaded.model.eval(), open_session(arguments.file)
    images = [as_seen(loaded.cfg, arguments.picture)] * arguments.batch
    batch = {"images": torch.stack(images).numpy()}
    with torch.inference_mode():
        works = {"torch": lambda: model(images), "onnxruntime": lambda: session.run(None, batch)}
        timings = in_turn(works, arguments.rounds)
    size = " x ".join(str(side) for side in batch["images"].shape)
    print(f"uint8 {size}, {torch.get_num_threads()} threads, ms")
    rows = [[name, timing.in_units()] for name, timing in timings.items()]
    print_table(["", "median (fastest to slowest)"], rows)
    print_json(
        "export_speed",
        machine("onnxruntime"),
        shape=batch["images"].shape,
        median_seconds={name: timing.median for name, timing in timings.items()},
    )


if __name__ == "__main__":
    main()
