"""Locally normalised maps: what is left of an image once exposure and contrast are taken out, place by place."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from monai_plan.utils import DataError

__all__ = ["blurred", "local_maps", "small", "small_greys", "stretched"]

MAP_SIZES = {2: 32, 3: 24}  # elements of the longest axis at most, by the number of axes
LOCAL = 3.0  # standard deviation of the window that exposure and contrast are taken of, in elements of a map
FLOOR = 1e-2  # of a window's variance, for values in [-1, 1]: weaker structure counts less, and so does noise
SMOOTH = 0.6  # of the result, so that a motion of less than an element changes little
SMALLEST = 8  # elements of an axis
TRIMMED = 0.01  # of an image's values at either end that its range leaves out
FAINTEST = 0.02  # half of the range of a picture of one grey and its rounding


def blurred(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of [N, C, *spatial], edges repeated; ``sigma`` in elements, 0 for none."""
    if sigma <= 0:
        return images
    dims, radius = images.ndim - 2, math.ceil(3 * sigma)
    places = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (places / sigma) ** 2)
    kernel = kernel / kernel.sum()
    convolve = functional.conv2d if dims == 2 else functional.conv3d
    x = images.reshape(-1, 1, *images.shape[2:])
    for axis in range(dims):
        size, pad = [1] * dims, [0] * (2 * dims)
        size[axis] = len(kernel)
        pad[2 * (dims - 1 - axis)] = pad[2 * (dims - 1 - axis) + 1] = radius  # pad counts axes from the last
        x = convolve(functional.pad(x, pad, mode="replicate"), kernel.reshape(1, 1, *size))
    return x.reshape(images.shape)


def stretched(images: Tensor) -> Tensor:
    """Images [N, C, *spatial] whose values fill [-1, 1], but for a hundredth at either end, which lies beyond.

    A copy may be dark, pale or of few greys; the negative of an image becomes the negative of what this makes of it.
    """
    flat = images.flatten(1)
    rank = 1 + int(TRIMMED * (flat.shape[1] - 1))
    low, high = flat.kthvalue(rank, dim=1).values, flat.kthvalue(flat.shape[1] + 1 - rank, dim=1).values
    shape = (-1, *[1] * (images.ndim - 1))
    middle, half = ((high + low) / 2).reshape(shape), ((high - low) / 2).clamp_min(FAINTEST).reshape(shape)
    return (images - middle) / half


def small(images: Tensor, *, longest: int | None = None) -> Tensor:
    """Images [N, C, *spatial] whose longest axis has 32 elements, 24 in 3D, or so many; smaller ones stay so.

    Raises:
        DataError: if an axis would have fewer than 8 elements.
    """
    spatial = images.shape[2:]
    longest = min(longest or MAP_SIZES[len(spatial)], max(spatial))
    target = [round(length * longest / max(spatial)) for length in spatial]
    if min(target) < SMALLEST:
        raise DataError(
            f"images of {' x '.join(map(str, spatial))} are too narrow to be compared: no axis may have fewer than "
            f"{SMALLEST} elements where the longest has {longest}."
        )
    return images if list(spatial) == target else functional.interpolate(images, size=target, mode="area")


def small_greys(images: Tensor) -> Tensor:
    """Images [N, C, *spatial] as small grey ones, [N, 1, *small], see ``small``."""
    return small(images.mean(1, keepdim=True))


def local_maps(greys: Tensor, *, smooth: float = SMOOTH) -> Tensor:
    """Take the local mean out of images and divide by the local standard deviation.

    Args:
        greys: [N, 1, *spatial] in [-1, 1].
        smooth: standard deviation of a last blur.

    Returns:
        Of the same shape, about in [-3, 3]; the negative of an image has the negative map.
    """
    difference = greys - blurred(greys, LOCAL)
    return blurred(difference / (blurred(difference.square(), LOCAL) + FLOOR).sqrt(), smooth)
