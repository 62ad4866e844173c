"""The stage that makes the anchors: the safe points between which the walks go, or which leave themselves."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

from monai_plan.bundle.anchor_maker import AnchorMaker
from monai_plan.bundle.same_data import made_of
from monai_plan.bundle.stages.walk import class_counts
from monai_plan.latent import Anchors
from monai_plan.utils import save_artifact

__all__ = ["AnchorsStage"]

logger = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False)
class AnchorsStage:
    """Save the anchors: points of G's own distribution, or averages of at least k patients.

    Of the first kind there are as many as the images asked for need: one per image where nothing is walked, else two
    per path. Writes a file of kind "anchors": ``latents`` [A, w_dim] or [A, num_ws, w_dim], ``labels`` [A],
    ``members`` (indices of images) and ``k``; points of G's own distribution have no members, and their k is None.

    Args:
        maker: makes either kind.
        output_file: where to save.
        kind: "prior" or "k_same".
        walk: "plan" or "none", see ``WalkStage``.
        num_points: T of the walk.
        num_images, balance: see ``class_counts``.
    """

    maker: AnchorMaker
    output_file: str | os.PathLike[str]
    kind: str
    walk: str
    num_points: int
    num_images: int | None = None
    balance: str = "real"

    def run(self) -> None:
        """Make them, and save."""
        self.maker.check()
        anchors = self.maker.prior(self._wanted()) if self.kind == "prior" else self.maker.k_same()
        of = "G's own distribution" if anchors.k is None else f"{anchors.k} or more patients each"
        logger.info("%d anchors of %s", len(anchors.labels), of)
        save_artifact(
            self.output_file,
            kind="anchors",
            data={"latents": anchors.latents, "labels": anchors.labels, "members": anchors.members, "k": anchors.k},
            made_by={
                "kind": self.kind,
                "k": anchors.k,
                "selection": self._selection(anchors) if anchors.k is None else None,
                "seed": self.maker.seed,
                "data": made_of(self.maker.training),
            },
        )

    def _selection(self, anchors: Anchors) -> str:
        """In words, for the card."""
        less_sure, number = anchors.less_sure, len(anchors.labels)
        exceptions = f"; φ_class is less sure of {less_sure} of {number}" if less_sure else ""
        return f"{self.maker.selection}{exceptions}"

    def _wanted(self) -> dict[int, int]:
        """Points of each class that the images asked for need."""
        images = class_counts(self.maker.training.labels, num_images=self.num_images, balance=self.balance)
        if self.walk == "none":
            return images
        # four give six pairs: what the final check drops of a small class is replaced
        return {label: max(2 * -(-number // self.num_points), 4) for label, number in images.items()}
