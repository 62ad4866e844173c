"""The terms of the walk: each by hand, on Gaussians and images where the answer is known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from latent_fakes import FakeGenerator, assert_same_state, state_of
from torch import nn

from monai_plan.latent import (
    LikelihoodTerm,
    MarginTerm,
    WeightedTerm,
)
from monai_plan.utils import ConfigError, DataError, TrainingError

DIMS = pytest.mark.parametrize("spatial_dims", [2, 3])
NO_IMAGES = torch.empty(0)


class GaussianMapping(nn.Module):
    """w = μ_y + A z: a Gaussian of known mean and covariance A Aᵀ."""

    def __init__(self, matrix: torch.Tensor, means: torch.Tensor, *, num_classes: int):
        super().__init__()
        self.matrix, self.means = nn.Parameter(matrix), means
        self.z_dim, self.w_dim, self.num_classes = matrix.shape[1], matrix.shape[0], num_classes

    def mapping(self, z, labels=None):
        assert (labels is None) == (self.num_classes == 0)
        return (self.means[0] if labels is None else self.means[labels]) + z @ self.matrix.T


def gaussian(num_classes=2):
    rng = torch.Generator().manual_seed(0)
    matrix = torch.randn(4, 4, generator=rng) @ torch.diag(torch.tensor([3.0, 1.0, 0.5, 2.0]))
    return GaussianMapping(matrix, torch.randn(max(num_classes, 1), 4, generator=rng), num_classes=num_classes)


@pytest.mark.parametrize("num_classes", [0, 2])
def test_likelihood_is_the_mahalanobis_distance(num_classes):
    generator = gaussian(num_classes)
    term = LikelihoodTerm(generator, num_samples=200_000, min_shrinkage=1e-6)
    w = torch.randn(7, 4, generator=torch.Generator().manual_seed(1)) * 3
    labels = torch.arange(7) % max(num_classes, 1)
    centred = w - generator.means[labels]
    inverse = torch.linalg.inv(generator.matrix.detach() @ generator.matrix.detach().T)
    expected = torch.einsum("ni,ij,nj->n", centred, inverse, centred) / (2 * 4)
    torch.testing.assert_close(term(w, NO_IMAGES, labels), expected, rtol=0.02, atol=0.01)


def test_likelihood_of_an_unconditional_generator_does_not_ask_for_the_class():
    term = LikelihoodTerm(gaussian(0), num_samples=100)
    w = torch.randn(3, 4)
    assert torch.equal(term(w, NO_IMAGES, torch.tensor([0, 1, 5])), term(w, NO_IMAGES, torch.zeros(3).long()))


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 40), st.integers(0, 2**20))
def test_likelihood_of_samples_is_a_half_whatever_w_dim(w_dim, seed):
    """So that one weight serves any w_dim."""
    rng = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(w_dim, w_dim, generator=rng)).Q
    generator = GaussianMapping(turn * (1 + torch.rand(w_dim, generator=rng)), torch.zeros(1, w_dim), num_classes=0)
    term = LikelihoodTerm(generator, num_samples=5000, min_shrinkage=1e-6)
    w = generator.mapping(torch.randn(5000, w_dim, generator=rng)).detach()
    assert term(w, NO_IMAGES, torch.zeros(5000).long()).mean().item() == pytest.approx(0.5, rel=0.1)


def test_a_dead_direction_costs_as_much_as_the_shrinkage_says():
    """Variance 2, 2 and 0: δ = 0.05 makes it (4/3) δ in the dead one, and (1 − δ) 2 + (4/3) δ in the others."""
    matrix = torch.diag(torch.tensor([math.sqrt(2), math.sqrt(2), 0.0]))
    term = LikelihoodTerm(GaussianMapping(matrix, torch.zeros(1, 3), num_classes=0), num_samples=100_000)
    costs = term(torch.eye(3), NO_IMAGES, torch.zeros(3).long())
    living, dead = 0.95 * 2 + 0.05 * 4 / 3, 0.05 * 4 / 3
    torch.testing.assert_close(costs, torch.tensor([1 / living, 1 / living, 1 / dead]) / 6, rtol=0.02, atol=0)


def test_few_samples_do_not_make_the_covariance_singular():
    """Two samples of 4 numbers span one direction; Ledoit and Wolf's shrinkage fills the rest."""
    costs = LikelihoodTerm(gaussian(), num_samples=2)(100 * torch.eye(4), NO_IMAGES, torch.zeros(4).long())
    assert costs.isfinite().all()
    assert costs.max() < 1e6


def test_likelihood_in_w_plus_is_the_mean_over_layers():
    term = LikelihoodTerm(gaussian(), num_samples=1000)
    ws, labels = torch.randn(5, 3, 4), torch.tensor([0, 1, 1, 0, 1])
    layers = torch.stack([term(w, NO_IMAGES, labels) for w in ws.unbind(1)])
    torch.testing.assert_close(term(ws, NO_IMAGES, labels), layers.mean(0))


