"""What the classifier of the diagnosis φ_class is trained on."""

from __future__ import annotations

from typing import Any

from monai_plan.data import CheckedDataset, split_by_subject

__all__ = ["class_items"]


def class_items(
    *, dataset: CheckedDataset, validation_fraction: float = 0.2, seed: int = 0
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Training and validation items for φ_class: real images, split by subject.

    Args:
        dataset: N real images.
        validation_fraction: share of the subjects of each class that validates.
        seed: of the split.

    Returns:
        Items of the data set, for training and for validation.
    """
    return split_by_subject([dataset[i] for i in range(len(dataset))], test_fraction=validation_fraction, seed=seed)
