"""From samples to the batch that the loader yields."""

from collections.abc import Sequence

from detengine.structures.batch import Batch, Sample


def collate(samples: Sequence[Sample]) -> Batch:
    """The samples' images, targets and ids side by side; padding is the model's affair."""
    return Batch(
        [sample.image for sample in samples],
        [sample.target for sample in samples],
        [sample.image_id for sample in samples],
    )
