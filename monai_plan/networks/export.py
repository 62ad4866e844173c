"""The generator as other tools want it: one tensor in, one image out."""

from __future__ import annotations

import os

import torch
from torch import Tensor
from torch.nn import functional

from monai_plan.networks.checkpoint import load_generator
from monai_plan.networks.stylegan2 import StyleGAN2Generator
from monai_plan.utils import ArtifactError, seeded_generator


class OneInputGenerator(StyleGAN2Generator):
    """A ``StyleGAN2Generator`` whose z and label come in one tensor.

    For MONAI's ``ckpt_export`` and ``onnx_export``: TorchScript and ONNX want one floating point input and no options.
    The arguments and the weights are those of ``StyleGAN2Generator``.
    """

    def forward(self, latent: Tensor) -> Tensor:  # type: ignore[override]
        """[B, z_dim + num_classes] → [B, C, *img_size], about [-1, 1], not clamped; with constant noise.

        The input is z, standard normal, and behind it a one-hot label, if there are classes.
        """
        z, one_hot = latent[:, : self.z_dim], latent[:, self.z_dim :]
        return self.synthesis(self.mapping(z, one_hot.argmax(1) if self.num_classes else None), noise_mode="const")


def load_one_input_generator(path: str | os.PathLike[str]) -> OneInputGenerator:
    """The StyleGAN2 that ``save_generator`` wrote, with z and label in one tensor, on the CPU and in eval mode.

    Raises:
        ArtifactError: as ``load_generator``, or if the file holds another decoder.
    """
    generator = load_generator(path)
    if not isinstance(generator, StyleGAN2Generator):
        raise ArtifactError(f"{path} holds a {type(generator).__name__}, but a StyleGAN2Generator was expected.")
    network = OneInputGenerator(**generator.architecture)
    network.load_state_dict(generator.state_dict())
    return network.eval().requires_grad_(False)


def latent_items(z_dim: int, num_classes: int, *, num_images: int, seed: int = 0) -> list[dict[str, Tensor]]:
    """What ``OneInputGenerator`` takes, as items of a MONAI data set.

    Args:
        z_dim: length of z.
        num_classes: classes that take turns; 0 for an unconditional generator.
        num_images: how many.
        seed: of z.

    Returns:
        ``{"image": [z_dim + num_classes]}``: z ~ N(0, I), and behind it a one-hot label, if there are classes.
    """
    z = torch.randn(num_images, z_dim, generator=seeded_generator(seed, "inference"))
    if num_classes:
        labels = functional.one_hot(torch.arange(num_images) % num_classes, num_classes)
        z = torch.cat([z, labels], dim=1)
    return [{"image": row} for row in z]
