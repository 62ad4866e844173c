"""Soft reconstructions: images without a line of any real one that still lie next to a single patient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from monai_plan.audit.attacks.base import CopyAttack, Embedder, People, Scores, register_attack
from monai_plan.audit.attacks.maps import FAINTEST, TRIMMED, blurred, small, stretched

__all__ = ["SoftReconstructions", "leads"]

BLURS = (1 / 32, 1 / 16)  # of the longest axis: a reconstruction lacks what these take from the real images


class _Index(NamedTuple):
    features: list[Tensor]  # [M, E] for each blur
    subjects: Tensor  # [M]


@register_attack
class SoftReconstructions(CopyAttack):
    """ln(d₂ / d₁), where d₁ and d₂ are an image's distances to the nearest and to the second nearest patient.

    A generator's reconstruction of a patient is too blurred to be laid over anybody, but it lies nearer to that patient
    than to all others, once both are blurred alike. One image proves little; many say it together, and so it is tested
    by rank alone.

    Args:
        embedder: of the distance.
    """

    name = "reconstructions"
    title = "Soft reconstructions"
    attacker = "the released images and images of the person sought"
    alarm = "rank"
    planted = must_find = ("exact", "softened")

    embedder: Embedder

    def settings(self) -> dict[str, Any]:
        """See the base class."""
        return {
            "embedding": self.embedder.embedding,
            "title": self.embedder.embedding.title,
            "numbers": [BLURS, TRIMMED, FAINTEST],
        }

    def features(self, images: Tensor) -> list[Tensor]:
        """[N, E] for each blur, of small images: the blur leaves no more to be seen of larger ones."""
        images = stretched(small(images))
        return [self.embedder(blurred(images, blur * max(images.shape[2:]))) for blur in BLURS]

    def index(self, members: People) -> _Index:
        """See the base class."""
        return _Index(self.features(members.images), members.numbers)

    def scores(self, index: _Index, images: Tensor, *, own: Tensor | None = None) -> Scores:
        """See the base class."""
        distances = []
        for mine, theirs in zip(self.features(images), index.features, strict=True):
            found = torch.cdist(mine, theirs, compute_mode="donot_use_mm_for_euclid_dist")
            distances.append(found if own is None else found.masked_fill(own[:, None] == index.subjects, torch.inf))
        return leads(distances, index.subjects)


def leads(distances: Sequence[Tensor], patients: Tensor) -> Scores:
    """ln(d₂ / d₁) of every image, for each blur.

    Args:
        distances: [N, M] for each blur, infinite to members that are passed over.
        patients: [M], whose the members are.
    """
    values = []
    for of_blur in distances:
        first, nearest = of_blur.min(dim=1)
        others = patients != patients[nearest][:, None]
        second = of_blur.masked_fill(~others, torch.inf).amin(1)
        ratio = second.clamp_min(1e-6).log() - first.clamp_min(1e-6).log()
        values.append(torch.where(second.isfinite(), ratio, 0.0))
    return Scores(torch.stack(values, dim=1), nearest)
