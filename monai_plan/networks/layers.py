"""The layers of StyleGAN2 in two and three dimensions, and the sizes that it can have; sources: see ``stylegan2``.

One form differs from the published code and gives the same numbers: a modulated convolution scales the activations
instead of making one set of weights per sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_plan.utils import ConfigError

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
            f"img_size is {list(img_size)}, but every axis must be even and at least 8, and {_unfit(img_size)}: take "
            f"{[max(2 * round(s / 2), 8) for s in img_size]}, or better multiples of 8, to which images are resized."
        )
    return size, doublings


def _unfit(img_size: Sequence[int]) -> str:
    unfit = list(dict.fromkeys(str(s) for s in img_size if s % 2 or s < 8))
    return f"{' and '.join(unfit)} {'is' if len(unfit) == 1 else 'are'} not"


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
    channels = int(x.shape[1])  # a constant of a trace, from which ONNX takes the kernel's shape
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
        """[B, in_features] → [B, out_features]."""
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
        """[B, in_channels, *spatial] → [B, out_channels, *spatial], halved with ``down``; times ``gain``."""
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
        """x [B, in_channels, *spatial], w [B, w_dim] → [B, out_channels, *spatial], doubled with ``up``."""
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


def second_moment(x: Tensor) -> Tensor:
    """x [B, n], each row scaled to a mean square of 1."""
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
