"""The stage that writes the synthetic data set."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from monai_plan.data import CheckedDataset
from monai_plan.latent import WalkSettings
from monai_plan.networks import LatentDecoder
from monai_plan.release import (
    dataset_card,
    load_paths,
    select,
    shared_affine,
    stamp,
    synthesize_images,
    write_synthetic,
)
from monai_plan.utils import load_artifact, write_text

__all__ = ["SynthesizeStage"]


@dataclass(kw_only=True, eq=False)
class SynthesizeStage:
    """Write the synthetic data set: images of points on the paths, ``datalist.json`` and a data set card.

    Args:
        generator: G.
        paths_file: of the stage ``walk``.
        anchors_file: of the stage ``aggregate``.
        dataset: the real images, for the names of the classes and the geometry of volumes.
        datalist_file: the data list of the release; the images go beside it.
        card_file: the data set card.
        name: of the data set.
    """

    generator: LatentDecoder
    paths_file: str | os.PathLike[str]
    anchors_file: str | os.PathLike[str]
    dataset: CheckedDataset
    datalist_file: str | os.PathLike[str]
    card_file: str | os.PathLike[str]
    name: str

    def run(self) -> None:
        """Make the images, and write them with their data list and card."""
        dataset, paths = self.dataset, load_paths(self.paths_file)
        made_by = paths["header"]["made_by"]
        anchors = load_artifact(self.anchors_file, kind="anchors")
        points = select(paths, num_images=paths["num_images"])
        patients = (
            "patients" if dataset.has_subjects else "images (no patients were named: one patient may have several)"
        )
        write_synthetic(
            Path(self.datalist_file).parent,
            images=synthesize_images(self.generator, points.latents),
            labels=points.labels,
            label_names=dataset.label_names,
            groups=points.places[:, 0].tolist(),
            affine=shared_affine(dataset.affine),
            name=self.name,
            description=(
                "Synthetic images made by PLAN (arXiv 2307.02984) with monai_plan: points on walks between averages of "
                f"at least {anchors['k']} {patients}. subject is the walk."
            ),
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
            anchors=(
                f"{len(paths['labels'])} walks between {len(anchors['labels'])} anchors; an anchor is the average of "
                f"at least {anchors['k']} {patients} in the latent space"
            ),
            walk=str(WalkSettings.from_dict(made_by["settings"])),
            check="none" if made_by["min_distance_quantile"] is None else "passed by all images",
        )
        write_text(self.card_file, card)
        stamp(self.card_file)
