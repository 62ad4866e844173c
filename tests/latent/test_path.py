"""Paths: the straight line, its length and the same curve by more points, by hand."""

from __future__ import annotations

import pytest
import torch

from monai_plan.latent import distance_loss, linear_path
from monai_plan.latent.path import refined
from monai_plan.utils import ConfigError


def end_points(w_dim: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(3)
    return torch.randn(w_dim, generator=rng), torch.randn(w_dim, generator=rng)


def test_linear_path_by_hand():
    path = linear_path(torch.tensor([0.0, 4.0]), torch.tensor([1.0, 0.0]), 5)
    assert path.tolist() == [[0.0, 4.0], [0.25, 3.0], [0.5, 2.0], [0.75, 1.0], [1.0, 0.0]]
    w_a, w_b = end_points()
    path = linear_path(w_a, w_b, 50)
    assert path.shape == (50, 6)
    assert torch.equal(path[0], w_a)
    assert torch.equal(path[-1], w_b)


@pytest.mark.parametrize(
    ("w_a", "w_b", "num_points"),
    [
        (torch.zeros(3), torch.zeros(4), 5),
        (torch.zeros(1, 3), torch.zeros(1, 3), 5),
        (torch.zeros(3), torch.ones(3), 1),
    ],
)
def test_linear_path_bad_input(w_a, w_b, num_points):
    with pytest.raises(ConfigError):
        linear_path(w_a, w_b, num_points)


def test_linear_path_in_w_plus():
    path = linear_path(torch.tensor([[0.0], [4.0]]), torch.tensor([[1.0], [0.0]]), 5)
    assert path.tolist() == [[[0.0], [4.0]], [[0.25], [3.0]], [[0.5], [2.0]], [[0.75], [1.0]], [[1.0], [0.0]]]


def test_distance_by_hand():
    """(0,0) → (3,4) → (3,5): 25 + 1; and the same path backwards twice as large."""
    path = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 5.0]])
    assert distance_loss(torch.stack([path, 2 * path.flip(0)])).tolist() == [26, 104]
    assert distance_loss(path.view(1, 3, 2, 1)).tolist() == [26]  # in W+


@pytest.mark.parametrize("num_points", [4, 7, 20])
def test_more_points_lie_on_the_same_pieces(num_points):
    corners = torch.tensor([[[0.0, 0.0], [3.0, 0.0], [3.0, 3.0], [0.0, 3.0]]])
    fine = refined(corners, num_points)
    assert fine.shape == (1, num_points, 2)
    places = torch.arange(num_points) * 9 / (num_points - 1)  # along the three sides of three
    expected = [[x, 0] if x <= 3 else [3, x - 3] if x <= 6 else [9 - x, 3] for x in places.tolist()]
    torch.testing.assert_close(fine[0], torch.tensor(expected), rtol=0, atol=1e-5)
    assert torch.equal(fine[:, [0, -1]], corners[:, [0, -1]])
