"""Refuses what was made of other patients: a stage that runs alone must not go on from somebody who was removed."""

from __future__ import annotations

from typing import Any

from monai_plan.data import CheckedDataset
from monai_plan.utils import DataError

__all__ = ["check_same_data", "made_of"]

_STAGES = {
    "autoencoder": "train_autoencoder",
    "generator": "train",
    "latents": "invert",
    "identity_net": "train_identity",
    "class_net": "train_class",
    "anchors": "anchors",
    "paths": "walk",
}


def made_of(thing: Any) -> str | None:
    """The data set behind an artefact or a network, see ``CheckedDataset.made_of``; None if it does not say."""
    found = thing["header"]["made_by"].get("data") if isinstance(thing, dict) else getattr(thing, "made_of", None)
    return found if isinstance(found, str) else None


def check_same_data(dataset: CheckedDataset, **things: Any) -> None:
    """Check that all that a stage goes on from was made of the images, classes and patients that the data list has now.

    An imported generator does not say what it was made of, and passes.

    Args:
        dataset: the real training images.
        things: "autoencoder", "generator", "identity_net" and "class_net", as they were loaded, None for what there is
            not; "latents", "anchors" and "paths", as ``load_artifact`` gives them.

    Raises:
        DataError: naming what was made of others, and the stage to run again.
    """
    now = made_of(dataset)
    for name, thing in things.items():
        before = made_of(thing)
        if None not in (now, before) and before != now:
            raise DataError(
                f"{_STAGES[name]} was run on other images, classes or patients than the data list has now: run this "
                "stage again, and those that follow it, or all of them by monai_plan run."
            )
