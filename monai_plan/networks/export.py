"""The generator as other tools want it: one tensor in, one image out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from torch import Tensor, nn
from torch.nn import functional

from monai_plan.networks.checkpoint import load_generator
from monai_plan.networks.stylegan2 import StyleGAN2Generator
from monai_plan.utils import ArtifactError, ConfigError, seeded_generator


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

    def __prepare_scriptable__(self) -> nn.Module:
        """What ``torch.jit.script`` compiles in place of this: a trace of it, for any number of images.

        The model zoo exports every network by scripting, which cannot compile keyword-only options and constants that
        are chosen by the number of axes. Nothing here branches on values, so that a trace says all.
        """
        training = self.training
        try:
            example = torch.zeros(2, self.z_dim + self.num_classes, device=self.mapping.w_avg.device)
            return _Scriptable(torch.jit.trace(self.eval(), example, check_trace=False))
        finally:
            self.train(training)


class _Scriptable(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, latent: Tensor) -> Tensor:
        return self.network(latent)


def one_input_generator(
    path: str | os.PathLike[str] | None = None, *, spatial_dims: int, img_size: int | Sequence[int], **options: Any
) -> OneInputGenerator:
    """A StyleGAN2 whose z and label come in one tensor: that of a file, or an untrained one of a given architecture.

    Args:
        path: a file that ``save_generator`` wrote; None builds an untrained one.
        spatial_dims, img_size, options: see ``StyleGAN2Generator``; a file says itself what it holds.

    Returns:
        On the CPU and in eval mode; that of a file is frozen.

    Raises:
        ArtifactError: as ``load_generator``, or if the file holds another decoder.
        ConfigError: if such a network cannot be built.
    """
    if path is None:
        return OneInputGenerator(spatial_dims, img_size, **options).eval()
    generator = load_generator(path)
    if not isinstance(generator, StyleGAN2Generator):
        raise ArtifactError(f"{path} holds a {type(generator).__name__}, but a StyleGAN2Generator was expected.")
    network = OneInputGenerator(**generator.architecture)
    network.load_state_dict(generator.state_dict())
    return network.eval().requires_grad_(False)


def latent_items(
    z_dim: int, num_classes: int, *, num_images: int, label: int | None = None, seed: int = 0
) -> list[dict[str, Tensor]]:
    """What ``OneInputGenerator`` takes, as items of a MONAI data set.

    Args:
        z_dim: length of z.
        num_classes: classes of the generator; 0 for an unconditional one.
        num_images: how many.
        label: the class of all images; None: the classes take turns.
        seed: of z.

    Returns:
        ``{"image": [z_dim + num_classes]}``: z ~ N(0, I), and behind it a one-hot label, if there are classes. A
        MetaTensor whose file name, ``class_1_0007``, is what ``SaveImage`` gives the image that is made of it.

    Raises:
        ConfigError: if there is no class ``label``.
    """
    if label is not None and label not in range(num_classes):
        raise ConfigError(f"label is {label}, but the generator has the classes 0 to {num_classes - 1}: take one.")
    z = torch.randn(num_images, z_dim, generator=seeded_generator(seed, "inference"))
    labels = torch.arange(num_images) % max(num_classes, 1) if label is None else torch.full((num_images,), label)
    if num_classes:
        z = torch.cat([z, functional.one_hot(labels, num_classes)], dim=1)
    names = [f"class_{y}_{number:04d}" if num_classes else f"{number:04d}" for number, y in enumerate(labels.tolist())]
    return [{"image": MetaTensor(row, meta={"filename_or_obj": name})} for row, name in zip(z, names, strict=True)]
