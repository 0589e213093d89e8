"""Whether an exported file finds what the model finds."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

TOLERANCES = {
    "boxes": 0.05,
    "scores": 1e-3,
    "mask_probs": 1e-3,
    "keypoints": 0.05,
    "keypoints_scores": 1e-2,
}
"""By how much they may differ: boxes and keypoints in pixels, masks' probabilities, logits."""

ONE_SIDED = 0.01
"""The part of the detections that only one of the two may have. Both decide by the same numbers,
but for their last digits: which proposals are among the best, and which boxes overlap too much."""

_NEAR_PIXELS, _NEAR_SCORE = 2.0, 0.05
"""Of a detection that has no counterpart, what is as near as this is measured, to tell it."""


@dataclass(frozen=True)
class Cut:
    """Where detections end: below a score, and behind the best `per_image`, 0 for no such limit."""

    score: float
    per_image: int


@dataclass
class Agreement:
    """What was compared so far, and the worst of it.

    worst: by the names in TOLERANCES, of the detections that both have: of one label, with boxes
    and scores within the tolerances. one_sided: the others, but those at the cut, which are
    `at_the_cut`; apart: how far the nearest of the other side's were. ties: keypoints whose heatmap
    is as high at two places.
    """

    images: int = 0
    detections: int = 0
    one_sided: int = 0
    at_the_cut: int = 0
    keypoints: int = 0
    ties: int = 0
    worst: dict[str, float] = field(default_factory=dict)
    apart: dict[str, float] = field(default_factory=dict)

    def add(self, expected: Mapping[str, Tensor], found: Mapping[str, Tensor], cut: Cut) -> None:
        """Compare one image's detections: the model's dict, and the file's of the same names.

        boxes: float[N, 4], pixels; scores: float[N]; labels: int64[N]; the file may have another N.
        """
        within = (TOLERANCES["boxes"], TOLERANCES["scores"])
        ours, theirs = _pair(expected, found, *within)
        self.images += 1
        self.detections += len(expected["scores"])
        for name in expected.keys() & TOLERANCES.keys():
            difference = (expected[name][ours].double() - found[name][theirs].double()).abs()
            if name == "keypoints":
                difference = self._without_ties(difference, expected, found, (ours, theirs))
            self.worst[name] = max(self.worst.get(name, 0.0), _largest(difference))
        alone, others = (
            {name: values[_all_but(rows, len(values))] for name, values in side.items()}
            for side, rows in ((expected, ours), (found, theirs))
        )
        for side, whole in ((alone, expected), (others, found)):
            self._count_alone(side["scores"], whole["scores"], cut)
        near, nearby = _pair(alone, others, _NEAR_PIXELS, _NEAR_SCORE)
        for name in ("boxes", "scores"):
            difference = (alone[name][near].double() - others[name][nearby].double()).abs()
            self.apart[name] = max(self.apart.get(name, 0.0), _largest(difference))

    def problems(self) -> list[str]:
        """What is not as it should be, with its numbers; empty where all agrees."""
        allowed = int(ONE_SIDED * self.detections)
        found = [
            f"{name} differ by up to {worst:.3g}, and {TOLERANCES[name]:g} is allowed"
            for name, worst in self.worst.items()
            if not worst <= TOLERANCES[name]
        ]
        if self.one_sided > allowed:
            found.append(
                f"{self.one_sided} detections are in one of the two alone, where the model has "
                f"{self.detections}; {allowed} are allowed{self._in_words_how_far()}"
            )
        if self.ties > ONE_SIDED * self.keypoints:
            found.append(f"{self.ties} of {self.keypoints} keypoints are elsewhere")
        return found

    def __str__(self) -> str:
        numbers = ", ".join(
            f"{name} {self.worst[name]:.1e}" for name in TOLERANCES if name in self.worst
        )
        alone = f"; {self.one_sided} in one of the two alone" if self.one_sided else ""
        cut = f"; {self.at_the_cut} left out by one at the cut" if self.at_the_cut else ""
        ties = f"; {self.ties} of {self.keypoints} keypoints at a tie" if self.ties else ""
        worst = f"worst differences: {numbers}" if numbers else "none to compare"
        return f"{self.detections} detections in {self.images} images, {worst}{alone}{cut}{ties}"

    def _in_words_how_far(self) -> str:
        if not any(self.apart.values()):
            return ""
        boxes, scores = self.apart["boxes"], self.apart["scores"]
        return (
            f". Where one is nearby, boxes differ by up to {boxes:.3g} pixels and scores by up "
            f"to {scores:.3g}; {TOLERANCES['boxes']:g} and {TOLERANCES['scores']:g} are allowed"
        )

    def _count_alone(self, alone: Tensor, scores: Tensor, cut: Cut) -> None:
        """alone: the scores of those that only this side has, of all its `scores`."""
        lowest = cut.score
        if 0 < cut.per_image <= len(scores):
            lowest = max(lowest, float(scores.min()))
        is_at_cut = alone - lowest <= TOLERANCES["scores"]
        self.at_the_cut += int(is_at_cut.sum())
        self.one_sided += int((~is_at_cut).sum())

    def _without_ties(
        self,
        difference: Tensor,
        expected: Mapping[str, Tensor],
        found: Mapping[str, Tensor],
        pairs: tuple[Tensor, Tensor],
    ) -> Tensor:
        """float[..., 3] of the keypoints that are at one place, or at two of different heights."""
        heights = [
            side["keypoints_scores"][rows].double()
            for side, rows in zip((expected, found), pairs, strict=True)
        ]
        as_high = (heights[0] - heights[1]).abs() <= TOLERANCES["keypoints_scores"]
        is_tie = as_high & (difference > TOLERANCES["keypoints"]).any(dim=2)
        self.keypoints += is_tie.numel()
        self.ties += int(is_tie.sum())
        return difference[~is_tie]


def _largest(differences: Tensor) -> float:
    return float(differences.max()) if differences.numel() else 0.0


def _all_but(rows: Tensor, count: int) -> Tensor:
    """bool[count]: True but at the rows."""
    others = torch.ones(count, dtype=torch.bool)
    others[rows] = False
    return others


def _pair(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], pixels: float, score: float
) -> tuple[Tensor, Tensor]:
    """The places of the same detections in both: int64[P] twice.

    Each of the model's takes the nearest of the file's that has its label, within so many pixels of
    every side, and so much of its score.
    """
    ours: list[int] = []
    theirs: list[int] = []
    free = torch.ones(len(found["scores"]), dtype=torch.bool)
    for place, box in enumerate(expected["boxes"]):
        distance = (found["boxes"] - box).abs().amax(dim=1)
        is_near = (distance <= pixels) & (
            (found["scores"] - expected["scores"][place]).abs() <= score
        )
        if "labels" in expected:
            is_near &= found["labels"] == expected["labels"][place]
        is_near &= free
        if is_near.any():
            nearest = int(distance.where(is_near, torch.inf).argmin())
            free[nearest] = False
            ours.append(place)
            theirs.append(nearest)
    return torch.tensor(ours, dtype=torch.int64), torch.tensor(theirs, dtype=torch.int64)
