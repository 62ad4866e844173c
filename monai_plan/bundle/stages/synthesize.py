"""The stage that writes the synthetic data set."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_plan.bundle.same_data import check_same_data
from monai_plan.data import CheckedDataset, IntensityScaling
from monai_plan.latent import WalkSettings
from monai_plan.networks import LatentDecoder
from monai_plan.release import (
    dataset_card,
    load_paths,
    select,
    shared_affine,
    shared_spacing,
    stamp,
    synthesize_images,
    write_synthetic,
)
from monai_plan.utils import load_artifact, write_text

__all__ = ["SynthesizeStage", "how_made"]


@dataclass(kw_only=True, eq=False)
class SynthesizeStage:
    """Write the synthetic data set: images of points on the paths, ``datalist.json`` and a data set card.

    Args:
        generator: G.
        paths_file: of the stage ``walk``.
        anchors_file: of the stage ``anchors``.
        dataset: the real images, for the names of the classes and the geometry of volumes.
        datalist_file: the data list of the release; the images go beside it.
        card_file: the data set card.
        name: of the data set.
        autoencoder_source: see ``dataset_card``.
    """

    generator: LatentDecoder
    paths_file: str | os.PathLike[str]
    anchors_file: str | os.PathLike[str]
    dataset: CheckedDataset
    datalist_file: str | os.PathLike[str]
    card_file: str | os.PathLike[str]
    name: str
    autoencoder_source: str | None = None

    def run(self) -> None:
        """Make the images, and write them with their data list and card."""
        dataset, paths = self.dataset, load_paths(self.paths_file)
        anchors = load_artifact(self.anchors_file, kind="anchors")
        check_same_data(dataset, generator=self.generator, anchors=anchors, paths=paths)
        points = select(paths, num_images=paths["num_images"])
        affine = shared_affine(dataset.patients_affines)
        made = how_made(paths, anchors, has_subjects=dataset.has_subjects)
        write_synthetic(
            Path(self.datalist_file).parent,
            images=synthesize_images(self.generator, points.latents),
            labels=points.labels,
            label_names=dataset.label_names,
            groups=points.places[:, 0].tolist(),
            affine=affine,
            name=self.name,
            description=f"Synthetic images made with monai_plan (method: PLAN, arXiv 2307.02984): {made['images']}.",
        )
        real_patients = f"{dataset.num_subjects} patients" if dataset.has_subjects else "an unknown number of patients"
        card = dataset_card(
            name=self.name,
            classes={
                label: (dataset.label_names[label], int((points.labels == label).sum()))
                for label in paths["num_images"]
            },
            shape=tuple(dataset.images.shape[1:]),
            made_from=f"{len(dataset)} real images of {real_patients}",
            values=_values(dataset.intensity),
            spacing=shared_spacing(dataset.patients_affines) if dataset.images.ndim == 5 else None,
            autoencoder_source=self.autoencoder_source,
            **made,
        )
        write_text(self.card_file, card)
        stamp(self.card_file)


def _values(scaling: IntensityScaling | None) -> str | None:
    """What the values of a release stand for, see ``dataset_card``."""
    if scaling is None or scaling.value_range == (0.0, 255.0):
        return None
    low, high = scaling.value_range or scaling.percentiles or (0.0, 0.0)
    if scaling.value_range is None:
        return f"the percentiles {low:g} to {high:g} of each real image's own values, so that they have no unit"
    return f"{low:g} to {high:g} in the values of the real images"


def how_made(paths: Mapping[str, Any], anchors: Mapping[str, Any], *, has_subjects: bool) -> dict[str, str]:
    """How the images were made, in words that tell of no patient.

    Args:
        paths: of the stage ``walk``.
        anchors: of the stage ``anchors``.
        has_subjects: whether the real data list names patients.

    Returns:
        ``images``, what they are; ``subject``, what that is in the data list; ``walk``, its recipe; ``check``, the
        final one.
    """
    made_by = paths["header"]["made_by"]
    walked = made_by["settings"] is not None
    if anchors["k"] is None:
        ends = f"points of the generator's own distribution ({anchors['header']['made_by']['selection']})"
    else:
        patients = "patients" if has_subjects else "images (no patients were named: one patient may have several)"
        ends = f"averages of at least {anchors['k']} {patients} in the latent space"
    return {
        "images": f"points on {len(paths['labels'])} walks between {ends}" if walked else ends,
        "subject": _OF_A_WALK if walked else _ALONE,
        "walk": str(WalkSettings.from_dict(made_by["settings"])) if walked else "none",
        "check": "none" if made_by["min_distance_quantile"] is None else "passed by all images",
    }


_OF_A_WALK = """`subject` is the walk that an image comes from. Images of one walk resemble each other: keep them on one
  side of a split. Walks are numbered and images shuffled at random."""
_ALONE = "`subject` numbers the images, which were drawn one by one and shuffled."
