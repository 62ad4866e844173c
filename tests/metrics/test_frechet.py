from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from monai_plan.metrics import FeatureStatistics
from monai_plan.metrics import frechet_distance as distance_of_statistics
from monai_plan.utils import DataError


def frechet_distance(a, b):
    return distance_of_statistics(FeatureStatistics(a), FeatureStatistics(b))


def with_moments(mean, covariance, n=40, seed=0):
    """A sample whose mean and (unbiased) covariance are exactly those given."""
    x = torch.randn(n, len(mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x - x.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(x.T.cov()), x.T, upper=False).T
    return white @ torch.linalg.cholesky(torch.tensor(covariance, dtype=torch.float64)).T + torch.tensor(mean)


@pytest.mark.parametrize(
    ("mean_a", "cov_a", "mean_b", "cov_b", "expected"),
    [
        ([0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]], [3.0, 4.0], [[1.0, 0.0], [0.0, 1.0]], 25.0),
        # independent axes: Σ (σ_a − σ_b)²
        ([0.0, 0.0], [[4.0, 0.0], [0.0, 9.0]], [1.0, 0.0], [[1.0, 0.0], [0.0, 25.0]], 1 + 1 + 4),
        # covariances that do not commute: by the closed form of a 2 × 2 root, tr √M = √(tr M + 2 √det M)
        ([0.0, 0.0], [[2.0, 1.0], [1.0, 2.0]], [0.0, 0.0], [[3.0, 0.0], [0.0, 1.0]],
         4 + 4 - 2 * math.sqrt(8 + 2 * math.sqrt(9))),
    ],
)  # fmt: skip
def test_gaussians_with_known_answers(mean_a, cov_a, mean_b, cov_b, expected):
    a, b = with_moments(mean_a, cov_a), with_moments(mean_b, cov_b, n=55, seed=1)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)


def test_zero_for_equal_sets_even_with_fewer_images_than_features():
    a = torch.randn(6, 20, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(a, a.flip(0)) == pytest.approx(0, abs=1e-6)


def test_one_feature():
    a, b = torch.tensor([[0.0], [2.0]]), torch.tensor([[5.0], [5.0]])
    assert frechet_distance(a, b) == pytest.approx(16 + 2)


def test_agrees_with_the_general_matrix_root():
    g = torch.Generator().manual_seed(2)
    a, b = torch.randn(50, 6, generator=g), torch.randn(30, 6, generator=g) @ torch.randn(6, 6, generator=g) + 1
    cov_a, cov_b = a.double().T.cov().numpy(), b.double().T.cov().numpy()
    root = scipy.linalg.sqrtm(cov_a @ cov_b)
    mean = (a.double().mean(0) - b.double().mean(0)).square().sum()
    expected = float(mean) + np.trace(cov_a + cov_b - 2 * root.real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_agrees_with_monai():
    from monai.metrics import FIDMetric

    g = torch.Generator().manual_seed(3)
    a, b = torch.randn(50, 6, generator=g), 2 * torch.randn(40, 6, generator=g)
    try:
        reference = float(FIDMetric()(a, b))
    except (TypeError, ValueError) as error:
        pytest.skip(f"MONAI's FIDMetric does not run with this SciPy: {error}")
    assert frechet_distance(a, b) == pytest.approx(reference, rel=1e-4)


def test_bad_features_are_refused():
    ok = torch.zeros(3, 2)
    with pytest.raises(DataError, match="of one width"):
        frechet_distance(ok, torch.zeros(3, 4))
    with pytest.raises(DataError, match="two or more"):
        frechet_distance(ok, torch.zeros(1, 2))
    with pytest.raises(DataError, match="NaN"):
        frechet_distance(ok, torch.full((3, 2), math.nan))
    with pytest.raises(DataError, match="of one width"):
        FeatureStatistics(ok).add(torch.zeros(3, 4))


@pytest.mark.parametrize("sizes", [[64] * 4, [1, 255], [3, 100, 0, 153]])
def test_the_sums_do_not_depend_on_the_batches(sizes):
    """Also where the mean is far larger than the spread, and of features in float32."""
    rows = torch.randn(256, 7, generator=torch.Generator().manual_seed(0)) + 1e4
    statistics = FeatureStatistics()
    for batch in rows.split(sizes):
        statistics.add(batch)
    assert statistics.count == 256
    torch.testing.assert_close(statistics.mean, rows.double().mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(statistics.covariance, rows.double().T.cov(), rtol=1e-9, atol=1e-9)


def test_they_hold_no_rows():
    statistics = FeatureStatistics()
    for _ in range(50):
        statistics.add(torch.randn(1000, 4))
    assert sum(x.numel() for x in vars(statistics).values() if torch.is_tensor(x)) == 4 + 16
