"""Repeat-factor sampling: images of rare classes come more often than once an epoch."""

import torch
from torch import Tensor


def repeat_factors(
    image_of: Tensor, labels: Tensor, number_of_images: int, threshold: float
) -> Tensor:
    """How often each image comes in an epoch on average; float64[number_of_images], 1 or more.

    image_of, labels: int64[N], the image and the class of each annotation. A class that is in the
    share f of the images asks for max(1, sqrt(threshold / f)) of each image that it is in; an image
    gets the most that one of its classes asks for. threshold: in (0, 1]; where f is no smaller,
    nothing is repeated (Gupta et al., LVIS, arXiv 1908.03195, appendix).
    """
    factors = torch.ones(number_of_images, dtype=torch.float64)
    if len(labels) == 0:
        return factors
    classes = int(labels.max()) + 1
    pairs = torch.unique(image_of * classes + labels)
    images, label_in_image = pairs // classes, pairs % classes
    shares = torch.bincount(label_in_image).double() / number_of_images
    asked_for = (threshold / shares).sqrt()  # infinite for a class that no image has
    return factors.scatter_reduce(0, images, asked_for[label_in_image], "amax")
