"""MODEL.CHANNELS_LAST, and the fault of oneDNN's that it goes around."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from detengine.modeling.build import build_detection_model
from detengine.modeling.channels_last import put_channels_last

PROGRAM = Path(__file__).parent / "strided_program.py"
SMALL = {
    "SOLVER.MAX_ITER": "2",
    "SOLVER.TEST_PERIOD": "0",
    "INPUT.MIN_SIZE_TRAIN": "[56,64,72]",
    "INPUT.MIN_SIZE_TEST": "64",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": "8",
    "MODEL.RESNETS.RES2_OUT_CHANNELS": "32",
    "TEST.PICTURES": "0",
}


def run_on_two_threads(*command):
    """In a process of its own, which is what the fault takes with it: its exit code and words."""
    environment = os.environ | {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=120
    )
    return ended.returncode, ended.stderr


def is_hooked(layer):
    put_channels_last(layer)
    return bool(layer._forward_pre_hooks)


def test_strided_convolutions_of_few_channels_have_the_gradients_of_float64():
    assert run_on_two_threads(str(PROGRAM)) == (0, "")


def test_a_narrow_network_trains_in_bfloat16_to_its_end(tiny_config, tmp_path):
    folder = tmp_path / "run"
    own = {"DTYPE": "bfloat16", "SOLVER.ACCUMULATE": "2", "OUTPUT_DIR": str(folder)}
    options = [part for pair in (SMALL | own).items() for part in pair]
    command = ["-m", "detengine", "train", "-c", str(tiny_config), *options]
    code, words = run_on_two_threads(*command)
    assert code == 0, words
    assert (folder / "model_final.pth").exists()


def test_only_convolutions_that_the_fault_can_meet_are_treated():
    assert is_hooked(nn.Conv2d(8, 4, 1, stride=2))
    assert is_hooked(nn.Conv2d(15, 4, 1, stride=(1, 2), padding="valid"))
    assert not is_hooked(nn.Conv2d(16, 4, 1, stride=2))
    assert not is_hooked(nn.Conv2d(8, 4, 1))
    assert not is_hooked(nn.Conv2d(8, 4, 3, stride=2))
    assert not is_hooked(nn.Conv2d(8, 4, 1, stride=2, padding=1))


def test_without_gradients_they_read_what_they_are_given():
    layer, seen = nn.Conv2d(8, 4, 1, stride=2), []
    put_channels_last(layer)
    layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-2]))
    features = torch.randn(2, 8, 6, 6).to(memory_format=torch.channels_last)
    layer(features)
    with torch.no_grad():
        layer(features)
    layer.requires_grad_(False)(features)
    assert seen == [5, 6, 6]


def test_switched_off_no_layer_is_treated(make_config, narrow):
    few = {"MODEL.RESNETS.STEM_OUT_CHANNELS": "8", "MODEL.RESNETS.RES2_OUT_CHANNELS": "32"}
    for switch, expected in (("False", 0), ("True", 1)):
        cfg = make_config(narrow | few | {"MODEL.CHANNELS_LAST": switch})
        modules = build_detection_model(cfg).modules()
        assert sum(bool(each._forward_pre_hooks) for each in modules) == expected
