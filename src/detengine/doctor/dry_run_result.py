"""What a few steps of a training were like: how long they took, and how much memory."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class DryStep:
    """One step, in training or in evaluation.

    padded: (height, width) of its batch. objects: None in evaluation. memory_mb: the peak in MiB;
    on a GPU that of the step, on a CPU that of the process up to it.
    """

    what: str
    images: int
    padded: tuple[int, int]
    objects: int | None
    seconds: float
    memory_mb: float


@dataclass(frozen=True)
class DryRun:
    """What was measured; None for what could not be.

    loader_images_per_second: of the loader alone, with its processes. checkpoint_bytes: of one.
    batch_bytes: of the images of the largest batch that a process gets.
    """

    device: str
    steps: tuple[DryStep, ...]
    loader_images_per_second: float | None
    checkpoint_bytes: int | None
    batch_bytes: int | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def step_seconds(self) -> float | None:
        """The shortest of the ordinary steps but the first, which warms up."""
        seconds = [each.seconds for each in self.steps if each.what.startswith("step")][1:]
        return min(seconds, default=None)
