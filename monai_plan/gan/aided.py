"""Two discriminators as one, and the discriminator that goes with an objective."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from monai_plan.gan.losses import gan_objective
from monai_plan.gan.projected import DecodedDiscriminator, ProjectedDiscriminator
from monai_plan.networks import ImageAutoencoder, StyleGAN2Discriminator
from monai_plan.networks.layers import full_size
from monai_plan.utils import ConfigError


class AidedDiscriminator(nn.Module):
    """A discriminator that learns from the images alone, and one on pretrained features beside it.

    For the objective "aided" (Kumari et al., "Ensembling Off-the-shelf Models for GAN Training", CVPR 2022, arXiv
    2112.09130). Features show the generator within minutes what an image is made of, but alone they let the samples of
    different latents grow alike; what learns from the images keeps them apart, but needs long to begin.

    Args:
        own: images, labels → logits [B]; what R1 regularises.
        aid: images, labels → logits [B, L].

    Raises:
        ConfigError: if the two are for different numbers of classes.
    """

    def __init__(self, own: StyleGAN2Discriminator, aid: ProjectedDiscriminator | DecodedDiscriminator):
        super().__init__()
        if own.num_classes != aid.num_classes:
            raise ConfigError(f"own knows {own.num_classes} classes, aid {aid.num_classes}: make both for as many.")
        self.own, self.aid = own, aid
        self.num_classes = own.num_classes

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits [B, 1 + L], float32, that of ``own`` first; arguments and errors are those of the two."""
        return self.judge(images, labels)[0]

    def judge(self, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The logits of ``forward``, and those that each class would have had from ``own``, [B, num_classes]."""
        own, classes = self.own.judge(images, labels)
        return torch.cat([own[:, None].float(), self.aid(images, labels)], dim=1), classes


def gan_discriminator(
    objective: str,
    spatial_dims: int,
    img_size: int | Sequence[int],
    img_channels: int,
    num_classes: int = 0,
    *,
    channel_base: int = 16384,
    channel_max: int = 512,
    backbone: str = "efficientnet_lite0",
    weights: str | os.PathLike[str] | None = None,
    feature_size: int | None = None,
    autoencoder: ImageAutoencoder | None = None,
    seed: int = 0,
) -> nn.Module:
    """The discriminator that an objective is played with.

    Where the generator makes the latent images of an autoencoder, that is what it sees, but pretrained features are
    those of the images that the decoder makes of them.

    Args:
        objective: "logistic" and "relativistic" take a ``StyleGAN2Discriminator``, "hinge" a
            ``ProjectedDiscriminator``, "aided" both in an ``AidedDiscriminator``.
        spatial_dims: 2 or 3; 2 alone where there are pretrained features.
        img_size: as in ``StyleGAN2Generator``.
        img_channels: image channels; 1 or 3 where there are pretrained features.
        num_classes: number of classes; 0 for none.
        channel_base, channel_max: of the ``StyleGAN2Discriminator``.
        backbone, weights, feature_size, seed: of the ``ProjectedDiscriminator``.
        autoencoder: the one whose latent images are generated; None: images are.

    Raises:
        ConfigError: if the objective is not known or the arguments do not fit the networks.
        ArtifactError: if the file of the backbone's weights is missing, damaged or of another network.

    Example:
        >>> discriminator = gan_discriminator("aided", 2, 32, 1, num_classes=2, backbone="random")
        >>> discriminator(torch.zeros(4, 1, 32, 32), torch.tensor([0, 1, 0, 1])).shape
        torch.Size([4, 17])
    """
    gan_objective(objective)  # refuses what is none
    size = full_size(img_size, spatial_dims)
    judged = (size, img_channels) if autoencoder is None else autoencoder.latent_shape(size)
    widths = {"channel_base": channel_base, "channel_max": channel_max}
    own = partial(StyleGAN2Discriminator, spatial_dims, *judged, num_classes, **widths)
    if objective in ("logistic", "relativistic"):
        return own()
    features = ProjectedDiscriminator(
        spatial_dims, size, img_channels, num_classes,
        backbone=backbone, weights=weights, feature_size=feature_size, seed=seed,
    )  # fmt: skip
    aid = features if autoencoder is None else DecodedDiscriminator(features, autoencoder)
    return aid if objective == "hinge" else AidedDiscriminator(own(), aid)
