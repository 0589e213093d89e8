"""The command `demo`: the main job, on pictures that the package carries."""

from importlib.resources import files
from pathlib import Path

import torch
import typer

from detengine.cli.app import EXIT_STOPPED
from detengine.cli.prove_resume import prove_resume
from detengine.config.load import load_config
from detengine.distributed.launch import resolve_device
from detengine.output_folder import free_folder
from detengine.run import train

DATA = Path(str(files("detengine") / "demo_data"))

YOUR_DATA = """\
# The demo's recipe for data of your own: put in your paths, then
#   detengine train -c {file} --output-dir runs/mine
# FORMAT: voc, with ROOT and SPLIT, reads PASCAL VOC. Without masks, set MODEL.MASK_ON to False.
DATASETS:
  DEFINE:
    my_train: {{FORMAT: coco, IMAGES: path/to/images, ANNOTATIONS: path/to/train.json}}
    my_val: {{FORMAT: coco, IMAGES: path/to/images, ANNOTATIONS: path/to/val.json}}
  TRAIN: [my_train]
  TEST: [my_val]
"""


def run_demo(output_folder: Path | None, *, prove: bool = False) -> None:
    """Train a small Mask R-CNN from scratch, score it, draw it, and say what comes next.

    output_folder: None for the first free of detengine-demo, detengine-demo-2, ... prove: instead
    of all that show that a killed training, resumed, ends with an unbroken one's weights.
    """
    folder = output_folder or free_folder("detengine-demo")
    settings = ["DATASETS.ROOT", str(DATA)]
    if prove:
        prove_resume(DATA / "demo.yaml", settings, folder)
        return
    cfg = load_config(DATA / "demo.yaml", [*settings, "OUTPUT_DIR", str(folder)])
    typer.echo(
        "Mask R-CNN, from scratch, on 45 microscope pictures of cell nuclei (CC0).\n"
        f"Device: {describe_device(cfg.MODEL.DEVICE)}. "
        "On two CPU cores it takes one to two minutes, with a first score after half a minute.\n"
        f"Ctrl-C stops it; everything is in {folder}.\n"
    )
    result = train(cfg)
    if not result.finished:
        typer.echo(f"\nStopped. To go on: detengine train -c {folder}/config.yaml --resume")
        raise typer.Exit(EXIT_STOPPED)
    your_data = folder / "your_data.yaml"
    recipe = (DATA / "recipe.yaml").read_text(encoding="utf-8")
    your_data.write_text(YOUR_DATA.format(file=your_data) + recipe, encoding="utf-8")
    for test_set, scores in result.results.items():
        typer.echo(f"\n{test_set}, in percent:\n{scores.table()}")
    typer.echo(
        f"\nPictures, truth beside prediction: {folder / 'pictures' / cfg.DATASETS.TEST[0]}\n"
        f"Everything on one page: {folder / 'report.html'}\n"
        "Your own pictures: detengine train --data FOLDER\n"
        f"Or by this demo's recipe: put their paths into {your_data}, then\n"
        f"  detengine train -c {your_data} --output-dir runs/mine"
    )


def describe_device(setting: str) -> str:
    """The device that a setting stands for, in words."""
    device = resolve_device(setting)
    if device.type == "cuda":
        return f"{device}, {torch.cuda.get_device_name(device)}"
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"cpu, {threads} thread{'s' if threads > 1 else ''}"
    return str(device)
