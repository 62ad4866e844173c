"""The stage that makes the anchors: averages of at least k patients in the latent space."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

import torch

from monai_plan.latent import k_same
from monai_plan.utils import load_artifact, save_artifact

__all__ = ["AggregateStage"]

logger = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False)
class AggregateStage:
    """k-same: save the centroids of groups of at least k patients of one class, the anchors of the walks.

    Writes a file of kind "anchors": ``latents`` [A, w_dim] or [A, num_ws, w_dim], ``labels`` [A], ``members``
    (indices of images), ``k``.

    Args:
        latents_file: of the stage ``invert``; the best start of every image is used.
        output_file: where to save.
        k: patients in a group, at least.
        seed: breaks ties.
    """

    latents_file: str | os.PathLike[str]
    output_file: str | os.PathLike[str]
    k: int
    seed: int = 0

    def run(self) -> None:
        """Average, and save."""
        data = load_artifact(self.latents_file, kind="latents")
        best = data["latents"][torch.arange(len(data["best"])), data["best"]]
        anchors = k_same(best, data["labels"], data["subjects"], self.k, seed=self.seed)
        logger.info("%d anchors of %d or more patients each", len(anchors.labels), self.k)
        save_artifact(
            self.output_file,
            kind="anchors",
            data={"latents": anchors.latents, "labels": anchors.labels, "members": anchors.members, "k": self.k},
            made_by={"k": self.k, "seed": self.seed},
        )
