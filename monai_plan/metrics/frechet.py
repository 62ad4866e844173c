"""The Fréchet distance of two sets of features."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_plan.utils import DataError


@torch.no_grad()
def frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    """The Fréchet distance of the Gaussians fitted to two sets of features (Heusel et al., NeurIPS 2017).

    ‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½), in float64. The trace of the root is the sum of the singular values
    of Σ_a^½ Σ_b^½, with symmetric roots by eigendecomposition: no general matrix square root is needed, and rank
    deficient covariances (fewer images than features) do no harm. It is biased upwards for few images, so compare
    sets of like size. On Inception features it is the FID; on others it is not.

    Args:
        features_a: [N, F], N >= 2.
        features_b: [M, F], M >= 2.

    Returns:
        The distance, >= 0, in squared units of the features.

    Raises:
        DataError: if the shapes do not fit, a set has fewer than two rows, or a value is NaN or infinite.
    """
    if features_a.ndim != 2 or features_b.ndim != 2 or features_a.shape[1] != features_b.shape[1]:
        raise DataError(
            f"features_a [N, F] and features_b [M, F] must share F, got {tuple(features_a.shape)} and "
            f"{tuple(features_b.shape)}: use one embedding for both."
        )
    if min(len(features_a), len(features_b)) < 2:
        raise DataError(
            f"a Fréchet distance needs two or more images per side, got {len(features_a)} and {len(features_b)}."
        )
    a, b = features_a.double(), features_b.double()
    if not (a.isfinite().all() and b.isfinite().all()):
        raise DataError("a feature is NaN or infinite: check the images that were embedded.")
    cross = torch.linalg.svdvals(_root(a.T.cov()) @ _root(b.T.cov())).sum()
    variance = a.var(0).sum() + b.var(0).sum()
    return max(float((a.mean(0) - b.mean(0)).square().sum() + variance - 2 * cross), 0.0)


def _root(covariance: Tensor) -> Tensor:
    """The symmetric square root of a covariance; ``cov`` gives a scalar for one feature."""
    covariance = covariance.reshape(len(covariance) if covariance.ndim else 1, -1)
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T
