"""StyleGAN2 in two and three dimensions, class-conditional, in plain PyTorch.

Sources: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020, arXiv 1912.04958 (modulated
convolution, skip generator, residual discriminator), and "Training Generative Adversarial Networks with Limited Data",
NeurIPS 2020, arXiv 2006.06676 (conditioning by an embedded label beside z, projection in the discriminator).

One form differs from the published code and gives the same numbers: a modulated convolution scales the activations
instead of making one set of weights per sample.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_plan.networks.decoder import LatentDecoder, register_decoder
from monai_plan.utils import ConfigError

__all__ = ["MappingNetwork", "StyleGAN2Discriminator", "StyleGAN2Generator", "SynthesisNetwork"]

_CONV = {2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {2: F.conv_transpose2d, 3: F.conv_transpose3d}


def full_size(img_size: int | Sequence[int], spatial_dims: int) -> tuple[int, ...]:
    """One length per axis, from one number or one per axis.

    Raises:
        ConfigError: if ``spatial_dims`` is not 2 or 3, or ``img_size`` is of another number of axes.
    """
    if spatial_dims not in (2, 3):
        raise ConfigError(f"spatial_dims is {spatial_dims}, but must be 2 or 3.")
    size = (img_size,) * spatial_dims if isinstance(img_size, int) else tuple(img_size)
    if not all(isinstance(length, int) for length in size):
        raise ConfigError(f"img_size is {size}, but must be whole numbers.")
    if len(size) != spatial_dims:
        raise ConfigError(f"img_size is {size}, but spatial_dims is {spatial_dims}: give as many lengths.")
    return size


def start_shape(img_size: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """Split an image size into a start shape and a number of doublings: ``img_size = start * 2 ** doublings``.

    As many doublings as every axis allows with a start of at least 4.

    Raises:
        ConfigError: if no doubling is possible.
    """
    doublings = 0
    size = tuple(img_size)
    while all(s % 2 == 0 and s // 2 >= 4 for s in size):
        size = tuple(s // 2 for s in size)
        doublings += 1
    if doublings == 0:
        raise ConfigError(
            f"img_size {tuple(img_size)} is no start shape times a power of two: every axis must be even and at least "
            "8; resize the images, for instance to 64 or 96 per axis."
        )
    return size, doublings


def channels_at(size: Sequence[int], channel_base: int, channel_max: int) -> int:
    """Feature channels of a block whose longest axis has ``max(size)`` elements (StyleGAN2's rule)."""
    return max(min(channel_base // max(size), channel_max), 1)


def smoothing_kernel(spatial_dims: int) -> Tensor:
    """The separable, normalised [1, 3, 3, 1] kernel, [4, 4] or [4, 4, 4]."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    kernel = taps
    for _ in range(spatial_dims - 1):
        kernel = kernel.unsqueeze(-1) * taps
    return kernel


def smooth(x: Tensor, kernel: Tensor, padding: int) -> Tensor:
    """Filter every channel with one kernel after zero padding on every side."""
    channels = x.shape[1]
    kernel = kernel.to(x.dtype).expand(channels, 1, *kernel.shape)
    return _CONV[x.ndim - 2](x, kernel, padding=padding, groups=channels)


# Where networks are faster with the channels of a pixel side by side: on CPUs, measured at 32 to 128 pixels
# (docs/results.md, "Speed"). No GPU has been measured: benchmarks/gan_training.py --channels_last both.
CHANNELS_LAST_DEVICES = {"cpu"}


def fast_layout(x: Tensor) -> Tensor:
    """The same values in the memory layout that suits the device; convolutions hand it on to their results."""
    if x.device.type not in CHANNELS_LAST_DEVICES:
        return x
    # unlike contiguous(memory_format=...), this leaves no doubt of the layout if there is but one channel
    return x.movedim(1, -1).clone(memory_format=torch.contiguous_format).movedim(-1, 1)


def upsample(x: Tensor, spatial_dims: int) -> Tensor:
    """Double every axis with the [1, 3, 3, 1] filter: interpolation by 0.25 and 0.75 with a zero border."""
    x = F.pad(x, [1, 1] * spatial_dims)
    x = F.interpolate(x, scale_factor=2, mode="bilinear" if spatial_dims == 2 else "trilinear", align_corners=False)
    for axis in range(2, 2 + spatial_dims):
        x = x.narrow(axis, 2, x.shape[axis] - 4)
    return x


GAIN = math.sqrt(2)  # of the activations: it keeps the variance


def activate(x: Tensor, gain: float = GAIN) -> Tensor:
    """Leaky ReLU with slope 0.2, times a gain; a gain of the input is the same, and often costs nothing."""
    x = F.leaky_relu(x, 0.2)
    return x if gain == 1.0 else x * gain


def clamp(x: Tensor, limit: float | None) -> Tensor:
    """To [-limit, limit], or as it is."""
    return x if limit is None else x.clamp(-limit, limit)


def _full_precision(x: Tensor) -> Tensor:
    """At least float32: float16 and bfloat16 are converted, float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class EqualizedLinear(nn.Module):
    """Linear layer with equalised learning rate: weights of unit variance, scaled by 1/sqrt(fan-in) at run time."""

    def __init__(self, in_features: int, out_features: int, *, bias_init: float = 0.0, lr_multiplier: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), bias_init / lr_multiplier))
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.weight_gain, self.bias * self.bias_gain)


