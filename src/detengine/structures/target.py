"""The annotations of one image as a model sees them: torchvision's detection contract."""

from typing import Any, TypeAlias

Target: TypeAlias = dict[str, Any]
"""A dict with these entries, all in pixels of the image it travels with:

- `boxes`: float32[N, 4], xyxy. N may be 0.
- `labels`: int64[N], 1..K.
- `masks`: RunLengthMasks of N masks, where the data set has masks and they are asked for. Our
  models also take torchvision's, uint8[N, H, W].
- `keypoints`: float32[N, J, 3] as x, y, visibility, likewise.
- `image_size`: int64[2], (height, width) of the image as the model gets it. Stays on the CPU.
- `original_size`: int64[2], (height, width) of the stored image after EXIF rotation. On the CPU.

In evaluation only the two sizes are there.
"""
