"""The last stage: the attacks on the release, and their report."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monai_plan.audit import Evaluation, ReadImages, audit, write_audit, write_gallery, write_reading
from monai_plan.audit.attacks import People
from monai_plan.audit.digests import real_digest, released_files
from monai_plan.audit.leaks import differencing_row, generator_row, membership_row
from monai_plan.audit.rows import Row
from monai_plan.bundle.same_data import check_same_data
from monai_plan.bundle.stages.synthesize import how_made
from monai_plan.data import CheckedDataset
from monai_plan.latent import LatentInverter
from monai_plan.release import Release, load_paths, select, stamp
from monai_plan.release.secret import release_secret
from monai_plan.utils import finished_part, load_artifact

__all__ = ["AuditStage", "differencing"]


@dataclass(kw_only=True, eq=False)
class AuditStage:
    """Attack the release as whoever gets it could, and write what was found.

    Args:
        training: real training images: those who took part.
        test: real images of other patients.
        released: the synthetic data set as it was written.
        anchors_file: of the stage ``anchors``.
        paths_file: of the stage ``walk``.
        latents_file: of the stage ``invert``.
        evaluation_file: with all figures, of the stage ``evaluate``, whose attack on classifiers is reported here too.
        inverter: projects the held-out patients as the training images were projected.
        page_file, results_file: the page, and the same as JSON; may leave.
        report_page: name of the page of the stage ``evaluate`` beside it, to be linked.
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
    latents_file: str | os.PathLike[str]
    evaluation_file: str | os.PathLike[str]
    inverter: LatentInverter
    page_file: str | os.PathLike[str]
    results_file: str | os.PathLike[str]
    gallery_dir: str | os.PathLike[str]
    work_dir: str | os.PathLike[str]
    report_page: str | None = None
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
            files=self.released.paths,
        )
        secret_file = Path(self.work_dir) / "secret.json"
        evaluation = Evaluation.from_json(Path(self.evaluation_file).read_text(encoding="utf-8"))
        anchors = load_artifact(self.anchors_file, kind="anchors")
        paths = load_paths(self.paths_file)
        check_same_data(self.training, anchors=anchors, paths=paths)
        who = "patients" if self.training.has_subjects else "images"
        k = "none, for no average of patients is in it" if anchors["k"] is None else f"{anchors['k']} {who} at least"
        made = how_made(paths, anchors, has_subjects=self.training.has_subjects)
        result, exposed = audit(
            released,
            members,
            held_out,
            cache_dir=self.work_dir,
            further=self._further(paths, anchors, evaluation),
            parameters={"k": k, "Made of": made["images"], "Walk": made["walk"]},
            files=released_files(self.released.paths, self.released.folder),
            real_digest=real_digest(members, held_out, secret_file=secret_file),
            seed=self.seed,
            device=self.device,
        )
        write_audit(
            result,
            page_file=self.page_file,
            results_file=self.results_file,
            report_page=self.report_page,
            evaluation=evaluation.released(),
        )
        write_gallery(exposed, released=released, members=members, folder=self.gallery_dir)
        write_reading(released, held_out, secret=release_secret(secret_file), folder=self.gallery_dir)
        stamp(self.page_file, self.results_file)

    def _further(self, paths: Mapping[str, Any], anchors: Mapping[str, Any], evaluation: Evaluation) -> list[Row]:
        """The attackers who have more than the images."""
        rows = []
        real, released = evaluation.row("real"), evaluation.rows[-1]
        if "membership" in released.results:
            rows.append(membership_row(released.results["membership"], real.results["membership"]))
        latents = load_artifact(self.latents_file, kind="latents")
        found = latents["latents"][torch.arange(len(latents["best"])), latents["best"]].flatten(1)
        path, point = select(paths, num_images=paths["num_images"]).places.unbind(1)
        points = paths["paths"][path, point].flatten(1)
        members, held_out = People(found, latents["subjects"]), People(self._held_out_latents(), self.test.subjects)
        rows.append(generator_row(members, held_out, points))
        if anchors["k"] is not None:
            rows.append(differencing(found, latents, anchors["members"], points))
        return rows

    def _held_out_latents(self) -> Tensor:
        """The held-out images' projections, [N, L], each the best of its starts."""
        test, inverter = self.test, self.inverter

        def make() -> dict[str, Tensor]:
            result = inverter(test.images[:], test.labels, test.keys)
            return {"latents": result.latents, "distances": result.distances}

        how = [*inverter.networks, inverter.settings.as_dict(), inverter.seed, test.images, test.labels, test.keys]
        part = finished_part(Path(self.work_dir) / "held-out.pt", kind="part of the audit", made_by=how, make=make)
        latents: Tensor = part["latents"][torch.arange(len(test)), part["distances"].argmin(1)]
        return latents.flatten(1)


def differencing(found: Tensor, latents: Mapping[str, Any], members: Sequence[Sequence[int]], points: Tensor) -> Row:
    """See ``differencing_row``; a patient with images of two classes counts as one in each.

    Args:
        found: projections of the members, [N, *latent].
        latents: of the stage ``invert``: "labels" and "subjects" of each.
        members: the rows of ``found`` behind each average.
        points: latents of the released images, [R, L].
    """
    found = found.flatten(1)
    rows: dict[tuple[int, str], list[int]] = defaultdict(list)
    for row, key in enumerate(zip(latents["labels"].tolist(), latents["subjects"], strict=True)):
        rows[key].append(row)
    places = {row: place for place, of_patient in enumerate(rows.values()) for row in of_patient}
    means = torch.stack([found[of_patient].mean(0) for of_patient in rows.values()])
    groups = [sorted({places[row] for row in group}) for group in members]
    people = People(means, [f"{label} {subject}" for label, subject in rows])
    return differencing_row(people, [label for label, _ in rows], groups, points)


def _of_dataset(dataset: CheckedDataset) -> ReadImages:
    return ReadImages(
        images=dataset.images[:],
        subjects=dataset.subjects,
        has_subjects=dataset.has_subjects,
        keys=dataset.keys,
        labels=dataset.labels,
        label_names=dataset.label_names,
        name="",
        digests=dataset.digests,
    )