class EqualizedConv(nn.Module):
    """Convolution with equalised learning rate and "same" padding, optionally halving the image after smoothing it.

    ``gain`` times the result is what ``forward`` returns, a bias included, and it costs nothing on the pixels.
    """

    def __init__(self, spatial_dims: int, in_channels: int, out_channels: int, kernel_size: int, *, down: bool = False):
        super().__init__()
        self.spatial_dims, self.kernel_size, self.down = spatial_dims, kernel_size, down
        kernel = (kernel_size,) * spatial_dims
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, *kernel))
        self.weight_gain = 1 / math.sqrt(in_channels * math.prod(kernel))
        if down:  # a buffer, since a copy from the host at every step would make a GPU wait
            self.register_buffer("filter", smoothing_kernel(spatial_dims), persistent=False)
        self.filter: Tensor

    def forward(self, x: Tensor, bias: Tensor | None = None, *, gain: float = 1.0) -> Tensor:
        weight = self.weight * (self.weight_gain * gain)
        bias = None if bias is None else bias.flatten() * gain
        conv = _CONV[self.spatial_dims]
        if not self.down:
            return conv(x, weight, bias, padding=self.kernel_size // 2)
        # the filter pads so that the strided convolution, which does not, returns exactly half the size
        return conv(smooth(x, self.filter, padding=(self.kernel_size + 1) // 2), weight, bias, stride=2)


class ModulatedConv(nn.Module):
    """Convolution whose input channels are scaled by a style, output demodulated: arXiv 1912.04958, eq. 1-3.

    Scaling the input by s and the output by 1/sqrt(Σ (w s)²) equals convolving with w' = w s / sqrt(Σ (w s)²), without
    one set of weights per sample. ``forward`` returns ``gain`` times the result, which costs nothing on the pixels.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        *,
        kernel_size: int = 3,
        up: bool = False,
        demodulate: bool = True,
    ):
        super().__init__()
        self.spatial_dims, self.kernel_size, self.up, self.demodulate = spatial_dims, kernel_size, up, demodulate
        self.affine = EqualizedLinear(w_dim, in_channels, bias_init=1.0)
        kernel = (kernel_size,) * spatial_dims
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, *kernel))
        self.weight_gain = 1 / math.sqrt(in_channels * math.prod(kernel))
        if up:
            self.register_buffer("filter", smoothing_kernel(spatial_dims) * 2.0**spatial_dims, persistent=False)
        self.filter: Tensor

    def forward(self, x: Tensor, w: Tensor, *, gain: float = 1.0) -> Tensor:
        ones = (1,) * self.spatial_dims
        style = self.affine(w)
        weight = self.weight * (self.weight_gain if self.demodulate else self.weight_gain * gain)
        x = x * style.view(*style.shape, *ones).to(x.dtype)
        if self.up:
            x = _CONV_TRANSPOSE[self.spatial_dims](x, weight.transpose(0, 1), stride=2)
            x = smooth(x, self.filter, padding=1)
        else:
            x = _CONV[self.spatial_dims](x, weight, padding=self.kernel_size // 2)
        if self.demodulate:
            energy = weight.square().flatten(2).sum(2)  # Σ over the kernel, [out, in]
            epsilon = 1e-8 * self.weight_gain**2  # so that it does not depend on the gain, as published
            scale = torch.rsqrt(F.linear(_full_precision(style).square(), _full_precision(energy)) + epsilon)
            x = x * (scale * gain).view(*scale.shape, *ones).to(x.dtype)
        return x


class SynthesisLayer(nn.Module):
    """Modulated convolution, noise, bias and activation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        size: Sequence[int],
        *,
        up: bool,
        conv_clamp: float | None,
    ):
        super().__init__()
        self.conv_clamp = conv_clamp
        self.conv = ModulatedConv(len(size), in_channels, out_channels, w_dim, up=up)
        self.bias = nn.Parameter(torch.zeros(out_channels, *(1,) * len(size)))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.register_buffer("noise_const", torch.randn(*size))
        self.noise_const: Tensor

    def forward(self, x: Tensor, w: Tensor, noise_mode: str) -> Tensor:
        x = self.conv(x, w, gain=GAIN)
        strength = self.noise_strength * GAIN
        if noise_mode == "const":
            x = x + (self.noise_const * strength).to(x.dtype)
        elif noise_mode == "random":
            noise = torch.randn(x.shape[0], 1, *x.shape[2:], device=x.device, dtype=x.dtype)
            x = x + noise * strength.to(x.dtype)
        return clamp(activate(x + (self.bias * GAIN).to(x.dtype), gain=1.0), self.conv_clamp)


class ToImage(nn.Module):
    """1x1 modulated convolution to image channels, without demodulation."""

    def __init__(self, spatial_dims: int, in_channels: int, img_channels: int, w_dim: int, *, conv_clamp: float | None):
        super().__init__()
        self.conv_clamp = conv_clamp
        self.conv = ModulatedConv(spatial_dims, in_channels, img_channels, w_dim, kernel_size=1, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(img_channels, *(1,) * spatial_dims))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return clamp(self.conv(x, w).float() + self.bias, self.conv_clamp)


class SynthesisBlock(nn.Module):
    """One resolution of the skip generator. The first one starts from a learnt constant and has one styled layer.

    The layer to the image shares the w of the next block's first one.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        size: Sequence[int],
        img_channels: int,
        conv_clamp: float | None,
    ):
        super().__init__()
        self.spatial_dims, self.first = len(size), in_channels == 0
        if self.first:
            self.const = nn.Parameter(torch.randn(out_channels, *size))
        else:
            self.conv0 = SynthesisLayer(in_channels, out_channels, w_dim, size, up=True, conv_clamp=conv_clamp)
        self.conv1 = SynthesisLayer(out_channels, out_channels, w_dim, size, up=False, conv_clamp=conv_clamp)
        self.to_image = ToImage(len(size), out_channels, img_channels, w_dim, conv_clamp=conv_clamp)

    def forward(self, x: Tensor | None, image: Tensor | None, ws: Tensor, noise_mode: str) -> tuple[Tensor, Tensor]:
        styles = list(ws.unbind(1))
        if self.first or x is None:
            x = fast_layout(self.const.unsqueeze(0).expand(ws.shape[0], *self.const.shape))
        else:
            x = self.conv0(x, styles.pop(0), noise_mode)
        x = self.conv1(x, styles.pop(0), noise_mode)
        skip = self.to_image(x, styles.pop(0))
        return x, skip if image is None else upsample(image, self.spatial_dims) + skip


class SynthesisNetwork(nn.Module):
    """w → image; see ``StyleGAN2Generator``."""

    def __init__(
        self,
        img_size: Sequence[int],
        img_channels: int,
        w_dim: int,
        *,
        channel_base: int,
        channel_max: int,
        conv_clamp: float | None = None,
    ):
        super().__init__()
        start, doublings = start_shape(img_size)
        self.w_dim, self.num_ws = w_dim, 2 * doublings + 2
        self.blocks = nn.ModuleList()
        in_channels = 0
        for level in range(doublings + 1):
            size = tuple(s * 2**level for s in start)
            out_channels = channels_at(size, channel_base, channel_max)
            block = SynthesisBlock(in_channels, out_channels, w_dim, size, img_channels, conv_clamp)
            self.blocks.append(block)
            in_channels = out_channels

    def forward(self, w: Tensor, *, noise_mode: str | None = None) -> Tensor:
        """Synthesise images.

        Args:
            w: [B, w_dim], used at every layer, or [B, num_ws, w_dim].
            noise_mode: "const", "random" or "none"; by default random while training and constant otherwise.

        Returns:
            Images [B, C, *img_size], float32, about [-1, 1] and not clamped.

        Raises:
            ValueError: if w has another shape or the mode is unknown.
        """
        if w.ndim == 2:
            w = w.unsqueeze(1).expand(-1, self.num_ws, -1)
        if w.ndim != 3 or w.shape[1:] != (self.num_ws, self.w_dim):
            raise ValueError(
                f"w has shape {tuple(w.shape)}, but must be [B, {self.w_dim}] or [B, {self.num_ws}, {self.w_dim}]."
            )
        noise_mode = noise_mode or ("random" if self.training else "const")
        if noise_mode not in ("const", "random", "none"):
            raise ValueError(f"noise_mode is {noise_mode!r}, but must be 'const', 'random' or 'none'.")
        x, image = self.blocks[0](None, None, w[:, :2], noise_mode)
        for level, block in enumerate(self.blocks[1:]):
            x, image = block(x, image, w[:, 2 * level + 1 : 2 * level + 4], noise_mode)
        return cast(Tensor, image)


class MappingNetwork(nn.Module):
    """z and label → w; see ``StyleGAN2Generator``."""

    def __init__(
        self,
        z_dim: int,
        w_dim: int,
        num_classes: int,
        *,
        num_layers: int,
        w_avg_beta: float = 0.995,
    ):
        super().__init__()
        self.z_dim, self.w_dim, self.num_classes, self.w_avg_beta = z_dim, w_dim, num_classes, w_avg_beta
        self.embed = EqualizedLinear(num_classes, w_dim) if num_classes else None
        first = z_dim + (w_dim if num_classes else 0)
        widths = itertools.chain([first], itertools.repeat(w_dim, num_layers))
        self.layers = nn.ModuleList(EqualizedLinear(a, b, lr_multiplier=0.01) for a, b in itertools.pairwise(widths))
        self.register_buffer("w_avg", torch.zeros(w_dim))
        self.w_avg: Tensor

    def forward(self, z: Tensor, labels: Tensor | None = None, *, truncation: float = 1.0) -> Tensor:
        """Map latents to styles; in training mode, update the running mean of w.

        Args:
            z: [B, z_dim], standard normal.
            labels: [B] integers in [0, num_classes), needed if and only if the network is conditional.
            truncation: ψ in [0, 1]: w is pulled to its running mean, w_avg + ψ (w - w_avg).

        Returns:
            w [B, w_dim], float32.

        Raises:
            ValueError: if labels are missing, superfluous or out of range.
        """
        if self.embed is None and labels is not None:
            raise ValueError("labels were given, but the network has num_classes=0: pass labels=None.")
        with torch.autocast(z.device.type, enabled=False):  # float32 in mixed precision too, as published
            x = _second_moment(z.float())
            if self.embed is not None:
                label = self.embed(one_hot_labels(labels, self.num_classes, z.shape[0]))
                x = torch.cat([x, _second_moment(label)], dim=1)
            for layer in self.layers:
                x = activate(layer(x))
        if self.training:
            self.w_avg.lerp_(x.detach().float().mean(0), 1 - self.w_avg_beta)
        return x if truncation == 1.0 else self.w_avg.lerp(x, truncation)


def _second_moment(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)


def one_hot_labels(labels: Tensor | None, num_classes: int, batch_size: int) -> Tensor:
    """Labels [B] → one-hot [B, num_classes], float32, with an error for missing or foreign ones."""
    if labels is None or labels.shape != (batch_size,):
        shape = None if labels is None else tuple(labels.shape)
        raise ValueError(f"labels have shape {shape}, but a network of {num_classes} classes needs [{batch_size}].")
    try:
        # not F.one_hot, which torch.compile of PyTorch 2.6 cannot take
        return F.embedding(labels, torch.eye(num_classes, device=labels.device))
    except (IndexError, RuntimeError) as error:
        raise ValueError(f"labels must be integers from 0 to {num_classes - 1}: {error}") from error


@register_decoder
class StyleGAN2Generator(LatentDecoder):
    """The StyleGAN2 generator in two or three dimensions: G = synthesis ∘ mapping.

    Args:
        spatial_dims: 2 or 3.
        img_size: image size, one number or one per axis; a start shape (each axis at least 4) times a power of two.
        img_channels: image channels, 1 for grey and 3 for RGB.
        z_dim, w_dim: sizes of the normal latent z and of the style w, the space in which PLAN walks.
        num_classes: number of classes to condition on; 0 for none.
        channel_base: channels times image length, so that a block of length r has ``channel_base / r`` channels.
        channel_max: at most this many channels.
        mapping_layers: fully connected layers of the mapping network.
        conv_clamp: clamp what each synthesis layer puts out to [-conv_clamp, conv_clamp]; by default not. Published
            StyleGAN2-ADA networks do, mostly at 256 (arXiv 2006.06676, against overflow in float16).

    Raises:
        ConfigError: if ``spatial_dims``, ``img_size`` or ``conv_clamp`` cannot work.

    Example:
        >>> generator = StyleGAN2Generator(2, 32, 1, z_dim=64, w_dim=64, num_classes=2).eval()
        >>> generator(torch.randn(4, 64), torch.tensor([0, 1, 0, 1])).shape
        torch.Size([4, 1, 32, 32])
    """

    def __init__(
        self,
        spatial_dims: int,
        img_size: int | Sequence[int],
        img_channels: int,
        z_dim: int = 512,
        w_dim: int = 512,
        num_classes: int = 0,
        *,
        channel_base: int = 16384,
        channel_max: int = 512,
        mapping_layers: int = 8,
        conv_clamp: float | None = None,
    ):
        super().__init__()
        if conv_clamp is not None and not conv_clamp > 0:
            raise ConfigError(f"conv_clamp is {conv_clamp}, but must be above 0, or None not to clamp.")
        self.spatial_dims, self.img_size = spatial_dims, full_size(img_size, spatial_dims)
        self.img_channels, self.z_dim, self.w_dim, self.num_classes = img_channels, z_dim, w_dim, num_classes
        widths = {"channel_base": channel_base, "channel_max": channel_max}
        self.architecture = {
            "spatial_dims": spatial_dims,
            "img_size": list(self.img_size),
            "img_channels": img_channels,
            "z_dim": z_dim,
            "w_dim": w_dim,
            "num_classes": num_classes,
            **widths,
            "mapping_layers": mapping_layers,
            "conv_clamp": conv_clamp,
        }
        self.mapping: MappingNetwork = MappingNetwork(z_dim, w_dim, num_classes, num_layers=mapping_layers)
        self.synthesis: SynthesisNetwork = SynthesisNetwork(
            self.img_size, img_channels, w_dim, **widths, conv_clamp=conv_clamp
        )
        self.num_ws = self.synthesis.num_ws

    def forward(
        self, z: Tensor, labels: Tensor | None = None, *, truncation: float = 1.0, noise_mode: str | None = None
    ) -> Tensor:
        """z [B, z_dim], labels [B] → images [B, C, *img_size], about [-1, 1]; see the two networks for the options."""
        return self.synthesis(self.mapping(z, labels, truncation=truncation), noise_mode=noise_mode)


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
            targets = _second_moment(self.embed(torch.eye(self.num_classes, device=x.device)))
            logits = x @ targets.T / math.sqrt(x.shape[1])
            return (logits * one_hot_labels(labels, self.num_classes, len(x))).sum(1), logits
