"""A choice of points that lie far apart, so that what is made of them varies."""

from __future__ import annotations

import torch
from torch import Tensor


def farthest_first(points: Tensor) -> Tensor:
    """The numbers of all points, each the farthest from all before it.

    The farthest-first traversal of Gonzalez (Theoretical Computer Science 38, 1985): no n points cover the others by
    less than half the distance by which its first n do. It begins with the first point.

    Args:
        points: [N, *latent].

    Returns:
        [N] int64, the same for the same points; of equally far ones the first comes first.
    """
    points = points.flatten(1).double()
    order: list[int] = []
    distances = torch.full((len(points),), torch.inf, dtype=torch.float64)
    for _ in range(len(points)):
        farthest = int(distances.argmax())  # in the beginning all are equally far
        order.append(farthest)
        distances = distances.minimum((points - points[farthest]).square().sum(1))
        distances[farthest] = -1.0
    return torch.tensor(order, dtype=torch.int64)
