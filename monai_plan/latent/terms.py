"""Terms that the walk can add to the objective of PLAN, one number a point; none of them is in the published form.

A walk that is let loose leaves the images that G was trained to make: it fools φ_id instead of leaving the patients.
``LikelihoodTerm`` holds it where w is likely, ``MarginTerm`` keeps the image off the real ones by the distance that is
measured in the end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from sklearn.covariance import ledoit_wolf_shrinkage
from torch import Tensor, nn
from torch.nn import functional

from monai_plan.latent.generator import LatentGenerator, frozen
from monai_plan.metrics import PerceptualEmbedding, nearest_other_images
from monai_plan.utils import ConfigError, DataError, TrainingError, seeded_generator

__all__ = ["LikelihoodTerm", "MarginTerm", "WeightedTerm"]


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


class LikelihoodTerm(nn.Module):
    """L_w = ‖Σ_y^{−1/2} (w − μ_y)‖² / (2 d): how far w lies out in the mapping's distribution of its class.

    Up to a constant and the factor 1/d, d = w_dim, this is the negative log density of the Gaussian with the mean and
    the covariance of w = mapping(z, y), z ~ N(0, I); samples of it have the mean ½ whatever d is, and less as
    far as Σ_y is shrunk. The true distribution is no Gaussian; this is the opinion of its first two moments. A latent
    of W+ has the mean over its layers.

    Σ_y = (1 − δ) S + δ (tr S / d) I, with S the covariance of the samples and δ the larger of ``min_shrinkage`` and
    the shrinkage of Ledoit and Wolf ("A well-conditioned estimator for large-dimensional covariance matrices", Journal
    of Multivariate Analysis, 2004). So a direction in which the mapping does not vary at all costs 1/δ times an average
    one and not infinitely much: inverted latents and their k-same centroids lie outside of what the mapping gives.

    Args:
        generator: G; only its mapping is used, and only here. An unconditional one has one distribution for all y.
        num_samples: draws of z a class, at least 2.
        min_shrinkage: the least δ, in (0, 1].
        seed: of the draws.

    Raises:
        ConfigError: if an argument lies outside its range.
        TrainingError: if the mapping is constant or not finite.
    """

    mean: Tensor
    whitening: Tensor

    def __init__(
        self, generator: LatentGenerator, *, num_samples: int = 10_000, min_shrinkage: float = 0.05, seed: int = 0
    ) -> None:
        super().__init__()
        for name, value, valid in (
            ("num_samples", num_samples, num_samples >= 2),
            ("min_shrinkage", min_shrinkage, 0 < min_shrinkage <= 1),
        ):
            if not valid:
                raise ConfigError(f"{name} of the likelihood is {value}, outside its range: see LikelihoodTerm.")
        z = torch.randn(num_samples, generator.z_dim, generator=seeded_generator(seed, "likelihood"))
        z = z.to(next(generator.parameters()).device)
        classes = range(generator.num_classes) if generator.num_classes else [None]
        moments = []
        with torch.no_grad(), frozen(generator):
            for y in classes:
                labels = None if y is None else torch.full((num_samples,), y, device=z.device)
                w = generator.mapping(z, labels).double().cpu()
                moments.append(_mean_and_whitening(w, min_shrinkage))
        means, whitenings = zip(*moments, strict=True)
        self.register_buffer("mean", torch.stack(means).float())  # [classes, w_dim]
        self.register_buffer("whitening", torch.stack(whitenings).float())  # [classes, w_dim, w_dim]

    def forward(self, w: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """L_w [N] of w [N, w_dim] or [N, num_ws, w_dim] with labels [N] of G's classes; the images are not used."""
        layers = w.reshape(len(w), -1, w.shape[-1])
        if len(self.mean) == 1:
            labels = torch.zeros_like(labels)
        centred = layers - self.mean[labels][:, None]
        # By every class, then the right one: a matrix for every point would take N · d² numbers.
        whitened = torch.einsum("cij,nlj->ncli", self.whitening, centred)[torch.arange(len(w), device=w.device), labels]
        return whitened.square().mean((1, 2)) / 2


def _mean_and_whitening(w: Tensor, min_shrinkage: float) -> tuple[Tensor, Tensor]:
    """μ [d] and the symmetric Σ^{−1/2} [d, d] of samples [n, d] in float64."""
    mean = w.mean(0)
    covariance = (w - mean).T @ (w - mean) / len(w)
    average = covariance.diagonal().mean()
    if not (average.isfinite() and average > 0):
        raise TrainingError(
            f"The variance of the mapping's w is {average:g}, so it has no distribution to stay in: train the "
            "generator again, or leave the likelihood out (weight 0)."
        )
    shrinkage = max(min_shrinkage, float(ledoit_wolf_shrinkage(w.numpy())))
    values, vectors = torch.linalg.eigh(covariance)
    values = (1 - shrinkage) * values.clamp(min=0) + shrinkage * average
    return mean, vectors @ (values.rsqrt()[:, None] * vectors.T)


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
