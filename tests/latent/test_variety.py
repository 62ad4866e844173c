"""Points that lie far apart."""

from __future__ import annotations

import torch

from monai_plan.latent.variety import farthest_first


def test_each_is_the_farthest_from_all_before_it():
    points = torch.tensor([0.0, 1.0, 10.0, 4.0])[:, None]
    assert farthest_first(points).tolist() == [0, 2, 3, 1]


def test_the_first_ones_lie_farther_apart_than_others():
    points = torch.randn(200, 2, 3, generator=torch.Generator().manual_seed(0))
    order = farthest_first(points)
    assert order.sort().values.tolist() == list(range(200))
    nearest = [torch.pdist(some.flatten(1)).min() for some in (points[order[:20]], points[:20])]
    assert nearest[0] > 1.5 * nearest[1]


def test_equal_points_come_last_and_in_order():
    points = torch.tensor([[0.0], [1.0], [0.0], [1.0], [0.0]])
    assert farthest_first(points).tolist() == [0, 1, 2, 3, 4]
    assert farthest_first(points[:0]).tolist() == []
