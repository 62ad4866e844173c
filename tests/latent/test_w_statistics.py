"""The mean and the spread of w: of Gaussians where both are known."""

from __future__ import annotations

import math

import pytest
import torch
from latent_fakes import FakeGenerator, assert_same_state, state_of

from monai_plan.latent.w_statistics import w_statistics
from monai_plan.utils import TrainingError


def known(generator, label):
    """E w and σ_w of w = A z + b + 3 e_y."""
    weight, bias = generator.to_w.weight.detach(), generator.to_w.bias.detach()
    offset = 0 if label is None else 3 * generator.embed.weight.detach()[label]
    return bias + offset, weight.square().sum().sqrt()


@pytest.mark.parametrize("num_classes", [0, 2])
def test_each_class_by_its_own(num_classes):
    generator = FakeGenerator(2, num_classes=num_classes)
    before = state_of(generator)
    labels = torch.tensor([1, 0, 1])
    means, sigmas = w_statistics(generator, labels, num_samples=100_000)
    assert_same_state(before, state_of(generator))
    assert means.shape == (3, 6)
    for label, mean, sigma in zip(labels.tolist(), means, sigmas, strict=True):
        expected_mean, expected_sigma = known(generator, label if num_classes else None)
        torch.testing.assert_close(mean, expected_mean, rtol=0, atol=0.01)
        torch.testing.assert_close(sigma, expected_sigma, rtol=0.01, atol=0)


def test_over_all_classes():
    """The classes lie apart, so the spread over both is that of a class and half their distance."""
    generator = FakeGenerator(2, num_classes=2)
    (mean,), (sigma,) = w_statistics(generator, num_samples=100_000)
    (first, within), (second, _) = known(generator, 0), known(generator, 1)
    torch.testing.assert_close(mean, (first + second) / 2, rtol=0, atol=0.02)
    assert sigma.item() == pytest.approx(math.hypot(within, (first - second).norm() / 2), rel=0.01)


def test_draws_depend_on_the_seed_alone():
    generator = FakeGenerator(2, num_classes=2)
    first, again, other = (w_statistics(generator, num_samples=50, seed=seed)[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_broken_mapping_is_found():
    generator = FakeGenerator(2)
    generator.to_w.weight.data.fill_(math.nan)
    with pytest.raises(TrainingError, match="mapping gives values that are not finite"):
        w_statistics(generator)
