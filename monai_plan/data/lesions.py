"""Counts the lesions that a phantom shows, by a small network that was taught with phantoms whose lesion is known."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from monai_plan.data.phantoms import phantom_image
from monai_plan.utils import ConfigError, seeded_generator

__all__ = ["LesionCounter", "lesion_shares"]

LEARNT, HELD_OUT = 600, 100  # phantoms, of a population of its own
POPULATION = 991
STEPS, BATCH = 500, 24
DARKER = 0.2  # how much brighter a lesion is than what it covers, at least
LEAST_AREA = 4 / 32**2  # of a lesion, as a share of the image


class LesionCounter:
    """A segmentation network for lesions of phantoms in 2D; a lesion is a connected region of what it marks.

    Args:
        img_size: pixels of an image, the same on both axes.

    Raises:
        ConfigError: if the images are volumes or not square.
    """

    def __init__(self, img_size: tuple[int, ...]) -> None:
        if len(img_size) != 2 or len(set(img_size)) > 1:
            raise ConfigError(f"lesions are counted in square images, but img_size is {list(img_size)}.")
        self.least = LEAST_AREA * img_size[0] ** 2
        pairs = [self._pair(subject, img_size[0]) for subject in range(LEARNT + HELD_OUT)]
        self.without, self.with_one, self.masks = (torch.stack(column) for column in zip(*pairs, strict=True))
        width = 5 * max(img_size[0] // 32, 1)
        layers = [nn.Conv2d(1, 16, width, padding="same"), nn.ReLU()]
        layers += [nn.Conv2d(16, 16, width, padding="same"), nn.ReLU()] * 2
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.network = nn.Sequential(*layers, nn.Conv2d(16, 1, 1))
        self._teach()

    @staticmethod
    def _pair(subject: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """One phantom [1, size, size] in [−1, 1] without and with its lesion, and where that is."""
        without, with_one = (
            2 * phantom_image(subject=subject, image=0, label=label, img_size=size, seed=POPULATION) - 1
            for label in (0, 1)
        )
        return without, with_one, (with_one - without > 2 * DARKER).float()

    def _teach(self) -> None:
        rng = seeded_generator(0, "lesions")
        optimizer = torch.optim.Adam(self.network.parameters(), 3e-3)
        loss = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0))
        third = BATCH // 3
        for _ in range(STEPS):
            rows = torch.randint(LEARNT, (BATCH,), generator=rng)
            images = torch.cat([self.without[rows[:third]], self.with_one[rows[third:]]])
            masks = self.masks[rows].clone()
            masks[:third] = 0
            optimizer.zero_grad()
            loss(self.network(images), masks).backward()
            optimizer.step()

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """[N] int64: lesions of each of the images [N, 1, H, W] in [−1, 1]."""
        counts = []
        for marked in (self.network(images)[:, 0] > 0).numpy():
            regions, number = ndimage.label(marked)
            areas = np.bincount(regions.flatten(), minlength=number + 1)[1:]
            counts.append(int((areas >= self.least).sum()))
        return torch.tensor(counts)

    def held_out(self) -> dict[str, tuple[int, Tensor]]:
        """Name → how many lesions there are, and how many are counted, of phantoms that were not learnt."""
        without, with_one, masks = self.without[LEARNT:], self.with_one[LEARNT:], self.masks[LEARNT:]
        other, other_masks = with_one.roll(1, 0), masks.roll(1, 0)
        near = nn.functional.max_pool2d(masks, 7, stride=1, padding=3)
        apart = (near * other_masks).flatten(1).sum(1) == 0
        two = torch.where(other_masks.bool(), other, with_one)[apart]
        return {"no lesion": (0, self(without)), "one": (1, self(with_one)), "a second pasted in": (2, self(two))}


def lesion_shares(counts: Tensor) -> list[float]:
    """Per cent of the images with no, one, two or more lesions."""
    return [100 * (counts.clamp(max=2) == number).double().mean().item() for number in range(3)]
