"""StyleGAN2 in two and three dimensions, class-conditional, in plain PyTorch.

Sources: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020, arXiv 1912.04958 (modulated
convolution, skip generator, residual discriminator), and "Training Generative Adversarial Networks with Limited Data",
NeurIPS 2020, arXiv 2006.06676 (conditioning by an embedded label beside z, projection in the discriminator).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from monai_plan.networks.autoencoder import ImageAutoencoder, new_autoencoder
from monai_plan.networks.decoder import LatentDecoder, register_decoder
from monai_plan.networks.layers import (
    GAIN,
    EqualizedLinear,
    ModulatedConv,
    activate,
    channels_at,
    clamp,
    fast_layout,
    full_size,
    one_hot_labels,
    second_moment,
    start_shape,
    upsample,
)
from monai_plan.utils import ConfigError

__all__ = ["MappingNetwork", "StyleGAN2Generator", "SynthesisNetwork"]


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
            x = second_moment(z.float())
            if self.embed is not None:
                label = self.embed(one_hot_labels(labels, self.num_classes, z.shape[0]))
                x = torch.cat([x, second_moment(label)], dim=1)
            for layer in self.layers:
                x = activate(layer(x))
        if self.training:
            self.w_avg.lerp_(x.detach().float().mean(0), 1 - self.w_avg_beta)
        return x if truncation == 1.0 else self.w_avg.lerp(x, truncation)


class DecodedSynthesis(nn.Module):
    """w → latent image → image: a ``SynthesisNetwork``, and behind it a frozen decoder.

    Args:
        network: makes the latent images.
        autoencoder: whose decoder makes images of them.
    """

    def __init__(self, network: SynthesisNetwork, autoencoder: ImageAutoencoder):
        super().__init__()
        self.network, self.autoencoder = network, autoencoder.requires_grad_(False)
        self.num_ws = network.num_ws

    def forward(self, w: Tensor, *, noise_mode: str | None = None) -> Tensor:
        """As ``SynthesisNetwork``."""
        return self.autoencoder.decode(self.network(w, noise_mode=noise_mode))


@register_decoder
class StyleGAN2Generator(LatentDecoder):
    """The StyleGAN2 generator in two or three dimensions: G = synthesis ∘ mapping.

    With ``autoencoder`` it makes latent images, and the frozen decoder of an autoencoder makes images of them: a volume
    costs a fraction of what it would cost otherwise.

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
        autoencoder: arguments of the ``ImageAutoencoder`` whose decoder stands behind the synthesis network; None: that
            makes the images. ``use_decoder`` brings the weights of a trained one.

    Raises:
        ConfigError: if ``spatial_dims``, ``img_size``, ``conv_clamp`` or ``autoencoder`` cannot work.

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
        autoencoder: Mapping[str, Any] | None = None,
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
            **({} if autoencoder is None else {"autoencoder": dict(autoencoder)}),
        }
        self.mapping: MappingNetwork = MappingNetwork(z_dim, w_dim, num_classes, num_layers=mapping_layers)
        coder = new_autoencoder(spatial_dims, img_channels, autoencoder)
        size, channels = (self.img_size, img_channels) if coder is None else coder.latent_shape(self.img_size)
        network = SynthesisNetwork(size, channels, w_dim, **widths, conv_clamp=conv_clamp)
        self.synthesis: SynthesisNetwork | DecodedSynthesis = (
            network if coder is None else DecodedSynthesis(network, coder.without_encoder())
        )
        self.num_ws = network.num_ws

    def forward(
        self, z: Tensor, labels: Tensor | None = None, *, truncation: float = 1.0, noise_mode: str | None = None
    ) -> Tensor:
        """z [B, z_dim], labels [B] → images [B, C, *img_size], about [-1, 1]; see the two networks for the options."""
        return self.synthesis(self.mapping(z, labels, truncation=truncation), noise_mode=noise_mode)

    def before_decoder(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """z [B, z_dim], labels [B] → what the synthesis network makes: latent images, or images without a decoder."""
        synthesis = self.synthesis.network if isinstance(self.synthesis, DecodedSynthesis) else self.synthesis
        return synthesis(self.mapping(z, labels))

    def use_decoder(self, autoencoder: ImageAutoencoder | None) -> StyleGAN2Generator:
        """Itself, with the weights of a trained autoencoder's decoder; None is for one without a decoder.

        Raises:
            ConfigError: if it has no decoder, or another one.
        """
        own = self.synthesis.autoencoder if isinstance(self.synthesis, DecodedSynthesis) else None
        if (own is None) != (autoencoder is None):
            raise ConfigError(
                "the generator has a decoder and no autoencoder was given, or the other way round: both follow the id "
                "autoencoder."
            )
        if own is not None and autoencoder is not None:
            own.load_state_dict(autoencoder.decoder_weights())
        return self
