"""What is planted to see whether an attack would find it: copies of members, plain and disguised."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from monai_plan.audit.attacks.maps import blurred
from monai_plan.utils import seeded_generator

__all__ = ["DISGUISES", "disguise", "moved"]

ANGLE = 5.0  # degrees
CROP = 0.9  # of each axis that is left
SOFTNESS = 1 / 24  # standard deviation of a blur, of the longest axis
NOISE = 0.2  # standard deviation, of values in [-1, 1]: a tenth of the range


def moved(images: Tensor, *, angle: float = 0.0, zoom: float = 1.0) -> Tensor:
    """Images turned by so many degrees in the plane of their first two axes, and cropped to the share ``zoom``.

    Args:
        images: [N, C, *spatial].
        angle: in degrees.
        zoom: share of each axis that is kept and enlarged to the whole.
    """
    dims = images.ndim - 2
    size = torch.tensor(images.shape[2:], dtype=torch.float32)
    turn = torch.eye(dims)
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    turn[0, 0], turn[0, 1], turn[1, 0], turn[1, 1] = c, -s, s, c
    theta = turn * zoom * size[None] / size[:, None]  # lengths of an axis are its own unit
    theta = theta.flip(0, 1)  # grid_sample counts axes from the last
    theta = functional.pad(theta, (0, 1))[None].expand(len(images), -1, -1).to(images)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _noised(images: Tensor, generator: torch.Generator) -> Tensor:
    return (images + NOISE * torch.randn(images.shape, generator=generator).to(images)).clamp(-1, 1)


DISGUISES: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "exact": lambda images, generator: images.clone(),
    "turned": lambda images, generator: moved(images, angle=ANGLE),
    "cropped": lambda images, generator: moved(images, zoom=CROP),
    "mirrored": lambda images, generator: images.flip(2),
    "noised": _noised,
    "softened": lambda images, generator: blurred(images, SOFTNESS * max(images.shape[2:])),
    "combined": lambda images, generator: _noised(moved(images, angle=ANGLE, zoom=CROP).flip(2), generator),
}


def disguise(images: Tensor, kind: str, *, seed: int = 0) -> Tensor:
    """Copies of images as somebody would leave them, knowingly or not.

    Args:
        images: [N, C, *spatial] in [-1, 1].
        kind: "exact"; "turned" by 5 degrees; "cropped" by a tenth of each axis; "mirrored", left for right; "noised",
            with a standard deviation of a tenth of the range; "combined", all of these at once; "softened", blurred
            until no line is left.
        seed: of the noise.
    """
    return DISGUISES[kind](images, seeded_generator(seed, "disguise", kind))
