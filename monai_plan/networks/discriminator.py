"""The discriminator of StyleGAN2 in two and three dimensions; see ``stylegan2`` for the sources."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from monai_plan.networks.layers import (
    GAIN,
    EqualizedConv,
    EqualizedLinear,
    activate,
    channels_at,
    fast_layout,
    full_size,
    one_hot_labels,
    second_moment,
    start_shape,
)

__all__ = ["StyleGAN2Discriminator", "minibatch_stddev"]


class DiscriminatorBlock(nn.Module):
    """One resolution of the residual discriminator: two convolutions, the second halves the image."""

    def __init__(self, spatial_dims: int, in_channels: int, out_channels: int):
        super().__init__()
        ones = (1,) * spatial_dims
        self.conv0 = EqualizedConv(spatial_dims, in_channels, in_channels, 3)
        self.bias0 = nn.Parameter(torch.zeros(in_channels, *ones))
        self.conv1 = EqualizedConv(spatial_dims, in_channels, out_channels, 3, down=True)
        self.bias1 = nn.Parameter(torch.zeros(out_channels, *ones))
        self.skip = EqualizedConv(spatial_dims, in_channels, out_channels, 1, down=True)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.skip(x, gain=math.sqrt(0.5))
        x = activate(self.conv0(x, self.bias0, gain=GAIN), gain=1.0)
        return skip + activate(self.conv1(x, self.bias1), gain=1.0)  # √2 · √½ = 1: the sum keeps the variance


GROUP_SIZE = 4  # images in a group of the minibatch standard deviation


def minibatch_stddev(x: Tensor, group_size: int) -> Tensor:
    """Append one channel with the mean standard deviation over groups of the batch (arXiv 1710.10196).

    The batch is split into groups of at most ``group_size`` that divide it, of images a stride apart.
    """
    batch = x.shape[0]
    group = next(g for g in range(min(group_size, batch), 0, -1) if batch % g == 0)
    groups = x.float().reshape(group, batch // group, -1)
    variance = (groups - groups.mean(0)).square().mean(0)  # on a CPU several times as fast as var
    deviation = (variance + 1e-8).sqrt().mean(1)
    channel = deviation.repeat(group).view(batch, 1, *(1,) * (x.ndim - 2)).expand(-1, 1, *x.shape[2:])
    return torch.cat([x, channel.to(x.dtype)], dim=1)


class StyleGAN2Discriminator(nn.Module):
    """The residual StyleGAN2 discriminator in two or three dimensions, with projection on the label.

    Args:
        spatial_dims: 2 or 3.
        img_size: as in ``StyleGAN2Generator``.
        img_channels: image channels.
        num_classes: number of classes of the projection (arXiv 1802.05637); 0 for none.
        channel_base, channel_max: as in ``StyleGAN2Generator``.

    Raises:
        ConfigError: if ``spatial_dims`` or ``img_size`` cannot work.
    """

    def __init__(
        self,
        spatial_dims: int,
        img_size: int | Sequence[int],
        img_channels: int,
        num_classes: int = 0,
        *,
        channel_base: int = 16384,
        channel_max: int = 512,
    ):
        super().__init__()
        size = full_size(img_size, spatial_dims)
        start, doublings = start_shape(size)
        self.num_classes = num_classes
        widths = [
            channels_at([s * 2**level for s in start], channel_base, channel_max) for level in range(doublings, -1, -1)
        ]
        ones = (1,) * spatial_dims
        self.from_image = EqualizedConv(spatial_dims, img_channels, widths[0], 1)
        self.from_image_bias = nn.Parameter(torch.zeros(widths[0], *ones))
        self.blocks = nn.ModuleList(DiscriminatorBlock(spatial_dims, a, b) for a, b in itertools.pairwise(widths))
        self.conv = EqualizedConv(spatial_dims, widths[-1] + 1, widths[-1], 3)
        self.bias = nn.Parameter(torch.zeros(widths[-1], *ones))
        self.fc = EqualizedLinear(widths[-1] * math.prod(start), widths[-1])
        self.embed = EqualizedLinear(num_classes, widths[-1]) if num_classes else None
        self.out = EqualizedLinear(widths[-1], widths[-1] if num_classes else 1)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images [B, C, *img_size] in [-1, 1] and, if there are classes, labels [B] → logits [B], positive for "real".

        Raises:
            ValueError: if labels are missing or out of range.
        """
        return self.judge(images, labels)[0]

    def judge(self, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The logits of ``forward``, and those that each class would have had, [B, max(num_classes, 1)].

        By Bayes' rule the latter, seen as those of a classifier, tell the class of an image (arXiv 1802.05637).
        """
        x = activate(self.from_image(fast_layout(images), self.from_image_bias, gain=GAIN), gain=1.0)
        for block in self.blocks:
            x = block(x)
        with torch.autocast(images.device.type, enabled=False):  # float32 in mixed precision too, as published
            x = minibatch_stddev(x.float(), GROUP_SIZE)
            x = activate(self.conv(x, self.bias, gain=GAIN), gain=1.0)
            x = self.out(activate(self.fc(x.flatten(1))))
            if self.embed is None:
                return x.squeeze(1), x
            targets = second_moment(self.embed(torch.eye(self.num_classes, device=x.device)))
            logits = x @ targets.T / math.sqrt(x.shape[1])
            return (logits * one_hot_labels(labels, self.num_classes, len(x))).sum(1), logits
