"""torchvision's detectors by name: the same parameters under the same names."""

import pytest
import torch
from torchvision.models import get_model

from detengine.config.published import TORCHVISION_DETECTORS, config_of_torchvision
from detengine.modeling.build import build_detection_model


@pytest.mark.parametrize("name", TORCHVISION_DETECTORS)
def test_the_model_has_torchvisions_parameters_under_its_names(name: str) -> None:
    with torch.device("meta"):
        ours = build_detection_model(config_of_torchvision(name, "cpu")).state_dict()
        theirs = get_model(name, weights=None, weights_backbone=None).state_dict()
    counters = {each for each in theirs if each.endswith("num_batches_tracked")}
    assert {each: ours[each].shape for each in ours if each not in counters} == {
        each: theirs[each].shape for each in theirs if each not in counters
    }


def test_a_detector_of_no_family_of_ours_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"fcos_resnet50_fpn has no config.*maskrcnn_resnet50_fpn"):
        config_of_torchvision("fcos_resnet50_fpn")
