"""Differentiable augmentation, so that a discriminator cannot learn a few hundred images by heart."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from monai_plan.utils import ConfigError

__all__ = ["DifferentiableAugment"]


class DifferentiableAugment(nn.Module):
    """Random changes of real and generated images before the discriminator, with gradients to the images.

    After Zhao et al., arXiv 2006.10738, and Karras et al., arXiv 2006.06676: each change is applied to each image with
    probability ``p``, drawn anew; below about 0.8 the changes do not leak into what the generator learns. Nothing is
    mirrored or rotated: laterality matters in medical images.

    Args:
        p: probability of each change, in [0, 1].
        translation: largest shift, as a share of each axis; what enters is the lowest value, -1.
        brightness: largest change of the mean, in units of the range [-1, 1].
        contrast: the contrast is scaled about the image's mean by a factor in [1 - contrast, 1 + contrast].
        cutout: edge of the box set to 0, as a share of each axis; 0 for none.

    Raises:
        ConfigError: if ``p`` is outside [0, 1] or a strength is outside [0, 1).
    """

    def __init__(
        self,
        *,
        p: float = 0.5,
        translation: float = 0.125,
        brightness: float = 0.3,
        contrast: float = 0.3,
        cutout: float = 0.3,
    ):
        super().__init__()
        if not 0 <= p <= 1:
            raise ConfigError(f"p is {p}, but must be a probability in [0, 1].")
        strengths = {"translation": translation, "brightness": brightness, "contrast": contrast, "cutout": cutout}
        for name, value in strengths.items():
            if not 0 <= value < 1:
                raise ConfigError(f"{name} is {value}, but must be in [0, 1); 0 switches it off.")
        self.p, self.translation, self.brightness, self.contrast, self.cutout = p, *strengths.values()

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, C, *spatial] in [-1, 1] → changed images of the same shape; values may leave the range."""
        if self.p == 0:
            return images
        if self.brightness:
            images = images + self._uniform(images, self.brightness)
        if self.contrast:
            mean = images.flatten(1).mean(1).view(-1, *(1,) * (images.ndim - 1))
            images = mean + (images - mean) * (1 + self._uniform(images, self.contrast))
        if self.translation:
            images = self._translate(images)
        if self.cutout:
            images = images * self._cutout_mask(images)
        return images

    def _chosen(self, images: Tensor) -> Tensor:
        return torch.rand(images.shape[0], device=images.device) < self.p

    def _uniform(self, images: Tensor, limit: float) -> Tensor:
        """Per image a number in [-limit, limit], or 0 where the change is not chosen: [B, 1, 1, …]."""
        value = (torch.rand(images.shape[0], device=images.device) * 2 - 1) * limit * self._chosen(images)
        return value.view(-1, *(1,) * (images.ndim - 1))

    def _translate(self, images: Tensor) -> Tensor:
        """Shift each image by whole elements along each axis."""
        chosen = self._chosen(images)
        for axis in range(2, images.ndim):
            size = images.shape[axis]
            limit = int(size * self.translation)
            shift = torch.randint(-limit, limit + 1, chosen.shape, device=images.device) * chosen
            source = torch.arange(size, device=images.device) - shift[:, None]  # [B, size]
            shape = [1] * images.ndim
            shape[0], shape[axis] = source.shape
            inside = ((source >= 0) & (source < size)).view(shape)
            index = source.clamp(0, size - 1).view(shape).expand_as(images)
            images = torch.where(inside, images.gather(axis, index), images.new_tensor(-1.0))
        return images

    def _cutout_mask(self, images: Tensor) -> Tensor:
        """[B, 1, *spatial]: 0 inside a random box, 1 elsewhere."""
        chosen = self._chosen(images)
        inside = chosen.view(-1, *(1,) * (images.ndim - 1))
        for axis in range(2, images.ndim):
            size = images.shape[axis]
            center = torch.rand(chosen.shape, device=images.device)[:, None] * size
            near = (torch.arange(size, device=images.device) + 0.5 - center).abs() < self.cutout * size / 2  # [B, size]
            shape = [1] * images.ndim
            shape[0], shape[axis] = near.shape
            inside = inside & near.view(shape)
        return (~inside).to(images.dtype)
