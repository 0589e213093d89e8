"""How a data set is scored, beside what is scored."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

AreaRange = tuple[float, float]
"""Both ends are in it, in pixels."""

COCO_AREAS: Mapping[str, AreaRange] = MappingProxyType(
    {
        "all": (0.0, 1e5**2),
        "small": (0.0, 32.0**2),
        "medium": (32.0**2, 96.0**2),
        "large": (96.0**2, 1e5**2),
    }
)
"""pycocotools' Params.areaRng: the areas of masks, or of boxes where there are none."""


@dataclass(frozen=True)
class ScoringOptions:
    """What a metric can be asked for; None is its own default.

    - metrics: names of `scorers.SCORERS`; their tasks stand side by side in the result.
    - iou_thresholds: of COCO's and LVIS's AP, ascending; None: 0.50, 0.55, ..., 0.95.
    - area_ranges: COCO's by name, "all" is always among them; None: small, medium, large.
    - max_detections: COCO's limits for an image and class, ascending, the last is the AP's; None:
      1, 10, 100 (keypoints 20; LVIS 300 for an image, over all classes).
    - keypoint_sigmas: the tolerance of each keypoint; None: the 17 of a person, as in COCO.
    - voc_iou_threshold: at which VOC's AP is taken.
    - voc_extra_pixel: the predecessor's arithmetic, in which VOC's boxes are a pixel wider and
      higher than in the devkit.
    Raises ValueError for values that none of them can mean.
    """

    metrics: tuple[str, ...] = ("coco",)
    iou_thresholds: tuple[float, ...] | None = None
    area_ranges: Mapping[str, AreaRange] | None = None
    max_detections: tuple[int, ...] | None = None
    keypoint_sigmas: tuple[float, ...] | None = None
    voc_iou_threshold: float = 0.5
    voc_extra_pixel: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if not self.metrics or len(set(self.metrics)) < len(self.metrics):
            raise ValueError(
                f"the metrics are {self.metrics}; expected at least one, each of them once"
            )
        for threshold in (*(self.iou_thresholds or ()), self.voc_iou_threshold):
            if not 0 < threshold <= 1:
                raise ValueError(f"an IoU threshold is {threshold}, but must be in (0, 1]")
        for name, values in (
            ("IoU thresholds", self.iou_thresholds),
            ("limits of detections", self.max_detections),
        ):
            if values is not None and (not values or list(values) != sorted(set(values))):
                raise ValueError(f"the {name} are {values}; expected at least one, ascending")
        if self.max_detections is not None and self.max_detections[0] < 1:
            raise ValueError(f"a limit of detections is {self.max_detections[0]}; at least 1")
        for name, (low, high) in (self.area_ranges or {}).items():
            if not 0 <= low < high:
                raise ValueError(
                    f"the area range {name!r} is from {low} to {high}; expected (least, most) in "
                    "pixels, ascending"
                )
        sigmas = self.keypoint_sigmas
        if sigmas is not None and not all(0 < each < math.inf for each in sigmas):
            raise ValueError(f"the keypoints' sigmas are {sigmas}, but all must be positive")

    def areas(self, standard: Mapping[str, AreaRange]) -> dict[str, AreaRange]:
        """The area ranges by name: those asked for, with "all" first, or the metric's standard."""
        if self.area_ranges is None:
            return dict(standard)
        return {"all": COCO_AREAS["all"], **self.area_ranges}
