"""Which images were predicted, and which wrongly: none of the data set's, twice, or not at all."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import orjson

from detengine.evaluation.truth import Truth

OnWrongImages = Literal["error", "warn"]

_LISTED = 10


class ImageTally:
    """Admits each image of a data set once, and notes what else was given.

    On several ranks each has its own; rank 0 takes in those of the others before it judges.
    """

    def __init__(self, truth: Truth) -> None:
        self._truth = truth
        self._seen = np.zeros(len(truth), dtype=bool)
        self._doubled: set[int] = set()
        self._foreign: set[int] = set()

    def admit(self, image_id: int) -> int | None:
        """The image's position in the ground truth; None if it is not to be scored."""
        image = self._truth.find(image_id)
        if image is None:
            self._foreign.add(image_id)
        elif self._seen[image]:
            self._doubled.add(image)
        else:
            return image
        return None

    def mark(self, image: int) -> None:
        """Note that the image at this position was scored."""
        self._seen[image] = True

    def missing(self) -> list[int]:
        """The positions of the images that were not scored."""
        return np.flatnonzero(~self._seen).tolist()

    def to_bytes(self) -> bytes:
        """A bit for each image of the data set, and the wrong ones."""
        header = {"doubled": sorted(self._doubled), "foreign": sorted(self._foreign)}
        return orjson.dumps(header) + b"\n" + np.packbits(self._seen).tobytes()

    def merge(self, part: bytes) -> None:
        """Take in another rank's `to_bytes()`, of the same data set."""
        line, _, bits = part.partition(b"\n")
        header = orjson.loads(line)
        theirs = np.unpackbits(np.frombuffer(bits, np.uint8), count=len(self._seen)).astype(bool)
        self._doubled.update(header["doubled"], np.flatnonzero(self._seen & theirs).tolist())
        self._foreign.update(header["foreign"])
        self._seen |= theirs

    def problems(self) -> list[str]:
        """A sentence for each kind of mistake, with the first ten image ids."""
        missing, doubled, foreign = self.missing(), sorted(self._doubled), sorted(self._foreign)
        found = []
        if missing:
            found.append(
                f"{len(missing)} of {len(self._truth)} images have no prediction: "
                f"{_first(self._truth.ids_of(missing))}. Each image must be scored, also one "
                "without detections (as an empty Prediction)."
            )
        if doubled:
            found.append(
                f"{len(doubled)} images were predicted more than once: "
                f"{_first(self._truth.ids_of(doubled))}. Each image must be scored exactly once: "
                "shard the data set without padding."
            )
        if foreign:
            found.append(
                f"{len(foreign)} images were predicted that the ground truth does not have: "
                f"{_first(foreign)}; it has {len(self._truth)} images: "
                f"{_first(self._truth.ids_of(range(min(len(self._truth), _LISTED + 1))))}. Is it "
                "the ground truth of another data set?"
            )
        return found


def _first(image_ids: Sequence[int]) -> str:
    more = ", ..." if len(image_ids) > _LISTED else ""
    return ", ".join(map(str, image_ids[:_LISTED])) + more
