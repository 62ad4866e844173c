"""Soft reconstructions: images without a line of any real one that still lie next to a single patient."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from monai_plan.audit.attacks.base import CopyAttack, Embedder, People, Scores, register_attack
from monai_plan.audit.attacks.maps import blurred

__all__ = ["SoftReconstructions"]


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
        return {"embedding": self.embedder.embedding, "title": self.embedder.embedding.title, "blurs": BLURS}

    def _features(self, images: Tensor) -> list[Tensor]:
        return [self.embedder(blurred(images, blur * max(images.shape[2:]))) for blur in BLURS]

    def index(self, members: People) -> _Index:
        """See the base class."""
        return _Index(self._features(members.images), members.numbers)

    def scores(self, index: _Index, images: Tensor, *, own: Tensor | None = None) -> Scores:
        """See the base class."""
        values = []
        for mine, theirs in zip(self._features(images), index.features, strict=True):
            distances = torch.cdist(mine, theirs, compute_mode="donot_use_mm_for_euclid_dist")
            if own is not None:
                distances = distances.masked_fill(own[:, None] == index.subjects, torch.inf)
            first, nearest = distances.min(dim=1)
            others = index.subjects != index.subjects[nearest][:, None]
            second = distances.masked_fill(~others, torch.inf).amin(1)
            ratio = second.clamp_min(1e-6).log() - first.clamp_min(1e-6).log()
            values.append(torch.where(second.isfinite(), ratio, 0.0))
        return Scores(torch.stack(values, dim=1), nearest)
