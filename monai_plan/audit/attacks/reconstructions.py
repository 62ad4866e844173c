"""Soft reconstructions: images without a line of any real one that still lie next to a single patient."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from monai_plan.audit.attacks.base import CopyAttack, Embedder, People, Scores, register_attack

__all__ = ["SoftReconstructions"]


class _Index(NamedTuple):
    features: Tensor  # [M, E]
    subjects: Tensor  # [M]


@register_attack
class SoftReconstructions(CopyAttack):
    """ln(d₂ / d₁), where d₁ and d₂ are an image's distances to the nearest and to the second nearest patient.

    A generator's reconstruction of a patient is too blurred to be laid over anybody, but it lies nearer to that patient
    than to all others. One image proves little; many say it together, and so it is tested by rank alone.

    Args:
        embedder: of the distance.
    """

    name = "reconstructions"
    title = "Soft reconstructions"
    attacker = "the released images and images of the person sought"
    alarm = "rank"
    planted = ("exact", "softened")

    embedder: Embedder

    def settings(self) -> dict[str, Any]:
        """See the base class."""
        return {"embedding": self.embedder.embedding, "title": self.embedder.embedding.title}

    def index(self, members: People) -> _Index:
        """See the base class."""
        return _Index(self.embedder(members.images), members.numbers)

    def scores(self, index: _Index, images: Tensor, *, own: Tensor | None = None) -> Scores:
        """See the base class."""
        distances = torch.cdist(self.embedder(images), index.features, compute_mode="donot_use_mm_for_euclid_dist")
        if own is not None:
            distances = distances.masked_fill(own[:, None] == index.subjects, torch.inf)
        first, nearest = distances.min(dim=1)
        others = index.subjects != index.subjects[nearest][:, None]
        second = distances.masked_fill(~others, torch.inf).amin(1)
        ratio = second.clamp_min(1e-6).log() - first.clamp_min(1e-6).log()
        return Scores(torch.where(second.isfinite(), ratio, 0.0)[:, None], nearest)
