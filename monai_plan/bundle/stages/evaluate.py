"""The last stage: the table of the paper, made from what is released, and the report."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from monai_plan.audit import AuditInputs, ImageSet, evaluate, write_report
from monai_plan.bundle.anchor_maker import AnchorMaker
from monai_plan.bundle.path_figure import choose_path, path_section
from monai_plan.bundle.same_data import check_same_data
from monai_plan.bundle.stages.synthesize import how_made
from monai_plan.data import CheckedDataset
from monai_plan.engines import ClassifierSettings, predict_probabilities
from monai_plan.latent import linear_path
from monai_plan.metrics import Images, PerceptualEmbedding
from monai_plan.networks import LatentDecoder
from monai_plan.release import Release, load_paths, select, shared_spacing, stamp, synthesize_images
from monai_plan.utils import load_artifact, write_text

__all__ = ["EvaluateStage"]

logger = logging.getLogger(__name__)

SAMPLES_SHOWN = 16
SELECTION = "selection"
_CHECKED = "images near to a real one were dropped; so the distance of the release is no independent finding"


@dataclass(kw_only=True, eq=False)
class EvaluateStage:
    """Compare real images, the release and what it has to beat, and write the report.

    The row "PLAN", or "selection" where nothing is walked, is what lies in ``release/``, read back by its own value
    range. Beside it: "linear", the same points of the straight paths between the same anchors; "selection", as many
    chosen points of G's own distribution without any walk; "k-same", the averages of k patients.

    Args:
        training: real training images.
        test: real images of other patients.
        released: the synthetic data set as it was written.
        generator: G.
        paths_file: of the stage ``walk``.
        anchors_file: of the stage ``anchors``.
        anchor_maker: makes the points of the rows that are compared.
        embedding: of the perceptual and the Fréchet distance.
        identity_net: φ_id.
        class_net: φ_class.
        class_network: makes an untrained classifier for the utility and the membership attack.
        settings: of its training.
        augment: a MONAI dictionary transform over ``"image"``, for its training.
        seeds: classifiers per row.
        audit_page: name of the page of the stage ``audit`` beside the report, to be linked.
        report_file, results_file, table_file: the report, and the table as JSON and as Markdown; may leave.
        private_results_file: JSON with all figures and all their digits.
        figures_dir: folder of the report's pictures; may leave.
        private_figures_dir: folder of pictures with real images.
        work_dir: private folder of finished parts.
        seed: of everything that is drawn.
        device: where to compute.
    """

    training: CheckedDataset
    test: CheckedDataset
    released: Release
    generator: LatentDecoder
    paths_file: str | os.PathLike[str]
    anchors_file: str | os.PathLike[str]
    anchor_maker: AnchorMaker
    embedding: PerceptualEmbedding
    identity_net: nn.Module
    class_net: nn.Module
    class_network: Callable[[], nn.Module]
    settings: ClassifierSettings
    augment: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    seeds: int
    report_file: str | os.PathLike[str]
    results_file: str | os.PathLike[str]
    table_file: str | os.PathLike[str]
    private_results_file: str | os.PathLike[str]
    figures_dir: str | os.PathLike[str]
    private_figures_dir: str | os.PathLike[str]
    work_dir: str | os.PathLike[str]
    audit_page: str | None = None
    seed: int = 0
    device: torch.device | str = "cpu"

    def run(self) -> None:
        """Make the table and write the report."""
        training, paths = self.training, load_paths(self.paths_file)
        anchors = load_artifact(self.anchors_file, kind="anchors")
        check_same_data(
            training,
            generator=self.generator,
            anchors=anchors,
            paths=paths,
            identity_net=self.identity_net,
            class_net=self.class_net,
        )
        walked = paths["header"]["made_by"]["settings"] is not None
        released = ImageSet("PLAN" if walked else SELECTION, self.released.images, torch.tensor(self.released.labels))
        inputs = AuditInputs(
            train=training,
            test=self.test,
            embedding=self.embedding,
            classifier_factory=self.class_network,
            settings=self.settings,
            cache_dir=self.work_dir,
            identity_net=self.identity_net,
            seeds=self.seeds,
            seed=self.seed,
            augment=self.augment,
            device=self.device,
        )
        straight = _straight(paths) if walked else None
        evaluation = evaluate([*self._to_compare(paths, straight), released], inputs)
        held_out = evaluation.row("real").results["distance"]["mean"]
        sections = []
        if straight is not None:
            figure = choose_path(training, self.generator, straight, paths, self.embedding, held_out, self.device)
            sections.append(path_section(figure, evaluation.embedding_title))
        names = training.label_names
        write_report(
            evaluation,
            judged=released.name,
            report_file=self.report_file,
            figures_dir=self.figures_dir,
            private_figures_dir=self.private_figures_dir,
            samples=_samples(released.images, released.labels, names),
            real_samples=_samples(training.images, training.labels, names),
            voxel_size=shared_spacing(training.patients_affines),
            parameters=self._parameters(paths, anchors, released),
            sections=sections,
            audit_page=self.audit_page,
            made=f"Images made by {released.name} (method: PLAN, Pennisi et al., MICCAI 2023, arXiv 2307.02984)",
        )
        write_text(self.private_results_file, evaluation.to_json() + "\n")
        write_text(self.results_file, evaluation.released().to_json() + "\n")
        write_text(self.table_file, evaluation.to_markdown())
        stamp(self.report_file, self.results_file, self.table_file, self.figures_dir)

    def _to_compare(self, paths: Mapping[str, Any], straight: Tensor | None) -> list[ImageSet]:
        """The rows between "real" and the release; without straight paths the release is the selection."""
        rows = []
        if straight is not None:
            path, point = select(paths, num_images=paths["num_images"]).places.unbind(1)
            images = synthesize_images(self.generator, straight[path, point])
            rows.append(ImageSet("linear", images, paths["labels"][path]))
            selected = self.anchor_maker.prior(paths["num_images"])
            rows.append(ImageSet(SELECTION, synthesize_images(self.generator, selected.latents), selected.labels))
        if self.anchor_maker.most_k >= self.anchor_maker.k:
            averages = self.anchor_maker.k_same()
            images = synthesize_images(self.generator, averages.latents)
            note = (
                f"k-same has only as many images as there are groups of {self.anchor_maker.k} patients: {len(images)}."
            )
            rows.append(ImageSet("k-same", images, averages.labels, note))
        else:
            logger.warning(
                "no row k-same: k is %d, but the smallest class has %d patients; take a smaller k to see it",
                self.anchor_maker.k, self.anchor_maker.most_k,
            )  # fmt: skip
        return rows

    def _parameters(
        self, paths: Mapping[str, Any], anchors: Mapping[str, Any], released: ImageSet
    ) -> dict[str, object]:
        """What made the images, and what is known of them besides the table."""
        made_by = paths["header"]["made_by"]
        probabilities = predict_probabilities(
            self.class_net, released.images, batch_size=self.settings.batch_size, device=self.device
        )
        kept = (probabilities.argmax(1) == released.labels).double().mean().item()
        made = how_made(paths, anchors, has_subjects=self.training.has_subjects)
        losses = {}
        if paths["losses"]:
            straight, walked = paths["losses"]["identity"].mean(0)[[0, -1]].tolist()
            losses = {"L_id per path, straight line": straight, "L_id per path, after the walk": walked}
        return {
            "images": made["images"],
            "walk": made["walk"],
            "final check": "none" if made_by["min_distance_quantile"] is None else _CHECKED,
            **losses,
            "released images that φ_class assigns to their class": f"{100 * kept:.1f} %",
            "classifiers per row": self.seeds,
        }


def _straight(paths: Mapping[str, Any]) -> Tensor:
    """[P, T, *latent], the straight paths between the same ends."""
    num_points = paths["paths"].shape[1]
    return torch.stack([linear_path(path[0], path[-1], num_points) for path in paths["paths"]])


def _samples(images: Images, labels: Tensor, names: Mapping[int, str]) -> dict[str, Tensor]:
    """By the name of the class, some images spread evenly over all of it."""
    samples = {}
    for label, name in names.items():
        of_class = torch.where(labels == label)[0]
        spread = torch.linspace(0, len(of_class) - 1, min(SAMPLES_SHOWN, len(of_class))).long()
        samples[name] = images[of_class[spread]]
    return samples
