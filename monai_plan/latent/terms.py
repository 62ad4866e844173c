"""Terms that the walk can add to the objective of PLAN, one number per point; none of them is in the published form.

``MarginTerm`` keeps the image off the real ones by the distance that is measured in the end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from monai_plan.metrics import PerceptualEmbedding, nearest_other_images
from monai_plan.networks import frozen
from monai_plan.utils import ConfigError, DataError

__all__ = ["MarginTerm", "WeightedTerm"]


@dataclass(frozen=True, eq=False)
class WeightedTerm:
    """λ · term, for ``LatentWalk``.

    Attributes:
        weight: λ, at least 0; at 0 the term is measured and does not pull.
        term: a module (w [N, *latent], images x̄ [N, C, *spatial] in [−1, 1], labels [N] int64) → [N] float32,
            differentiable; the value of a point must not depend on the others.

    Raises:
        ConfigError: if the weight lies outside its range or the term is no module.
    """

    weight: float
    term: nn.Module

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise ConfigError(f"weight of a term of the walk is {self.weight}, but must be at least 0 and finite.")
        if not isinstance(self.term, nn.Module):
            raise ConfigError(
                f"term is a {type(self.term).__name__}, but must be a torch.nn.Module, so that it can be moved and "
                "frozen: wrap it in one."
            )


class MarginTerm(nn.Module):
    """L_m = max(0, m − min_j ‖e(x̄) − e(x_j)‖²) / m: how far an image intrudes into the margin of the nearest real one.

    It is 1 on a real image and 0 from the margin on. The nearest x_j is found by a matrix product, its distance is
    then taken as a difference, which keeps its digits where the two are close.

    Args:
        embedding: e, images [B, C, *spatial] in [−1, 1] → [B, E], of a perceptual distance.
        images: [M, C, *spatial], the real images x_j. Their embeddings stay in memory, M · E numbers.
        margin: m, a squared distance above 0. Default: the median over the real images of the distance to the nearest
            image of another identity.
        identities: [M] int, at least 0, the patient of each image, for the default margin.
        batch_size: images embedded at once, at least 1.
        device: where to embed. Default: where the embedding is.

    Raises:
        ConfigError: if ``margin`` or ``batch_size`` lies outside its range, or both margin and identities are missing.
        DataError: if there are no images, or no margin can be taken from them.
    """

    centre: Tensor
    reals: Tensor
    squares: Tensor
    margin: Tensor

    def __init__(
        self,
        embedding: PerceptualEmbedding,
        images: Tensor,
        *,
        margin: float | None = None,
        identities: Tensor | None = None,
        batch_size: int = 64,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if margin is None and identities is None:
            raise ConfigError("margin is None and there are no identities to take it from: give one of both.")
        if margin is not None and not 0 < margin < math.inf:
            raise ConfigError(f"margin is {margin}, but must be above 0 and finite; None takes it from the images.")
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}.")
        if not len(images):
            raise DataError("There are no real images to keep a margin to.")
        self.embedding = embedding
        if device is not None:
            embedding.to(device)
        here = next((t.device for t in [*embedding.parameters(), *embedding.buffers()]), torch.device(device or "cpu"))
        with torch.no_grad(), frozen(embedding):
            reals = torch.cat([embedding(x.as_subclass(Tensor).to(here)).float() for x in images.split(batch_size)])
        if identities is not None and margin is None:
            between = nearest_other_images(images, identities, embedding, batch_size=batch_size, device=here)
            margin = between.median().item()
            if not 0 < margin < math.inf:
                raise DataError(
                    f"The median distance to the nearest image of another identity is {margin:g}, which is no margin: "
                    "name the patients in the data list, leave copies out, or set the margin."
                )
        self.register_buffer("centre", reals.mean(0))  # about it the rows are short and lose few digits in the product
        self.register_buffer("reals", reals.sub_(self.centre))
        self.register_buffer("squares", self.reals.square().sum(1))
        self.register_buffer("margin", torch.tensor(margin, device=here))

    def forward(self, w: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """L_m [N] of the images; w and the labels are not used."""
        embedded = self.embedding(images).float() - self.centre
        nearest = (self.squares - 2 * embedded.detach() @ self.reals.T).argmin(1)
        distances = (embedded - self.reals[nearest]).square().sum(1)
        return functional.relu(self.margin - distances) / self.margin
