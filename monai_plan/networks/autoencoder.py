"""Autoencoders of images, by whose frozen decoder a StyleGAN2 of small latent images makes large ones.

That is the division of labour of Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", CVPR
2022, arXiv 2112.10752, with a GAN in the place of the diffusion model.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
from monai.networks.nets import AutoencoderKL
from torch import Tensor, nn

from monai_plan.utils import ArtifactError, ConfigError, first_line, load_artifact, save_artifact

__all__ = ["ImageAutoencoder", "load_autoencoder", "new_autoencoder", "save_autoencoder"]

_ENCODER = ("encoder", "quant_conv_mu", "quant_conv_log_sigma")  # parts of AutoencoderKL that no decoding needs

_MAISI = {"num_splits": 1, "print_info": False, "save_mem": False}  # a volume is computed in one part


class ImageAutoencoder(nn.Module):
    """MONAI's ``AutoencoderKL``, its latent images shifted and scaled to about mean 0 and deviation 1 per channel.

    Args:
        spatial_dims: 2 or 3.
        img_channels: channels of an image.
        channels: of each level, multiples of ``norm_num_groups``; each level after the first halves every axis.
        latent_channels: channels of a latent image.
        norm_num_groups: groups of the group normalisation.
        num_res_blocks: residual blocks of a level, or a list of one number a level.
        maisi: the network is MAISI's, MONAI's ``AutoencoderKlMaisi``, which enlarges its maps by trilinear
            interpolation: for its published weights, and for volumes alone.
        options: further arguments of ``AutoencoderKL``; by default it has no attention.

    Attributes:
        factor: elements of an image along an axis for one of a latent image.
        made_of: of one that was loaded, the data set that it was trained on, as its file says; None if it does not.

    Raises:
        ConfigError: if such a network cannot be built.
    """

    shift: Tensor
    spread: Tensor

    def __init__(
        self,
        spatial_dims: int,
        img_channels: int,
        *,
        channels: Sequence[int],
        latent_channels: int,
        norm_num_groups: int = 8,
        num_res_blocks: int | Sequence[int] = 1,
        maisi: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        if not (_are_whole(channels) and len(channels) > 1 and _are_whole([latent_channels])):
            raise ConfigError(
                f"the autoencoder has channels {channels!r} and latent_channels {latent_channels!r}, but must have a "
                "list of two or more whole numbers of at least 1, one a level, and such a number: {'channels': "
                "[16, 32, 64], 'latent_channels': 8}."
            )
        self.latent_channels, self.factor = latent_channels, 2 ** (len(channels) - 1)
        self.made_of: str | None = None
        for name, value in options.items():
            if not _is_plain(value):
                raise ConfigError(
                    f"{name} is {value!r}, but the arguments of an autoencoder are numbers, True or False, and lists "
                    "of them: they go into files that others run."
                )
        plain = {
            "attention_levels": [False] * len(channels),
            "with_encoder_nonlocal_attn": False,
            "with_decoder_nonlocal_attn": False,
        }
        given = {
            "spatial_dims": spatial_dims, "in_channels": img_channels, "out_channels": img_channels,
            "latent_channels": latent_channels, "norm_num_groups": norm_num_groups, **plain, **options,
        }  # fmt: skip
        if not isinstance(maisi, bool):
            raise ConfigError(f"maisi of the autoencoder is {maisi!r}, but must be True or False.")
        if maisi and spatial_dims != 3:
            raise ConfigError("the autoencoder of MAISI makes volumes alone: leave maisi out of the id autoencoder.")
        try:
            blocks = [num_res_blocks] * len(channels) if isinstance(num_res_blocks, int) else list(num_res_blocks)
            given |= {"num_res_blocks": blocks}
            self.network: AutoencoderKL = (
                AutoencoderKlMaisi(num_channels=list(channels), **{**_MAISI, **given})
                if maisi
                else AutoencoderKL(channels=list(channels), **given)
            )
        except (TypeError, ValueError, ArithmeticError, LookupError, RuntimeError, ImportError) as error:
            raise ConfigError(
                f"the autoencoder cannot be built: {first_line(error)} (channels {list(channels)}, latent_channels "
                f"{latent_channels}, norm_num_groups {norm_num_groups}, further options {sorted(options) or 'none'})"
            ) from error
        ones = (1,) * spatial_dims
        self.register_buffer("shift", torch.zeros(latent_channels, *ones))
        self.register_buffer("spread", torch.ones(latent_channels, *ones))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images [B, img_channels, *img_size] → their reconstructions, and mean and deviation of the latents.

        The latents are drawn, z = μ + σ ε, and not yet shifted or scaled: [B, latent_channels, *img_size / factor].
        """
        reconstruction, mean, deviation = self.network(images)
        return reconstruction, mean, deviation

    def encode(self, images: Tensor) -> Tensor:
        """Images [B, img_channels, *img_size] in [-1, 1] → the means of their latents, scaled."""
        return (self.network.encode(images)[0] - self.shift) / self.spread

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, latent_channels, *img_size / factor], scaled → images, about [-1, 1], not clamped."""
        image: Tensor = self.network.decode(latents * self.spread + self.shift)
        return image

    def latent_shape(self, img_size: Sequence[int]) -> tuple[tuple[int, ...], int]:
        """The size of the latent images of images of a size, and their channels.

        Raises:
            ConfigError: if an axis is no multiple of ``factor``.
        """
        if any(length % self.factor for length in img_size):
            raise ConfigError(
                f"img_size is {list(img_size)}, but the autoencoder divides every axis by {self.factor}: take "
                "multiples of it, or an autoencoder of fewer levels."
            )
        return tuple(length // self.factor for length in img_size), self.latent_channels

    @torch.no_grad()
    def standardize(self, images: Sequence[Tensor]) -> None:
        """Set the shift and the scale of each channel by the latents of batches of images."""
        latents = torch.cat([self.network.encode(batch)[0] for batch in images]).float()
        over = (0, *range(2, latents.ndim))
        self.shift.copy_(latents.mean(over).view_as(self.shift))
        self.spread.copy_(latents.std(over).clamp_min(1e-6).view_as(self.spread))

    def without_encoder(self) -> ImageAutoencoder:
        """Itself, without what decoding has no use for; it cannot encode any more."""
        for name in _ENCODER:
            delattr(self.network, name)
        return self

    def decoder_weights(self) -> dict[str, Tensor]:
        """Those of its weights that one without an encoder has."""
        parts = tuple(f"network.{name}." for name in _ENCODER)
        return {name: value for name, value in self.state_dict().items() if not name.startswith(parts)}


def _are_whole(values: Any) -> bool:
    return isinstance(values, list | tuple) and all(type(value) is int and value > 0 for value in values)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float)


def new_autoencoder(spatial_dims: int, img_channels: int, options: Mapping[str, Any] | None) -> ImageAutoencoder | None:
    """An untrained ``ImageAutoencoder``, or None where there is to be none, ``options`` None.

    Raises:
        ConfigError: if the options lack one that is needed, have one that the images give, or cannot be built.
    """
    if options is None:
        return None
    if not all(isinstance(name, str) for name in options):
        raise ConfigError(f"autoencoder is {dict(options)!r}, but must hold arguments by their names.")
    needed = {"channels", "latent_channels"}
    own = {"spatial_dims", "img_channels", "in_channels", "out_channels"} & options.keys()
    if own or not needed <= options.keys():
        lacking = ", ".join(sorted(needed - options.keys()))
        wrong = f"has {', '.join(sorted(own))}, which the images give" if own else f"lacks {lacking}"
        raise ConfigError(f"autoencoder is {dict(options)!r} and {wrong}: see monai_plan.networks.ImageAutoencoder.")
    return ImageAutoencoder(spatial_dims, img_channels, **options)


def save_autoencoder(
    autoencoder: ImageAutoencoder | None, path: str | os.PathLike[str], *, made_by: Mapping[str, Any] | None = None
) -> None:
    """Save the weights; of none, that there is none. Its architecture is a config's, and stays there.

    Args:
        autoencoder: what ``new_autoencoder`` gave.
        path, made_by: see ``save_artifact``.
    """
    weights = {} if autoencoder is None else autoencoder.state_dict()
    data = {"state_dict": {name: value.detach().cpu() for name, value in weights.items()}}
    save_artifact(path, kind="autoencoder", data=data, made_by=made_by)


def load_autoencoder(
    autoencoder: ImageAutoencoder | None, path: str | os.PathLike[str], *, device: torch.device | str = "cpu"
) -> ImageAutoencoder | None:
    """Load what ``save_autoencoder`` wrote into an autoencoder of that architecture.

    Args:
        autoencoder: what ``new_autoencoder`` gave; None loads nothing.
        path: the file.
        device: where it is to be.

    Returns:
        ``autoencoder``, in eval mode and without gradients.

    Raises:
        ArtifactError: if the file is missing, damaged, of another kind, or belongs to another architecture.
    """
    if autoencoder is None:
        return None
    data = load_artifact(path, kind="autoencoder")
    try:
        autoencoder.load_state_dict(data["state_dict"])
    except Exception as error:  # load_state_dict raises what it likes on what is no tensor
        raise ArtifactError(
            f"{path} holds the weights of another autoencoder than the id autoencoder describes: use the config that "
            f"trained it, or train again. ({first_line(error)})"
        ) from error
    autoencoder.made_of = data["header"]["made_by"].get("data")
    return autoencoder.to(device).eval().requires_grad_(False)
