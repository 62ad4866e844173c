"""The terms of the walk: each by hand, on images where the answer is known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from monai_plan.latent import ClassTerm, IdentityTerm, MarginTerm
from monai_plan.utils import ConfigError, DataError

DIMS = pytest.mark.parametrize("spatial_dims", [2, 3])
NO_IMAGES = torch.empty(0)


def test_identity_and_class_by_hand():
    """p = (1/4, 3/4): KL(U ‖ p) = ½ log(½ / ¼) + ½ log(½ / ¾) = ½ log(4/3); the second point is uniform."""
    logits = torch.tensor([[0.0, math.log(3)], [5.0, 5.0]])  # the networks give back what they get
    found = IdentityTerm(nn.Identity())(NO_IMAGES, logits, NO_IMAGES)
    torch.testing.assert_close(found, torch.tensor([0.5 * math.log(4 / 3), 0]), rtol=1e-5, atol=1e-6)
    found = ClassTerm(nn.Identity())(NO_IMAGES, logits, torch.tensor([1, 0]))
    torch.testing.assert_close(found, torch.tensor([-math.log(0.75), -math.log(0.5)]))


@pytest.mark.parametrize("of", [IdentityTerm, ClassTerm])
def test_bfloat16_is_for_the_network_alone(of):
    images = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    exact, rough = (of(nn.Linear(7, 3).requires_grad_(False), amp=amp) for amp in (False, True))
    rough.network = exact.network
    labels = torch.tensor([0, 1, 2, 0, 1])
    values = [term(NO_IMAGES, images, labels) for term in (exact, rough)]
    assert values[1].dtype == torch.float32
    torch.testing.assert_close(*values, rtol=0.05, atol=0.01)
    assert not torch.equal(*values)


def test_terms_refuse_wrong_logits():
    with pytest.raises(ConfigError, match="n ≥ 2"):
        IdentityTerm(nn.Identity())(NO_IMAGES, torch.zeros(4, 1), NO_IMAGES)
    with pytest.raises(ConfigError, match="num_classes"):
        ClassTerm(nn.Identity())(NO_IMAGES, torch.zeros(4), torch.zeros(4).long())
    for label in (-1, 3):
        with pytest.raises(ConfigError, match=f"Label {label} lies outside the classes 0 … 2"):
            ClassTerm(nn.Identity())(NO_IMAGES, torch.zeros(4, 3), torch.tensor([0, 2, label, 1]))


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
        ({"identities": torch.tensor([0])}, DataError, "groups must be"),
        ({"identities": torch.tensor([0, 1])}, DataError, "another identity is 0, which is no margin"),
    ],
)
def test_bad_options_of_the_margin(options, error, message):
    with pytest.raises(error, match=message):
        MarginTerm(nn.Flatten(), torch.zeros(2, 1, 2, 2), **options)
    with pytest.raises(DataError, match="no real images"):
        MarginTerm(nn.Flatten(), torch.zeros(0, 1, 2, 2), margin=1.0)
