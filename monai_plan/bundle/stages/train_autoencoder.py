"""The stage that trains the autoencoder, through whose decoder the GAN makes its images."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

import torch
from ignite.engine import Engine
from torch import Tensor
from torch.nn import functional

from monai_plan.data import CheckedDataset
from monai_plan.metrics import FeatureStatistics, PerceptualEmbedding, frechet_distance, load_published
from monai_plan.networks import ImageAutoencoder, images_at_once, save_autoencoder
from monai_plan.utils import write_json

__all__ = ["TrainAutoencoderStage", "load_published_autoencoder"]

logger = logging.getLogger(__name__)


def load_published_autoencoder(autoencoder: ImageAutoencoder, path: str | os.PathLike[str]) -> None:
    """Load what others have trained.

    Raises:
        ArtifactError: if the file is missing, damaged, or of another architecture.
    """
    load_published(
        autoencoder.network, path, network="the autoencoder",
        file="the state dict of MONAI's AutoencoderKL (with maisi: AutoencoderKlMaisi), of the arguments that the id "
        "autoencoder holds",
        own_name=lambda key: key,
        part="unet_state_dict",  # where MAISI's later files keep it
    )  # fmt: skip


@dataclass(kw_only=True, eq=False)
class TrainAutoencoderStage:
    """Train the autoencoder, or go on with it, or take a public one, and save it. Without one, save that.

    What its reconstructions lose no GAN on its latent images brings back: their Fréchet distance is logged, as the
    least that can be had.

    Args:
        trainer: of the autoencoder; None if there is nothing to train.
        autoencoder: None if the GAN makes the images themselves.
        weights: file of the state dict of a published ``AutoencoderKL`` of the same architecture, in place of training.
        dataset: the real images.
        embedding: of the Fréchet distance.
        output_file: where it goes.
        report_file: the errors of its reconstructions, as JSON.
        device: where to compute.
    """

    trainer: Engine | None
    autoencoder: ImageAutoencoder | None
    weights: str | os.PathLike[str] | None
    dataset: CheckedDataset
    embedding: PerceptualEmbedding
    output_file: str | os.PathLike[str]
    report_file: str | os.PathLike[str]
    device: torch.device

    def run(self) -> None:
        """Train or load, measure, and save.

        Raises:
            ArtifactError: if ``weights`` is missing, damaged, or of another architecture.
        """
        coder = self.autoencoder
        report: dict[str, float] = {}
        if coder is not None:
            if self.trainer is not None:
                self.trainer.run()
            elif self.weights is not None:
                load_published_autoencoder(coder, self.weights)
            coder.to(self.device).eval().requires_grad_(False)
            coder.standardize([self._batch(rows) for rows in self._rows()])
            report = self._report(coder)
            logger.info(
                "the autoencoder's reconstructions: mean absolute error %.3g, Fréchet distance %.3g, the least that a "
                "GAN behind it can have", report["mean_absolute_error"], report["frechet"],
            )  # fmt: skip
        save_autoencoder(coder, self.output_file, made_by={"data": self.dataset.made_of})
        write_json(self.report_file, report)

    def _rows(self) -> tuple[Tensor, ...]:
        return torch.arange(len(self.dataset)).split(images_at_once(self.dataset.images.shape[2:]))

    def _batch(self, rows: Tensor) -> Tensor:
        return self.dataset.images[rows].to(self.device, torch.float32)

    @torch.no_grad()
    def _report(self, coder: ImageAutoencoder) -> dict[str, float]:
        """Mean absolute error and Fréchet distance of the reconstructions of the training images."""
        embedding, error = self.embedding.to(self.device), 0.0
        real, made = FeatureStatistics(), FeatureStatistics()
        for rows in self._rows():
            images = self._batch(rows)
            again = coder.decode(coder.encode(images)).clamp(-1, 1)
            error += functional.l1_loss(again, images).item() * len(rows) / len(self.dataset)
            real.add(embedding.pooled(images).cpu())
            made.add(embedding.pooled(again).cpu())
        return {"mean_absolute_error": error, "frechet": float(frechet_distance(made, real))}
