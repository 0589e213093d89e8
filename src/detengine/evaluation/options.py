"""How a data set is scored, beside what is scored."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

AreaRange = tuple[float, float]
"""(least, most) in square pixels; both are in it."""

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
    - area_ranges: COCO's by name, all different, "all" is always among them; None: small, medium,
      large.
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
    voc_extra_pixel: bool = False

    def __post_init__(self) -> None:
        if not self.metrics or len(set(self.metrics)) < len(self.metrics):
            raise ValueError(
                f"the metrics are {self.metrics}; expected at least one, each of them once "
                "(TEST.METRICS)"
            )
        _raise_if_not_in_0_to_1("IOU_THRESHOLDS", self.iou_thresholds or ())
        _raise_if_not_in_0_to_1("VOC_IOU_THRESHOLD", (self.voc_iou_threshold,))
        _raise_if_not_ascending("IOU_THRESHOLDS", self.iou_thresholds)
        _raise_if_not_ascending("MAX_DETECTIONS", self.max_detections)
        _raise_if_not_positive("MAX_DETECTIONS", self.max_detections or ())
        _raise_if_not_positive("KEYPOINT_SIGMAS", self.keypoint_sigmas or ())
        for name, (low, high) in (self.area_ranges or {}).items():
            if not 0 <= low < high:
                raise ValueError(
                    f"the area range {name!r} is from {low} to {high}; expected (least, most) in "
                    "square pixels, ascending (TEST.AREA_RANGES)"
                )
        self._raise_if_areas_are_alike()

    def _raise_if_areas_are_alike(self) -> None:
        """hotcoco would count the detections of both as those of the last."""
        names: dict[AreaRange, str] = {}
        for name, (low, high) in self.areas().items():
            other = names.setdefault((low, high), name)
            if other != name:
                raise ValueError(
                    f"the area ranges {other!r} and {name!r} are both from {low} to {high}; "
                    "expected different ones ('all' is among them by itself; TEST.AREA_RANGES)"
                )

    def areas(self) -> dict[str, AreaRange]:
        """The area ranges by name: those asked for, with "all" first, or COCO's own."""
        if self.area_ranges is None:
            return dict(COCO_AREAS)
        return {"all": COCO_AREAS["all"], **self.area_ranges}


def _raise_if_not_in_0_to_1(key: str, thresholds: Sequence[float]) -> None:
    for threshold in thresholds:
        if not 0 < threshold <= 1:
            raise ValueError(f"an IoU threshold is {threshold}, but must be in (0, 1] (TEST.{key})")


def _raise_if_not_ascending(key: str, values: Sequence[float] | None) -> None:
    if values is not None and (not values or list(values) != sorted(set(values))):
        raise ValueError(
            f"TEST.{key} is {list(values)}; expected at least one number, each once, ascending"
        )


def _raise_if_not_positive(key: str, values: Sequence[float]) -> None:
    for value in values:
        if not 0 < value < math.inf:
            raise ValueError(f"TEST.{key} has {value}, but all must be positive")
