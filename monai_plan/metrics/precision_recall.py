"""Precision and recall of a set of images: how many of them look real, and how much of what is real they show."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_plan.utils import DataError

NEIGHBOURS = 3
_ROWS = 1024  # distances of so many rows to all at once


@torch.no_grad()
def precision_recall(made: Tensor, real: Tensor, *, k: int = NEIGHBOURS) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al., NeurIPS 2019, equation 2).

    Φ is a set of features, and r_k(φ) the distance of φ from its k-th nearest neighbour in its own set. A point lies in
    the manifold of Φ if it is within r_k(φ) of some φ in Φ.

        precision = share of the made points in the manifold of the real ones,
        recall    = share of the real points in the manifold of the made ones.

    Precision falls with blur and artefacts, recall with want of variety. Both depend on the numbers of points, so
    compare sets of like size.

    Args:
        made: [N, F] features of the images that are judged, N ≥ 2.
        real: [M, F] features of real images, M ≥ 2.
        k: neighbours; of a set of k points or fewer all the others.

    Returns:
        Both in [0, 1].

    Raises:
        DataError: if the widths do not fit, a set has fewer than two rows, or a value is NaN or infinite.
    """
    if made.ndim != 2 or real.ndim != 2 or made.shape[1] != real.shape[1] or min(len(made), len(real)) < 2:
        raise DataError(
            f"precision and recall need two or more rows of features of one width per side, got {tuple(made.shape)} "
            f"and {tuple(real.shape)}: use one embedding for both."
        )
    made, real = made.double(), real.double()
    if not (made.isfinite().all() and real.isfinite().all()):
        raise DataError("a feature is NaN or infinite: check the images that were embedded.")
    return _share_within(made, real, k), _share_within(real, made, k)


def _share_within(points: Tensor, others: Tensor, k: int) -> float:
    """Share of the points that lie within r_k of one of the others."""
    # of k + 1 nearest in the own set the first is the point itself
    k_and_itself = min(k, len(others) - 1) + 1
    radii = torch.cat(
        [torch.cdist(rows, others).topk(k_and_itself, largest=False).values[:, -1] for rows in others.split(_ROWS)]
    )
    radii = radii + 1e-7 * others.norm(dim=1).max()  # by rounding a point is not quite at distance 0 from its copy
    within = torch.cat([(torch.cdist(rows, others) <= radii).any(1) for rows in points.split(_ROWS)])
    return within.double().mean().item()
