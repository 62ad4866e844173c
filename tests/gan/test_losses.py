"""The losses by hand and in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from monai_plan.gan import logistic_d_loss, logistic_g_loss, path_lengths, r1_penalty

SHAPES = {2: (1, 4, 3), 3: (1, 4, 3, 2)}


class Linear(nn.Module):
    """D(x) = a·x."""

    def __init__(self, shape):
        super().__init__()
        self.a = nn.Parameter(torch.randn(math.prod(shape)))

    def forward(self, x):
        return x.flatten(1) @ self.a


class LinearGenerator(nn.Module):
    """G(w) = A w as an image."""

    def __init__(self, matrix, shape):
        super().__init__()
        self.matrix, self.shape = nn.Parameter(matrix), shape

    def forward(self, w):
        return (w @ self.matrix.T).view(-1, *self.shape)


def test_generator_loss_by_hand():
    # -log σ(0) = log 2 and -log σ(log 3) = log 4/3
    logits = torch.tensor([0.0, math.log(3)])
    assert logistic_g_loss(logits).item() == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)


def test_discriminator_loss_by_hand():
    real, fake = torch.tensor([0.0, math.log(3)]), torch.tensor([math.log(3), -math.log(7), 0.0])
    expected_real = (math.log(2) + math.log(4 / 3)) / 2  # mean of -log σ(real)
    expected_fake = (math.log(4) + math.log(8 / 7) + math.log(2)) / 3  # mean of -log(1 - σ(fake))
    assert logistic_d_loss(real, fake).item() == pytest.approx(expected_real + expected_fake)


def test_losses_of_extreme_logits_are_finite():
    extreme = torch.tensor([-1e4, 1e4])
    assert logistic_g_loss(extreme).item() == pytest.approx(5e3)
    assert logistic_d_loss(extreme, extreme).item() == pytest.approx(1e4)


def test_generator_loss_does_not_saturate():
    """The gradient is greatest where the discriminator is sure that the image is generated."""
    logits = torch.tensor([-10.0, 0.0, 10.0], requires_grad=True)
    logistic_g_loss(logits).backward()
    torch.testing.assert_close(logits.grad * 3, -torch.sigmoid(-logits.detach()))


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_r1_of_a_linear_discriminator(spatial_dims):
    torch.manual_seed(0)
    discriminator = Linear(SHAPES[spatial_dims])
    images = torch.randn(5, *SHAPES[spatial_dims], requires_grad=True)
    penalty = r1_penalty(discriminator(images), images)
    assert penalty.shape == ()
    torch.testing.assert_close(penalty, discriminator.a.square().sum())
    penalty.backward()  # ∂‖a‖²/∂a = 2 a: the penalty reaches the weights
    torch.testing.assert_close(discriminator.a.grad, 2 * discriminator.a)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_r1_is_the_mean_over_images_of_squared_norms(spatial_dims):
    """D(x) = ‖x‖²/2 has the gradient x."""
    images = torch.randn(5, *SHAPES[spatial_dims], requires_grad=True)
    penalty = r1_penalty(images.square().flatten(1).sum(1) / 2, images)
    expected = sum(image.square().sum().item() for image in images.detach()) / 5
    assert penalty.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_path_lengths_of_a_linear_generator(spatial_dims, channels):
    """J = A whatever w, so the lengths are ‖Aᵀ y‖ with y of normal noise divided by √pixels, all channels of them."""
    shape = (channels, *SHAPES[spatial_dims][1:])
    torch.manual_seed(0)
    generator = LinearGenerator(torch.randn(math.prod(shape), 6), shape)
    w = torch.randn(5, 6, requires_grad=True)
    torch.manual_seed(1)
    lengths = path_lengths(generator, w)
    torch.manual_seed(1)
    y = torch.randn(5, *shape) / math.sqrt(math.prod(shape[1:]))
    expected = torch.stack([(generator.matrix.T @ one.flatten()).norm() for one in y])
    torch.testing.assert_close(lengths, expected)


def test_path_lengths_of_an_isometry():
    """For orthonormal columns times c, ‖Jᵀ y‖² is c²/pixels times chi-squared with w_dim degrees of freedom."""
    rng = torch.Generator().manual_seed(0)
    columns = torch.linalg.qr(torch.randn(48, 4, generator=rng))[0]
    generator = LinearGenerator(columns * 5, (1, 8, 6))
    torch.manual_seed(0)
    squares = path_lengths(generator, torch.randn(20_000, 4, requires_grad=True)).square() * 48 / 25
    assert squares.mean().item() == pytest.approx(4, rel=0.03)  # mean and variance of chi-squared: 4 and 8
    assert squares.var().item() == pytest.approx(8, rel=0.1)


def test_path_lengths_reach_the_weights():
    """For one image the length is |c| ‖Aᵀ y‖; its derivative to the scale c is the length over c."""
    torch.manual_seed(0)
    generator = LinearGenerator(torch.randn(12, 3), (1, 4, 3))
    lengths = path_lengths(generator, torch.randn(2, 3, requires_grad=True))
    (gradient,) = torch.autograd.grad(lengths.sum(), generator.matrix)
    # lengths are homogeneous of degree 1 in the matrix: <∂/∂A, A> = length (Euler)
    torch.testing.assert_close((gradient * generator.matrix).sum(), lengths.sum())
