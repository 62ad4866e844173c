"""The stage that trains the GAN."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ignite.engine import Engine

from monai_plan.bundle.same_data import check_same_data
from monai_plan.data import CheckedDataset
from monai_plan.gan import BestGenerator
from monai_plan.networks import ImageAutoencoder, StyleGAN2Generator

__all__ = ["TrainStage"]


@dataclass(kw_only=True, eq=False)
class TrainStage:
    """Train the GAN, or go on with it, and save the generator.

    Args:
        trainer: with the handlers that it needs.
        dataset: the real images.
        autoencoder: whose latent images the GAN learns; None: it learns the images.
        ema: the moving average of the generator, G.
        best: among the handlers the one that keeps the best generator.
        output_file: where G goes.
        use_best: save the best generator that was measured, or the last one.
    """

    trainer: Engine
    dataset: CheckedDataset
    autoencoder: ImageAutoencoder | None
    ema: StyleGAN2Generator
    best: BestGenerator
    output_file: str | os.PathLike[str]
    use_best: bool = True

    def run(self) -> None:
        """Train, and save.

        Raises:
            DataError: if the autoencoder was trained on other images, classes or patients.
        """
        check_same_data(self.dataset, autoencoder=self.autoencoder)
        self.trainer.run()
        self.best.save(self.ema, self.output_file, use_best=self.use_best)
