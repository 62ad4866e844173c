"""A generator from a file, with which an audit projects images: the inversion of the run, without its encoder."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from monai_plan.latent import InversionSettings, LatentInverter
from monai_plan.metrics import RandomFeatureEmbedding
from monai_plan.networks import load_generator
from monai_plan.utils import ArtifactError, ConfigError

__all__ = ["FileProjector"]

STEPS, RATE = 60, 0.2  # of the projection, from one start


class FileProjector:
    """See ``monai_plan.audit.projection.Projector``. Images are compared by random features, which need no weights.

    Args:
        file: the generator, as ``save_generator`` wrote it.
        seed: of the projection.
        device: where to compute.

    Raises:
        ArtifactError: if the file is missing.
        ConfigError: if it holds no generator, or is damaged.
    """

    def __init__(self, file: str | os.PathLike[str], *, seed: int = 0, device: torch.device | str = "cpu") -> None:
        try:
            generator = load_generator(file)
        except ArtifactError as error:
            if not os.path.isfile(file):
                raise
            raise ConfigError(
                f"{file} is no generator, or was damaged: give --generator the model.pt of the run, such as "
                "OUT/private/model.pt."
            ) from error
        self.img_size, self.img_channels = tuple(generator.img_size), generator.img_channels
        self.num_classes = generator.num_classes
        settings = InversionSettings.fast(steps=STEPS, lr=RATE, starts=1)
        self.inverter = LatentInverter(
            generator,
            RandomFeatureEmbedding(len(self.img_size), self.img_channels),
            settings=settings,
            seed=seed,
            device=device,
        )
        self.made_by = [*self.inverter.networks, settings.as_dict(), seed]

    def __call__(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """[N, L], see the protocol."""
        names = [str(number) for number in range(len(images))]
        return self.inverter(images, labels, names).best_latents.flatten(1)