def test_likelihood_is_seeded_and_leaves_the_generator_alone():
    generator = FakeGenerator(2, num_classes=2)
    before = state_of(generator)
    first, again, other = (LikelihoodTerm(generator, num_samples=50, seed=seed) for seed in (0, 0, 1))
    assert_same_state(before, state_of(generator))
    assert torch.equal(first.whitening, again.whitening)
    assert not torch.equal(first.mean, other.mean)
    assert list(first.parameters()) == []  # the generator is no part of it


def test_a_constant_mapping_has_no_distribution():
    constant = GaussianMapping(torch.zeros(3, 3), torch.ones(1, 3), num_classes=0)
    with pytest.raises(TrainingError, match="variance of the mapping's w is 0"):
        LikelihoodTerm(constant, num_samples=10)


@pytest.mark.parametrize("option", [{"num_samples": 1}, {"min_shrinkage": 0.0}, {"min_shrinkage": 1.5}])
def test_bad_options_of_the_likelihood(option):
    with pytest.raises(ConfigError, match=next(iter(option))):
        LikelihoodTerm(gaussian(), **option)


def reals(spatial_dims):
    """Four constant images, two of a subject, embedded as their pixels: distances count pixels."""
    values = torch.tensor([-0.8, -0.7, 0.2, 0.5])
    images = values.view(4, 1, *[1] * spatial_dims).expand(4, 1, *[2] * spatial_dims)
    return images, torch.tensor([0, 0, 1, 2]), 2**spatial_dims


@DIMS
def test_margin_by_hand(spatial_dims):
    images, _, pixels = reals(spatial_dims)
    term = MarginTerm(nn.Flatten(), images, margin=0.04 * pixels, batch_size=3)
    x = torch.tensor([0.2, 0.3, 0.35, 0.9, -0.8]).view(5, 1, *[1] * spatial_dims).expand(5, *images.shape[1:])
    x = x.clone().requires_grad_()
    loss = term(NO_IMAGES, x, NO_IMAGES)
    # nearest 0.2, 0.2, 0.2 or 0.5 (0.15 off each), 0.5, -0.8; the margin is 0.2 off
    expected = torch.tensor([1, 1 - 0.01 / 0.04, 1 - 0.0225 / 0.04, 0, 1])
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    assert (gradient[1] < 0).all()  # away from 0.2
    assert (gradient[3] == 0).all()  # far away: nothing


@DIMS
def test_margin_from_the_images(spatial_dims):
    """To another subject: 1.0, 0.9, 0.3, 0.3 off; Tensor.median takes the lower of two."""
    images, identities, pixels = reals(spatial_dims)
    term = MarginTerm(nn.Flatten(), images, identities=identities)
    assert term.margin.item() == pytest.approx(0.3**2 * pixels, rel=1e-5)
    everyone = MarginTerm(nn.Flatten(), images, identities=torch.arange(4))  # 0.1, 0.1, 0.3, 0.3
    assert everyone.margin.item() == pytest.approx(0.1**2 * pixels, rel=1e-4)


def test_the_distance_to_a_close_image_is_exact():
    """Where ‖q‖² − 2 q·r + ‖r‖² has lost all its digits."""
    images = torch.full((2, 1, 4, 4), 1000.0)
    images[1] = 3000.0
    moved = images[:1] + 2**-10
    loss = MarginTerm(nn.Flatten(), images, margin=1.0)(NO_IMAGES, moved, NO_IMAGES)
    assert loss.item() == 1 - 16 * 2.0**-20


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**20))
def test_margin_is_that_of_the_slow_loop(queries, count, seed):
    rng = torch.Generator().manual_seed(seed)
    images, x = torch.randn(count, 1, 3, 3, generator=rng), torch.randn(queries, 1, 3, 3, generator=rng)
    loss = MarginTerm(nn.Flatten(), images, margin=9.0)(NO_IMAGES, x, NO_IMAGES)
    for value, query in zip(loss.tolist(), x, strict=True):
        least = min((query - real).square().sum().item() for real in images)
        assert value == pytest.approx(max(0, 9 - least) / 9, abs=1e-4)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ConfigError, "margin is None and there are no identities"),
        ({"margin": 0.0}, ConfigError, "margin is 0.0"),
        ({"margin": 1.0, "batch_size": 0}, ConfigError, "batch_size must be at least 1"),
        ({"identities": torch.tensor([0, 0])}, DataError, "another identity is inf, which is no margin"),
        ({"identities": torch.tensor([0])}, DataError, "identities must be"),
        ({"identities": torch.tensor([0, 1])}, DataError, "another identity is 0, which is no margin"),
    ],
)
def test_bad_options_of_the_margin(options, error, message):
    with pytest.raises(error, match=message):
        MarginTerm(nn.Flatten(), torch.zeros(2, 1, 2, 2), **options)
    with pytest.raises(DataError, match="no real images"):
        MarginTerm(nn.Flatten(), torch.zeros(0, 1, 2, 2), margin=1.0)


@pytest.mark.parametrize(("weight", "term"), [(-1.0, nn.Flatten()), (math.inf, nn.Flatten()), (1.0, len)])
def test_bad_weighted_terms(weight, term):
    with pytest.raises(ConfigError, match="term"):
        WeightedTerm(weight, term)
