"""The file that tells of one step that was not finite: read by a person, and by its replay."""

import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from detengine.disk.writing import write_text

SUFFIX, WEIGHTS_SUFFIX = ".json", ".pth"
PATTERN = f"nonfinite_*{SUFFIX}"

_FEW = 10


@dataclass(frozen=True)
class RankShare:
    """One rank's part of the step. image_ids: by micro-batch. losses: `loss`, their sum, first."""

    image_ids: list[list[int]]
    losses: dict[str, float]

    @property
    def loss_is_finite(self) -> bool:
        return math.isfinite(self.losses["loss"])


@dataclass(frozen=True)
class NonFiniteRecord:
    """One step whose loss or gradient was not finite, on all ranks.

    iteration: the step's own, counted from 1. lr: of the first parameter group. seed: None where
    the run's randomness was not a function of it. ranks: one share each, in their order.
    """

    iteration: int
    lr: float
    seed: int | None
    accumulate: int
    dtype: str
    ranks: list[RankShare]

    @property
    def world_size(self) -> int:
        return len(self.ranks)

    @property
    def images(self) -> int:
        """How many images the step had, over all ranks and micro-batches."""
        return sum(len(batch) for share in self.ranks for batch in share.image_ids)

    def path_in(self, folder: Path) -> Path:
        return folder / f"nonfinite_{self.iteration:07d}{SUFFIX}"

    def describe(self) -> list[str]:
        """A line for each rank whose own loss was not finite, if it was a gradient for all; ten."""
        culprits = [rank for rank, share in enumerate(self.ranks) if not share.loss_is_finite]
        lines = [self._describe(rank) for rank in culprits or range(self.world_size)]
        more = [f"... and {len(lines) - _FEW} ranks more"] if len(lines) > _FEW else []
        return lines[:_FEW] + more

    def _describe(self, rank: int) -> str:
        share = self.ranks[rank]
        image_ids = [image_id for batch in share.image_ids for image_id in batch]
        losses = ", ".join(f"{name} {value:.4g}" for name, value in share.losses.items())
        cause = " (finite; a gradient was not)" if share.loss_is_finite else ""
        return (
            f"iteration {self.iteration}, rank {rank}, image ids {image_ids}, lr {self.lr:.3g}: "
            f"{losses}{cause}"
        )


def write_record(path: Path, record: NonFiniteRecord) -> None:
    """Write the record as JSON, a line for each rank; "nan", "inf", "-inf" are strings there.

    Raises OSError, naming the folder, if it cannot be written.
    """
    about = {
        "iteration": record.iteration,
        "learning_rate": record.lr,
        "seed": record.seed,
        "world_size": record.world_size,
        "accumulate": record.accumulate,
        "dtype": record.dtype,
    }
    lines = [f"  {json.dumps(name)}: {json.dumps(value)}," for name, value in about.items()]
    ranks = [f"    {json.dumps(_share_to_json(n, s))}" for n, s in enumerate(record.ranks)]
    text = "\n".join(["{", *lines, '  "ranks": [', ",\n".join(ranks), "  ]", "}", ""])
    write_text(path, text)


def read_record(path: Path) -> NonFiniteRecord:
    """Read what `write_record` wrote. Raises FileNotFoundError, or ValueError for another file."""
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no record {path}. Give a {PATTERN} of a run's folder: a step that was not "
            "finite leaves one."
        )
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        shares = [
            RankShare(
                [[int(image_id) for image_id in batch] for batch in share["image_ids"]],
                {str(name): float(value) for name, value in share["losses"].items()},
            )
            for share in data["ranks"]
        ]
        if not shares or any("loss" not in share.losses for share in shares):
            raise KeyError("loss")
        return NonFiniteRecord(
            iteration=int(data["iteration"]),
            lr=float(data["learning_rate"]),
            seed=None if data["seed"] is None else int(data["seed"]),
            accumulate=int(data["accumulate"]),
            dtype=str(data["dtype"]),
            ranks=shares,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is no record of a step that was not finite ({type(error).__name__}: {error}). "
            f"Give a {PATTERN} of a run's folder, as the run wrote it."
        ) from error


def replay_command(record: Path) -> str | None:
    """What repeats the step; None where the folder holds no configuration to repeat it with."""
    config = record.parent / "config.yaml"
    if not config.is_file():
        return None
    return f"detengine train -c {shlex.quote(str(config))} --replay {shlex.quote(str(record))}"


def _share_to_json(rank: int, share: RankShare) -> Mapping[str, Any]:
    losses = {name: _to_json(value) for name, value in share.losses.items()}
    finite = {"loss_is_finite": share.loss_is_finite}
    return {"rank": rank, **finite, **asdict(share), "losses": losses}


def _to_json(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
