"""The losses by hand and in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from monai_plan.gan.losses import (
    OBJECTIVES,
    aided_d_loss,
    aided_g_loss,
    gan_objective,
    hinge_d_loss,
    hinge_g_loss,
    logistic_d_loss,
    logistic_g_loss,
    r1_penalty,
    relativistic_d_loss,
    relativistic_g_loss,
    variety_loss,
)
from monai_plan.utils import ConfigError

SHAPES = {2: (1, 4, 3), 3: (1, 4, 3, 2)}


def sigmoid(x):
    return 1 / (1 + (-x).exp())


# the objectives as their papers write them: (L_D, L_G) of real and fake logits, one pair at a time
WRITTEN_OUT = {
    "logistic": (
        lambda real, fake: -sigmoid(real).log() - (1 - sigmoid(fake)).log(),
        lambda real, fake: -sigmoid(fake).log(),
    ),
    "relativistic": (
        lambda real, fake: -sigmoid(real - fake).log(),
        lambda real, fake: -sigmoid(fake - real).log(),
    ),
    "hinge": (
        lambda real, fake: max(0, 1 - real) + max(0, 1 + fake),
        lambda real, fake: -fake,
    ),
}


class Linear(nn.Module):
    """D(x) = a·x."""

    def __init__(self, shape):
        super().__init__()
        self.a = nn.Parameter(torch.randn(math.prod(shape)))

    def forward(self, x):
        return x.flatten(1) @ self.a


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


def test_relativistic_losses_by_hand():
    # differences real - fake: 0 and log 3; -log σ: log 2 and log 4/3 for D, log 2 and log 4 for G
    real, fake = torch.tensor([5.0, 2.0]), torch.tensor([5.0, 2.0 - math.log(3)])
    assert relativistic_d_loss(real, fake).item() == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)
    assert relativistic_g_loss(real, fake).item() == pytest.approx((math.log(2) + math.log(4)) / 2)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(*[st.floats(-5, 5)] * 2), min_size=1, max_size=6), st.floats(-50, 50))
def test_relativistic_losses_see_no_constant_added_to_the_discriminator(pairs, constant):
    real, fake = torch.tensor(pairs, dtype=torch.float64).unbind(1)
    for loss in (relativistic_d_loss, relativistic_g_loss):
        torch.testing.assert_close(loss(real + constant, fake + constant), loss(real, fake))
    assert relativistic_g_loss(real, fake) == relativistic_d_loss(fake, real)


def test_pairs_within_the_class_cancel_what_the_discriminator_gives_to_a_class():
    """A projection discriminator may score one class higher than another: that must not decide the pairs."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    real, fake = torch.randn(2, 6, generator=rng)
    of_class = torch.tensor([-4.0, 0.0, 9.0])[labels]
    expected = relativistic_d_loss(real, fake)
    torch.testing.assert_close(relativistic_d_loss(real + of_class, fake + of_class), expected)
    across = torch.tensor([2, 3, 4, 5, 0, 1])  # every real with a fake of another class
    shuffled = relativistic_d_loss(real + of_class, (fake + of_class)[across])
    assert (shuffled - relativistic_d_loss(real, fake[across])).abs() > 1


def test_relativistic_losses_refuse_what_is_not_in_pairs():
    for loss in (relativistic_d_loss, relativistic_g_loss):
        with pytest.raises(ValueError, match="compared in pairs"):
            loss(torch.zeros(4), torch.zeros(1))


def test_hinge_losses_by_hand():
    real, fake = torch.tensor([-1.0, 0.5, 1.0, 7.0]), torch.tensor([1.0, -0.5, -1.0, -7.0])
    assert hinge_d_loss(real, fake).item() == pytest.approx((2 + 0.5) / 4 + (2 + 0.5) / 4)
    assert hinge_g_loss(fake).item() == pytest.approx(7.5 / 4)


def test_aided_losses_by_hand():
    """log 2 twice for the own logits, which are 0; hinge for the two others of each image."""
    real, fake = torch.tensor([[0.0, -1.0, 7.0]]), torch.tensor([[0.0, 1.0, -0.5]])
    assert aided_d_loss(real, fake, aid_weight=0.3).item() == pytest.approx(2 * math.log(2) + 0.3 * (1 + 1.25))
    assert aided_g_loss(fake, aid_weight=0.3).item() == pytest.approx(math.log(2) - 0.3 * 0.25)


@pytest.mark.parametrize("aid_weight", [0.0, -1.0, math.inf, math.nan])
def test_a_weight_of_the_aid_that_is_none_is_refused(aid_weight):
    with pytest.raises(ConfigError, match=f"aid_weight is {aid_weight}.*logistic"):
        gan_objective("aided", aid_weight=aid_weight)


