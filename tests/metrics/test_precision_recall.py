from __future__ import annotations

import math
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monai_plan.metrics import precision_recall
from monai_plan.utils import DataError


def slow(made, real, k):
    """One pair at a time, as the definition says."""

    def share(points, others):
        radii = [sorted(math.dist(a, b) for b in others)[min(k, len(others) - 1)] for a in others]
        inside = [any(math.dist(p, a) <= r + 1e-6 for a, r in zip(others, radii, strict=True)) for p in points]
        return sum(inside) / len(inside)

    made, real = made.tolist(), real.tolist()
    return share(made, real), share(real, made)


@given(st.integers(2, 9), st.integers(2, 9), st.integers(1, 4), st.integers(0, 99))
def test_it_is_the_definition(n, m, k, seed):
    g = torch.Generator().manual_seed(seed)
    made, real = torch.randn(n, 3, generator=g) + 0.5, torch.randn(m, 3, generator=g)
    assert precision_recall(made, real, k=k) == pytest.approx(slow(made, real, k))


def test_known_answers():
    line = torch.arange(10.0)[:, None]
    assert precision_recall(line, line) == (1, 1)
    assert precision_recall(line + 1000, line) == (0, 0)
    # of a wide real set the made ones show one corner: all look real, and little of what is real is shown
    assert precision_recall(torch.linspace(2, 2.5, 6)[:, None], line) == (1, 0.1)
    # half of the made ones are nonsense
    assert precision_recall(torch.cat([line, line + 1000]), line, k=1) == (0.5, 1)


def test_copies_of_one_image_are_precise_and_recall_nothing_but_it():
    real = torch.randn(40, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert precision_recall(real[:1].repeat(20, 1), real) == (1, 1 / 40)


def test_large_sets_are_compared_in_parts(monkeypatch):
    g = torch.Generator().manual_seed(0)
    made, real = torch.randn(50, 4, generator=g), torch.randn(70, 4, generator=g)
    expected = precision_recall(made, real)
    monkeypatch.setattr(sys.modules["monai_plan.metrics.precision_recall"], "_ROWS", 7)
    assert precision_recall(made, real) == expected


@pytest.mark.parametrize("made", [torch.zeros(3, 4), torch.zeros(1, 2), torch.full((3, 2), math.nan)])
def test_what_cannot_be_compared(made):
    with pytest.raises(DataError):
        precision_recall(made, torch.zeros(3, 2))
