"""Differentiable augmentation of adaptive strength, so that D cannot learn a few hundred images by heart."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_plan.utils import ConfigError

_GEOMETRY = ("translation", "fractional_translation", "scale", "anisotropy")
_STRENGTHS = (*_GEOMETRY, "gamma", "brightness", "contrast", "noise", "cutout")  # each in [0, 1)
_GAMMA_OFFSET = 0.01  # added to grey values in [0, 1], since v^γ has no finite slope at 0 for γ < 1


class DifferentiableAugment(nn.Module):
    """Random changes of real and generated images before the discriminator, with gradients to the images.

    After Zhao et al., arXiv 2006.10738, and Karras et al., arXiv 2006.06676: each change is applied to each image with
    probability ``p``, drawn anew. By default no change mirrors, turns or interpolates. Where laterality matters, leave
    ``flips`` empty and ``rotation`` at about 10 at most; cells or textures may have both in full.

    The changes do not leak into what the generator learns while p < 0.82: then only the distribution of the real images
    looks, when changed, like the changed real images (arXiv 2006.06676, appendix C). A change by a number that is
    uniform about 0 multiplies the Fourier coefficients of a distribution by (1 - p) + p · sinc ≥ 1 - 1.217 p, flips and
    cutout multiply its components by 1 - p at least. That holds as far as no more than background leaves the image, and
    the closer to the bound, the more images it takes.

    Flips and whole-element shifts alone are exact. All other geometric changes are composed with them to one affine map
    and one multilinear interpolation, which blurs a little; what enters from outside is the lowest value, -1. An image
    for which nothing is chosen stays as it is, bit for bit. All draws and decisions stay on the device. Under
    ``torch.use_deterministic_algorithms`` a GPU refuses the gradient of an interpolation, and only a recent PyTorch has
    its second derivative. Lengths and angles are measured in elements. Move the module to the device of the images.

    Args:
        p: probability of each change, in [0, 1]; the start value of a buffer that ``AdaptiveStrength`` changes.
        translation: largest shift by whole elements, as a share of each axis.
        brightness: largest change of the mean, in units of the range [-1, 1].
        contrast: the contrast is scaled about the image's mean by a factor in [1 - contrast, 1 + contrast].
        cutout: edge of the box set to 0, as a share of each axis.
        flips: spatial axes that may be mirrored, 0 for the first. A flip that is chosen is done half of the time.
        fractional_translation: largest shift of any length, as a share of each axis.
        scale: the image is scaled about its centre by a factor in [1 / (1 + scale), 1 + scale], log-uniform.
        anisotropy: each axis is scaled, besides, by its own factor in [1 / (1 + anisotropy), 1 + anisotropy].
        rotation: largest angle in degrees, in [0, 180]; in 3D in each of the three planes, each chosen for itself.
        gamma: grey values, mapped to [0, 1], are raised to a power in [1 / (1 + gamma), 1 + gamma], log-uniform; less
            close to the background, so that the slope is finite. Values outside [-1, 1] keep their distance to it.
        noise: largest standard deviation of Gaussian noise, in units of the range [-1, 1].

    Every strength is off at 0.

    Raises:
        ConfigError: if ``p`` is outside [0, 1], ``rotation`` outside [0, 180], another strength outside [0, 1), or
            ``flips`` names an axis other than 0, 1, 2 or one twice.
    """

    p: Tensor

    def __init__(
        self,
        *,
        p: float = 0.5,
        translation: float = 0.125,
        brightness: float = 0.3,
        contrast: float = 0.3,
        cutout: float = 0.3,
        flips: Sequence[int] = (),
        fractional_translation: float = 0.0,
        scale: float = 0.0,
        anisotropy: float = 0.0,
        rotation: float = 0.0,
        gamma: float = 0.0,
        noise: float = 0.0,
    ):
        super().__init__()
        if not 0 <= p <= 1:
            raise ConfigError(f"p is {p}, but must be a probability in [0, 1].")
        self.translation, self.fractional_translation = translation, fractional_translation
        self.scale, self.anisotropy, self.rotation, self.flips = scale, anisotropy, rotation, tuple(flips)
        self.brightness, self.contrast, self.gamma, self.noise = brightness, contrast, gamma, noise
        self.cutout = cutout
        for name in _STRENGTHS:
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, but must be in [0, 1); 0 switches it off.")
        if not 0 <= rotation <= 180:
            raise ConfigError(f"rotation is {rotation}, but must be an angle in [0, 180] degrees; 0 switches it off.")
        if len(set(flips)) < len(flips) or not set(flips) <= {0, 1, 2}:
            raise ConfigError(f"flips is {list(flips)}, but must hold different spatial axes from 0, 1, 2.")
        self.register_buffer("p", torch.tensor(float(p)))

    def forward(self, images: Tensor) -> Tensor:
        """Change images [B, C, *spatial] in [-1, 1], 2D or 3D; shape and dtype stay, values may leave the range.

        For the same global random state of torch, the draws of a change do not depend on ``p`` nor on other changes.

        Raises:
            ConfigError: if the images lack an axis named in ``flips``.
        """
        if max(self.flips, default=0) >= images.ndim - 2:
            raise ConfigError(
                f"flips is {list(self.flips)}, but images of shape {list(images.shape)} have the spatial axes "
                f"{list(range(images.ndim - 2))} only."
            )
        with torch.autocast(images.device.type, enabled=False):  # bfloat16 is too coarse for positions
            values = images.to(torch.promote_types(images.dtype, torch.float32))
            draws = _draw(values, self.p)
            if self.scale or self.anisotropy or self.rotation or self.fractional_translation:
                values = self._resample(values, draws)
            elif self.translation or self.flips:
                values = self._move(values, draws)
            values = self._change_greys(values, draws)
            if self.cutout:
                values = values.masked_fill(self._box(values, draws), 0.0)
            return values.to(images.dtype)

    def _move(self, images: Tensor, draws: dict[str, Tensor]) -> Tensor:
        """Flips and shifts by whole elements, exact."""
        for axis, size in enumerate(images.shape[2:]):
            center = (size - 1) / 2
            position = torch.arange(size, device=images.device) - center
            mirror, shift = self._mirror(draws, axis)[:, None], self._shift(draws, axis, size)[:, None]
            source = _along(axis, (mirror * (position - shift) + center).long(), images)
            moved = images.gather(axis + 2, source.clamp(0, size - 1).expand_as(images))
            images = moved.masked_fill((source < 0) | (source >= size), -1.0)
        return images

    def _mirror(self, draws: dict[str, Tensor], axis: int) -> Tensor:
        """[B], -1 where the axis is mirrored, else 1."""
        mirror = 1 - 2 * (draws["flips"][:, axis] < 0).float()
        return mirror if axis in self.flips else torch.ones_like(mirror)

    def _shift(self, draws: dict[str, Tensor], axis: int, size: int) -> Tensor:
        """[B], whole elements: a uniform number, rounded, for which the bound on p holds as well."""
        return (draws["translation"][:, axis] * int(size * self.translation)).round()

    def _resample(self, images: Tensor, draws: dict[str, Tensor]) -> Tensor:
        """All geometric changes at once."""
        matrix = self._matrix(draws, images.shape[2:])
        chosen = (matrix != torch.eye(*matrix.shape[1:], device=matrix.device)).flatten(1).any(1)
        # torch counts spatial axes from the last
        matrix = torch.cat([matrix[:, :, :-1].flip(1, 2), matrix[:, :, -1:].flip(1)], 2).to(images.dtype)
        grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
        resampled = F.grid_sample(images + 1, grid, align_corners=False) - 1  # outside it takes 0, so here -1
        return torch.where(_per_image(chosen, images), resampled, images)

    def _matrix(self, draws: dict[str, Tensor], sizes: Sequence[int]) -> Tensor:
        """Where the value of each position comes from, [B, D, D + 1], for positions from -1 to 1 on each axis.

        The image is mirrored, then scaled, then rotated, then shifted.
        """
        identity = torch.eye(len(sizes), device=draws["scale"].device)
        rotation = identity
        for angle, (i, j) in zip(
            draws["rotation"].unbind(1), itertools.combinations(range(len(sizes)), 2), strict=True
        ):
            radians = angle * math.radians(self.rotation)
            plane = identity.repeat(len(angle), 1, 1)
            plane[:, i, i] = plane[:, j, j] = radians.cos()
            plane[:, i, j] = radians.sin() * (sizes[j] / sizes[i])
            plane[:, j, i] = radians.sin() * (-sizes[i] / sizes[j])
            rotation = plane @ rotation
        zoom = draws["scale"] * math.log1p(self.scale) + draws["anisotropy"] * math.log1p(self.anisotropy)
        mirror = torch.stack([self._mirror(draws, axis) for axis in range(len(sizes))], 1)
        linear = (mirror * (-zoom).exp())[:, :, None] * rotation
        whole = torch.stack([self._shift(draws, axis, size) / size for axis, size in enumerate(sizes)], 1)
        shift = 2 * (whole + draws["fractional_translation"] * self.fractional_translation)
        return torch.cat([linear, -linear @ shift[:, :, None]], 2)

    def _change_greys(self, images: Tensor, draws: dict[str, Tensor]) -> Tensor:
        if self.gamma:
            power = _per_image((draws["gamma"] * math.log1p(self.gamma)).exp(), images)
            grey = (images.clamp(-1, 1) + 1) / 2
            low, high = _GAMMA_OFFSET**power, (1 + _GAMMA_OFFSET) ** power
            change = ((grey + _GAMMA_OFFSET) ** power - low) / (high - low) - grey
            images = torch.addcmul(images, change, 2.0 * _per_image(draws["gamma"] != 0, images))
        if self.brightness:
            images = images + _per_image(draws["brightness"] * self.brightness, images)
        if self.contrast:
            gain = _per_image(draws["contrast"] * self.contrast, images)
            mean = images.mean(tuple(range(1, images.ndim)), keepdim=True)
            images = torch.addcmul(-gain * mean, images, 1 + gain)
        if self.noise:
            deviation = _per_image(draws["noise"].abs() * self.noise, images)
            images = torch.addcmul(images, deviation, torch.randn_like(images))
        return images

    def _box(self, images: Tensor, draws: dict[str, Tensor]) -> Tensor:
        """[B, 1, *spatial], true inside the box of each image for which cutout is chosen."""
        inside = _per_image((draws["cutout"] != 0).any(1), images)
        for axis, size in enumerate(images.shape[2:]):
            center = (draws["cutout"][:, axis, None] + 1) / 2 * size
            position = torch.arange(size, device=images.device) + 0.5
            inside = inside & _along(axis, (position - center).abs() < self.cutout * size / 2, images)
        return inside


class AdaptiveStrength(nn.Module):
    """Raises the probability of augmentation while D overfits and lowers it while it does not.

    The heuristic of Karras et al., arXiv 2006.06676, section 3: r_t = E[sign(D(x))] over real images is near 0 while D
    is unsure and 1 when it knows them by heart. After every ``interval`` images, p moves by a fixed amount for each of
    them: up if r_t is above ``target``, down if below. Start it with ``DifferentiableAugment(p=0)``.

    The state, p included, is in ``state_dict``; everything stays on the device, so move the module there.

    Args:
        augment: whose ``p`` is adjusted.
        target: of r_t, in (-1, 1).
        images_to_full: real images in which p can rise from 0 to 1; at least ``interval``. The paper has 500,000; a
            training of fewer images needs less.
        interval: real images between two adjustments.
        p_max: largest p, in (0, 1]; from 0.82 on, augmentation can leak into the generated images.

    Raises:
        ConfigError: if an argument is outside its range, or ``augment.p`` is above ``p_max``.
    """

    sign_sum: Tensor
    count: Tensor

    def __init__(
        self,
        augment: DifferentiableAugment,
        *,
        target: float = 0.6,
        images_to_full: int = 500_000,
        interval: int = 256,
        p_max: float = 0.8,
    ):
        super().__init__()
        for name, value, valid, rule in (
            ("target", target, -1 < target < 1, "in (-1, 1)"),
            ("interval", interval, interval >= 1, "at least 1 image"),
            ("images_to_full", images_to_full, images_to_full >= interval, f"at least interval, {interval} images"),
            ("p_max", p_max, 0 < p_max <= 1, "in (0, 1]"),
        ):
            if not valid:
                raise ConfigError(f"{name} is {value}, but must be {rule}.")
        if augment.p > p_max:
            raise ConfigError(f"augment starts with p {augment.p:g}, above p_max {p_max}: lower p or raise p_max.")
        self.augment = augment
        self.target, self.images_to_full, self.interval, self.p_max = target, images_to_full, interval, p_max
        self.register_buffer("sign_sum", torch.zeros([]))
        self.register_buffer("count", torch.zeros([]))

    @property
    def p(self) -> Tensor:
        """The probability as it is now, 0-dimensional; it changes in place."""
        return self.augment.p

    @torch.no_grad()
    def update(self, real_sign: Tensor, batch_size: int) -> None:
        """Take in the mean of sign(D(x)), 0-dimensional, over the ``batch_size`` real images of a batch."""
        self.sign_sum += real_sign * batch_size
        self.count += batch_size
        due = self.count >= self.interval
        change = (self.sign_sum / self.count - self.target).sign() * self.count / self.images_to_full
        self.p.copy_(torch.where(due, (self.p + change).clamp(0, self.p_max), self.p))
        self.sign_sum.masked_fill_(due, 0)
        self.count.masked_fill_(due, 0)


def _draw(images: Tensor, p: Tensor) -> dict[str, Tensor]:
    """For each change [B, n] uniform numbers in [-1, 1], 0 where it is not chosen.

    The numbers of a change are chosen together, except for flips and rotations: each axis or plane for itself.
    """
    dims = images.ndim - 2
    counts = {"flips": dims, "translation": dims, "fractional_translation": dims, "scale": 1, "anisotropy": dims}
    counts |= {
        "rotation": dims * (dims - 1) // 2,
        "gamma": 1,
        "brightness": 1,
        "contrast": 1,
        "noise": 1,
        "cutout": dims,
    }
    sizes = list(counts.values())
    numbers, chances = torch.rand(2, len(images), sum(sizes), device=images.device)
    draws = dict(zip(counts, (2 * numbers - 1).split(sizes, 1), strict=True))
    for name, chosen in zip(counts, (chances < p).split(sizes, 1), strict=True):
        draws[name] = draws[name] * (chosen if name in ("flips", "rotation") else chosen[:, :1])
    return draws


def _per_image(values: Tensor, images: Tensor) -> Tensor:
    """[B] or [B, 1] → [B, 1, 1, …], with as many axes as the images."""
    return values.view(-1, *(1,) * (images.ndim - 1))


def _along(axis: int, values: Tensor, images: Tensor) -> Tensor:
    """[B, size] → [B, 1, …, size, …, 1], the size at a spatial axis of the images."""
    shape = [1] * images.ndim
    shape[0], shape[axis + 2] = values.shape
    return values.view(shape)
