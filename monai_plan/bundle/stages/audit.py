"""The last stage: the attacks on the release, and their report."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from monai_plan.audit import ReadImages, audit, write_audit, write_gallery
from monai_plan.bundle.stages.synthesize import how_made
from monai_plan.data import CheckedDataset
from monai_plan.release import Release, load_paths, stamp
from monai_plan.utils import load_artifact

__all__ = ["AuditStage"]


@dataclass(kw_only=True, eq=False)
class AuditStage:
    """Attack the release as whoever gets it could, and write what was found.

    Args:
        training: real training images: those who took part.
        test: real images of other patients.
        released: the synthetic data set as it was written.
        anchors_file: of the stage ``anchors``.
        paths_file: of the stage ``walk``.
        page_file, results_file: the page, and the same as JSON; may leave.
        gallery_dir: private folder of the most exposed patients.
        work_dir: private folder of finished parts.
        seed: of everything that is drawn.
        device: where to compute.
    """

    training: CheckedDataset
    test: CheckedDataset
    released: Release
    anchors_file: str | os.PathLike[str]
    paths_file: str | os.PathLike[str]
    page_file: str | os.PathLike[str]
    results_file: str | os.PathLike[str]
    gallery_dir: str | os.PathLike[str]
    work_dir: str | os.PathLike[str]
    seed: int = 0
    device: torch.device | str = "cpu"

    def run(self) -> None:
        """Play the attacks and write the page."""
        members, held_out = (_of_dataset(side) for side in (self.training, self.test))
        released = ReadImages(
            images=self.released.images,
            subjects=self.released.groups,
            has_subjects=True,
            keys=[Path(path).name for path in self.released.paths],
            labels=torch.tensor(self.released.labels),
            label_names=self.released.label_names,
            name="the synthetic data set",
        )
        anchors = load_artifact(self.anchors_file, kind="anchors")
        made = how_made(load_paths(self.paths_file), anchors, has_subjects=self.training.has_subjects)
        result, found = audit(
            released,
            members,
            held_out,
            cache_dir=self.work_dir,
            parameters={"Made of": made["images"], "Walk": made["walk"]},
            seed=self.seed,
            device=self.device,
        )
        write_audit(result, page_file=self.page_file, results_file=self.results_file)
        write_gallery(found, released=released, members=members, folder=self.gallery_dir)
        stamp(self.page_file, self.results_file)


def _of_dataset(dataset: CheckedDataset) -> ReadImages:
    return ReadImages(
        images=dataset.images[:],
        subjects=dataset.subjects,
        has_subjects=dataset.has_subjects,
        keys=dataset.keys,
        labels=dataset.labels,
        label_names=dataset.label_names,
        name="",
    )
