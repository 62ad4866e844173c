"""The tables of PLAN's paper, by its own protocol: the walk and the straight line, between random points and
averages."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from monai_plan.audit import AuditInputs, ImageSet, evaluate
from monai_plan.bundle.anchor_maker import AnchorMaker
from monai_plan.bundle.stages.anchors import AnchorsStage
from monai_plan.bundle.stages.evaluate import straight_paths
from monai_plan.bundle.stages.walk import WalkStage
from monai_plan.engines import ClassifierSettings
from monai_plan.latent import LatentWalk, SelectionSettings
from monai_plan.release import load_paths, select, synthesize_images
from monai_plan.utils import ConfigError, write_text

__all__ = ["EvaluatePaperStage"]

RANDOM = SelectionSettings(candidates=1, truncation=1.0, min_class_probability=0.0, latent_share=0.0)

logger = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False)
class EvaluatePaperStage:
    """Make the rows of the paper's two tables and measure them as the report does (Pennisi et al., arXiv 2307.02984).

    "linear" and "PLAN" lie between random points of G's distribution; "k = 5, linear" and "k = 5, PLAN" between
    averages of at least 5 patients of a class. Either has as many images as there are real ones, or as its paths give,
    and nothing is checked or chosen, as published. The images stay in memory, and what is written is private.

    Args:
        anchor_maker: makes the ends of the paths.
        walk: the published walk.
        k: patients behind an average, at least; what a class has too few patients for is left out, with a warning.
        class_network: makes an untrained classifier for the utility and the membership attack.
        settings: of its training.
        augment: a MONAI dictionary transform over ``"image"``, for its training.
        seeds: classifiers per row.
        results_file, table_file: the table as JSON and as Markdown.
        work_dir: private folder of anchors, paths and finished parts.
        seed: of everything that is drawn.
    """

    anchor_maker: AnchorMaker
    walk: LatentWalk
    k: Sequence[int]
    class_network: Callable[[], nn.Module]
    settings: ClassifierSettings
    augment: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    seeds: int
    results_file: str | os.PathLike[str]
    table_file: str | os.PathLike[str]
    work_dir: str | os.PathLike[str]
    seed: int = 0

    def run(self) -> None:
        """Make the rows, measure them, and write the table.

        Raises:
            ConfigError: if an average is to be of fewer than two patients.
        """
        if any(k < 2 for k in self.k):
            raise ConfigError(f"paper_k is {list(self.k)}, but an average of fewer than 2 patients hides nobody.")
        maker = self.anchor_maker
        inputs = AuditInputs(
            train=maker.training,
            test=maker.test,
            embedding=maker.embedding,
            classifier_factory=self.class_network,
            settings=self.settings,
            cache_dir=Path(self.work_dir) / "parts",
            identity_net=maker.identity_net,
            seeds=self.seeds,
            seed=self.seed,
            augment=self.augment,
            device=maker.device,
        )
        rows = self._rows("", replace(maker, selection=RANDOM, min_distance_quantile=None))
        for k in self.k:
            if maker.most_k < 2 * k:  # of one average there is no path
                logger.warning("k = %d is left out: the smallest class has %d patients", k, maker.most_k)
                continue
            rows += self._rows(f"k = {k}, ", replace(maker, k=k, min_distance_quantile=None))
        evaluation = evaluate(rows, inputs)
        write_text(self.results_file, evaluation.to_json() + "\n")
        write_text(self.table_file, evaluation.to_markdown())

    def _rows(self, prefix: str, maker: AnchorMaker) -> list[ImageSet]:
        """The straight line and the walk between the same ends."""
        folder = Path(self.work_dir) / (f"k_{maker.k}" if prefix else "random")
        kind = "k_same" if prefix else "prior"
        anchors, paths_file = folder / "anchors.pt", folder / "paths.pt"
        AnchorsStage(
            maker=maker, output_file=anchors, kind=kind, walk="plan", num_points=self.walk.settings.num_points
        ).run()
        WalkStage(
            walk=self.walk, anchors_file=anchors, dataset=maker.training, test=maker.test, output_file=paths_file,
            parts_dir=folder / "walks", embedding=maker.embedding, seed=self.seed,
        ).run()  # fmt: skip
        paths = load_paths(paths_file)
        path, point = select(paths, num_images=paths["num_images"]).places.unbind(1)
        labels = paths["labels"][path]
        ways: dict[str, torch.Tensor] = {"linear": straight_paths(paths["paths"]), "PLAN": paths["paths"]}
        return [
            ImageSet(prefix + name, synthesize_images(self.walk.generator, latents[path, point]), labels)
            for name, latents in ways.items()
        ]
