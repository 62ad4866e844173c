"""The Fréchet distance of two sets of features, from sums that do not grow with the sets."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_plan.utils import DataError


class FeatureStatistics:
    """Mean and covariance of features, added up batch by batch in float64: F · F numbers, however many rows there are.

    Args:
        features: the first rows, see ``add``.

    Attributes:
        count: rows so far.
        mean: [F].
    """

    def __init__(self, features: Tensor | None = None) -> None:
        self.count = 0
        self.mean = self._scatter = torch.zeros(0, dtype=torch.float64)
        if features is not None:
            self.add(features)

    @torch.no_grad()
    def add(self, features: Tensor) -> None:
        """Take further rows into account, by the update of Chan, Golub and LeVeque (1979).

        Args:
            features: [N, F], on any device.

        Raises:
            DataError: if a value is NaN or infinite, or the rows are of another width than those before.
        """
        if features.ndim != 2 or (self.count and features.shape[1] != len(self.mean)):
            raise DataError(f"features must be [N, F] of one width F, got {tuple(features.shape)}: use one embedding.")
        if not len(features):
            return
        rows = features.double()
        if not rows.isfinite().all():
            raise DataError("a feature is NaN or infinite: check the images that were embedded.")
        mean = rows.mean(0)
        rows = rows - mean
        if not self.count:
            self.mean, self._scatter = torch.zeros_like(mean), rows.new_zeros(len(mean), len(mean))
        total, apart = self.count + len(rows), mean - self.mean
        self._scatter.addmm_(rows.T, rows).addr_(apart, apart, alpha=self.count * len(rows) / total)
        self.mean = self.mean + apart * (len(rows) / total)
        self.count = total

    @property
    def covariance(self) -> Tensor:
        """[F, F], unbiased, of two rows or more."""
        return self._scatter / (self.count - 1)


@torch.no_grad()
def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """The Fréchet distance of the Gaussians fitted to two sets of features (Heusel et al., NeurIPS 2017).

    ‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½), in float64. The trace of the root is the sum of the singular values
    of Σ_a^½ Σ_b^½, with symmetric roots by eigendecomposition: no general matrix square root is needed, and rank
    deficient covariances (fewer images than features) do no harm. It is biased upwards for few images, so compare
    sets of like size. On Inception features it is the FID; on others it is not.

    Args:
        a: of two rows or more of one set, [F].
        b: of the other set; see ``embed_statistics`` for both.

    Returns:
        The distance, >= 0, in squared units of the features.

    Raises:
        DataError: if the widths do not fit or a set has fewer than two rows.
    """
    if min(a.count, b.count) < 2:
        raise DataError(f"a Fréchet distance needs two or more images per side, got {a.count} and {b.count}.")
    if a.mean.shape != b.mean.shape:
        raise DataError(
            f"the features of both sides must be of one width, got {len(a.mean)} and {len(b.mean)}: use one embedding "
            "for both."
        )
    cross = torch.linalg.svdvals(_root(a.covariance) @ _root(b.covariance)).sum()
    variance = a.covariance.trace() + b.covariance.trace()
    return max(float((a.mean - b.mean).square().sum() + variance - 2 * cross), 0.0)


def _root(covariance: Tensor) -> Tensor:
    """The symmetric square root of a covariance."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T
