import pytest
import torch
from torch import nn

from detengine.modeling.norms import frozen_batch_norm, group_norm_of_groups, group_norm_of_width


def test_frozen_batch_norm_without_epsilon_divides_by_the_deviation_itself() -> None:
    norm = frozen_batch_norm(0.0)(1)
    norm.running_var.fill_(4e-6)
    assert float(norm(torch.ones(1, 1, 1, 1))) == pytest.approx(500.0)
    assert not list(norm.parameters())


@pytest.mark.parametrize(("channels", "groups"), [(256, 32), (48, 24), (16, 16), (7, 7), (37, 1)])
def test_group_norm_takes_the_largest_number_of_groups_that_divides(
    channels: int, groups: int
) -> None:
    norm = group_norm_of_groups(32, 1e-3)(channels)
    assert isinstance(norm, nn.GroupNorm)
    assert (norm.num_groups, norm.num_channels, norm.eps) == (groups, channels, 1e-3)


def test_group_norm_by_the_width_of_a_group_never_changes_that_width() -> None:
    norm = group_norm_of_width(8, 1e-5)(24)
    assert isinstance(norm, nn.GroupNorm)
    assert norm.num_groups == 3
    with pytest.raises(ValueError, match="DIM_PER_GP: 8 channels to a group, but a layer has 20"):
        group_norm_of_width(8, 1e-5)(20)
