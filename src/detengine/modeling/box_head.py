"""The layers that classify a region and refine its box."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.ops.misc import Conv2dNormActivation

NormLayer = Callable[[int], nn.Module]


def make_fc_head(in_values: int, width: int, norm_layer: NormLayer | None = None) -> nn.Module:
    """Two fully connected layers (FPN2MLPFeatureExtractor), with a norm behind each if given."""
    head: nn.Module = TwoMLPHead(in_values, width)
    if norm_layer is not None:
        head.fc6 = nn.Sequential(nn.Linear(in_values, width, bias=False), norm_layer(width))
        head.fc7 = nn.Sequential(nn.Linear(width, width, bias=False), norm_layer(width))
    return head


def make_conv_head(
    in_channels: int,
    side: int,
    convolutions: Sequence[int],
    width: int,
    *,
    dilation: int = 1,
    norm_layer: NormLayer | None = None,
) -> nn.Sequential:
    """3 x 3 convolutions, then one fully connected layer (FPNXconv1fcFeatureExtractor).

    side: of a pooled region, in bins; convolutions: their channels; width: of the last layer.
    The layers stand where torchvision's FastRCNNConvFCHead, which knows no dilation, has them.
    """
    layers: list[nn.Module] = []
    channels = in_channels
    for out_channels in convolutions:
        layers.append(
            Conv2dNormActivation(channels, out_channels, dilation=dilation, norm_layer=norm_layer)
        )
        channels = out_channels
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(channels * side**2, width), nn.ReLU(inplace=True)
    )


class BoxPredictor(nn.Module):
    """Class logits [R, classes] and deltas [R, 4 box_classes] of features [R, C] or [R, C, S, S].

    Maps are averaged first. classes: with the background. box_classes: `classes`, or 2 where one
    box is regressed for all of them, and the first stands for the background.
    """

    def __init__(self, in_channels: int, classes: int, box_classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(in_channels, classes)
        self.bbox_pred = nn.Linear(in_channels, 4 * box_classes)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        if features.dim() == 4:
            features = features.mean(dim=(2, 3))
        return self.cls_score(features), self.bbox_pred(features)


def initialise_as_torchvision(head: nn.Module) -> None:
    """The first values of torchvision's FastRCNNConvFCHead: He's normal distribution by fan-out for
    the convolutions, without biases; what is fully connected stays as torch draws it."""
    for layer in head.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def initialise_as_caffe2(head: nn.Module, predictor: BoxPredictor) -> None:
    """The predecessor's first values, for heads that are trained anew.

    Its fully connected layers are Caffe2's XavierFill, which is kaiming_uniform with a = 1
    (modeling/make_layers.py), its convolutions normal with 0.01, its predictors with 0.01 for the
    classes and 0.001 for the boxes.
    """
    for layer in head.modules():
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, a=1)
        elif isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.01)
    nn.init.normal_(predictor.cls_score.weight, std=0.01)
    nn.init.normal_(predictor.bbox_pred.weight, std=0.001)
    for module in (*head.modules(), predictor.cls_score, predictor.bbox_pred):
        if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
            nn.init.zeros_(module.bias)