def test_the_weight_of_the_aid_arrives():
    real, fake = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    for weight in (0.1, 2.0):
        objective = gan_objective("aided", aid_weight=weight)
        assert objective.d_loss(real, fake) == aided_d_loss(real, fake, aid_weight=weight)
        assert objective.g_loss(fake) == aided_g_loss(fake, aid_weight=weight)


def test_hinge_leaves_scores_beyond_the_margin_alone():
    real = torch.tensor([0.9, 1.1], requires_grad=True)
    fake = torch.tensor([-0.9, -1.1], requires_grad=True)
    hinge_d_loss(real, fake).backward()
    assert real.grad.tolist() == [-0.5, 0.0]
    assert fake.grad.tolist() == [0.5, 0.0]


@pytest.mark.parametrize("name", WRITTEN_OUT)
@pytest.mark.parametrize("shape", [(5,), (3, 4)])
def test_objectives_and_their_gradients_equal_the_papers_formulas(name, shape):
    rng = torch.Generator().manual_seed(1)
    real, fake = (torch.randn(2, *shape, dtype=torch.float64, generator=rng) * 2).requires_grad_(True).unbind()
    objective = gan_objective(name)
    for loss, formula in zip(
        (objective.d_loss(real, fake), objective.g_loss(fake, real)), WRITTEN_OUT[name], strict=True
    ):
        pairs = zip(real.flatten(), fake.flatten(), strict=True)
        expected = sum(formula(r, f) for r, f in pairs) / real.numel()
        torch.testing.assert_close(loss, expected)
        options = {"retain_graph": True, "allow_unused": True}
        for ours, theirs in zip(
            torch.autograd.grad(loss, (real, fake), **options),
            torch.autograd.grad(expected, (real, fake), **options),
            strict=True,
        ):
            assert (ours is None) == (theirs is None)
            if ours is not None:
                torch.testing.assert_close(ours, theirs)


def test_objectives_say_whether_the_generator_needs_the_reals():
    assert [name for name in OBJECTIVES if gan_objective(name).in_pairs] == ["relativistic"]
    fake = torch.tensor([0.3, -2.0])
    assert gan_objective("logistic").g_loss(fake) == logistic_g_loss(fake)
    assert gan_objective("hinge").g_loss(fake) == hinge_g_loss(fake)


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_objectives_are_finite_at_extreme_logits(name):
    real, fake = torch.tensor([[-1e4, 1e4], [1e4, -1e4]])
    objective = gan_objective(name)
    assert objective.d_loss(real, fake).isfinite()
    assert objective.g_loss(fake, real).isfinite()


def test_unknown_objective_names_the_choices():
    with pytest.raises(ConfigError, match="'wasserstein': use one of aided, logistic, relativistic, hinge"):
        gan_objective("wasserstein")


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
def test_gradient_penalty_of_many_logits_an_image_is_that_of_their_sum(spatial_dims):
    """As for a discriminator with L places: D_l(x) = a_l·x has the penalty ‖Σ a_l‖², on fakes (R2) as on reals (R1)."""
    torch.manual_seed(0)
    weights = torch.randn(math.prod(SHAPES[spatial_dims]), 7)
    images = torch.randn(5, *SHAPES[spatial_dims], requires_grad=True)
    penalty = r1_penalty(images.flatten(1) @ weights, images)
    torch.testing.assert_close(penalty, weights.sum(1).square().sum())


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_variety_is_asked_for_until_fakes_differ_as_reals_do(spatial_dims):
    torch.manual_seed(0)
    reals, labels = torch.randn(8, 1, *(4,) * spatial_dims), torch.tensor([0, 1] * 4)
    alike = torch.randn(1, 1, *(4,) * spatial_dims).repeat(8, *(1,) * (spatial_dims + 1))
    assert variety_loss(reals, reals, labels) == 0
    assert variety_loss(2 * reals, reals, labels) == 0
    assert variety_loss(alike, reals, labels) == 1
    half = (alike + reals).requires_grad_()
    assert variety_loss(0.5 * half, reals, labels).item() == pytest.approx(0.5, abs=1e-6)
    variety_loss(0.5 * half, reals, labels).backward()
    assert half.grad.abs().sum() > 0


def test_variety_counts_within_a_class():
    """Fakes that differ between the classes alone have next to none."""
    labels = torch.tensor([0, 1] * 8)
    reals = torch.randn(16, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    fakes = labels.float().view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    assert variety_loss(fakes, reals, labels) > 0.8
    assert variety_loss(fakes, reals, None) < 0.2
