"""Settings of the GAN for a few hundred images, by image size and objective, so that nobody has to guess them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from monai_plan.gan.losses import gan_objective
from monai_plan.networks import new_autoencoder
from monai_plan.networks.layers import full_size, start_shape
from monai_plan.utils import ConfigError


@dataclass(frozen=True)
class GANDefaults:
    """Settings for one image size and objective.

    Attributes:
        objective: "aided" for grey and RGB images in 2D whose longest axis is above 32 pixels, without an autoencoder;
            else "logistic", since pretrained features do not exist, see too little, or cost more than they help.
        autoencoder: arguments of the ``ImageAutoencoder`` whose latent images are generated; None: images themselves.
        batch_size: images of one rank in a batch.
        channel_base, channel_max, z_dim, w_dim: see ``StyleGAN2Generator``.
        learning_rate: of both optimisers.
        r1_weight: γ of R1; "hinge" does without.
        r1_interval: iterations between two R1 (and R2) terms.
        r2_weight: γ of R2, the same as R1's in "relativistic"; the others do without.
        ema_half_life: half-life of the moving average, in images.
    """

    objective: str
    autoencoder: dict[str, Any] | None
    batch_size: int
    channel_base: int
    channel_max: int
    z_dim: int
    w_dim: int
    learning_rate: float
    r1_weight: float
    r1_interval: int
    r2_weight: float
    ema_half_life: float


LATENT_R1 = 10.0  # γ on latent images, of deviation 1 and without a background; of 0.5 and 10 the better
BY_FOUR = {"channels": [16, 32, 64], "latent_channels": 8}
BY_EIGHT = {"channels": [8, 16, 32, 64], "latent_channels": 8, "use_convtranspose": True}
# (spatial_dims, longest axis of what is judged up to) → (batch_size, channel_base, channel_max, z_dim = w_dim)
_TABLE = {
    (2, 32): (16, 512, 64, 64),
    (2, 64): (16, 1024, 128, 128),
    (2, 128): (16, 2048, 128, 128),
    (2, math.inf): (16, 4096, 256, 256),
    (3, 32): (8, 512, 64, 64),
    (3, 64): (8, 1024, 128, 128),
    (3, math.inf): (4, 1024, 128, 128),
}


def gan_defaults(
    img_size: int | Sequence[int],
    spatial_dims: int = 2,
    *,
    img_channels: int = 1,
    objective: str | None = None,
    autoencoder: Mapping[str, Any] | str | None = "auto",
) -> GANDefaults:
    """The settings for an image size; every one is an id of the bundle's config and can be overridden there.

    Networks are narrow, for speed, and grow with the image. γ of R1 follows the rule of Karras et al., arXiv
    2006.06676: 0.0002 · elements of an image / images of a batch, so that a gradient per pixel weighs the same at any
    size; on latent images it is 10. The half-life of the moving average is 10 thousand images times batch_size / 32, as
    there.

    Args:
        img_size: one length or one per axis; what ``StyleGAN2Generator`` accepts.
        spatial_dims: 2 or 3.
        img_channels: image channels; pretrained features are of grey and RGB images only.
        objective: a name in ``OBJECTIVES``; None takes the best that there is for such images.
        autoencoder: arguments of an ``ImageAutoencoder``; None: without; "auto": where that leaves 8 elements or more
            of each axis, one that divides them by 4 in 3D, and by 8 in 2D if the longest is above 128 pixels.

    Raises:
        ConfigError: if ``spatial_dims``, ``img_size`` or ``autoencoder`` cannot work, or there is no such objective.
    """
    whole = full_size(img_size, spatial_dims)
    if autoencoder == "auto":
        autoencoder = _fitting_autoencoder(whole)
    if not isinstance(autoencoder, Mapping | None):
        raise ConfigError(
            f"autoencoder is {autoencoder!r}, but must be 'auto', None, or the arguments of an ImageAutoencoder."
        )
    with torch.device("meta"):
        coder = new_autoencoder(spatial_dims, img_channels, autoencoder)
    size = whole if coder is None else coder.latent_shape(whole)[0]
    try:
        start_shape(size)  # refuses what the networks would refuse
    except ConfigError as error:
        if coder is None:
            raise
        raise ConfigError(
            f"img_size {list(whole)} is {list(size)} behind the autoencoder, which divides axes by {coder.factor}, "
            f"but every axis must be even there and at least 8: take multiples of {2 * coder.factor} from "
            f"{8 * coder.factor} on, an autoencoder of fewer levels, or --autoencoder None."
        ) from error
    fitting = ((limit, row) for (dims, limit), row in _TABLE.items() if dims == spatial_dims and max(size) <= limit)
    _, (batch_size, channel_base, channel_max, w_dim) = min(fitting)
    if objective is None:
        helped = spatial_dims == 2 and img_channels in (1, 3) and max(whole) > 32 and coder is None
        objective = "aided" if helped else "logistic"
    gan_objective(objective)  # refuses what is none
    r1_weight = 0.0002 * math.prod(size) / batch_size if coder is None else LATENT_R1
    if objective == "hinge":
        r1_weight = 0.0
    return GANDefaults(
        objective=objective,
        autoencoder=None if autoencoder is None else dict(autoencoder),
        batch_size=batch_size,
        channel_base=channel_base,
        channel_max=channel_max,
        z_dim=w_dim,
        w_dim=w_dim,
        learning_rate=0.002 if objective == "hinge" else 0.0025,
        r1_weight=r1_weight,
        r1_interval=4 if objective == "relativistic" else 16,
        r2_weight=r1_weight if objective == "relativistic" else 0.0,
        ema_half_life=10_000 * batch_size / 32,
    )


def _fitting_autoencoder(img_size: tuple[int, ...]) -> dict[str, Any] | None:
    if len(img_size) == 3:
        return BY_FOUR if all(length % 8 == 0 and length >= 32 for length in img_size) else None
    fits = max(img_size) > 128 and all(length % 16 == 0 and length >= 64 for length in img_size)
    return BY_EIGHT if fits else None
