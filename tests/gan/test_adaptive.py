"""Augmentation follows the sign of D on real images, and what D sees augmented does not leak into the generator."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from monai_plan.gan.augment import AdaptiveStrength, DifferentiableAugment
from monai_plan.utils import ConfigError

OFF = {"translation": 0.0, "brightness": 0.0, "contrast": 0.0, "cutout": 0.0}
P_MAX = 0.8  # of AdaptiveStrength


def controller(p=0.0, **options):
    return AdaptiveStrength(DifferentiableAugment(p=p), **options)


def feed(adaptive, signs, batch_size=16):
    """p after each batch."""
    history = []
    for sign in signs:
        adaptive.update(torch.tensor(float(sign)), batch_size)
        history.append(adaptive.p.item())
    return history


def test_p_rises_by_the_images_seen_while_d_knows_the_reals():
    history = feed(controller(images_to_full=1000, interval=64), [1.0] * 12)
    expected = [0.064 * ((batch + 1) // 4) for batch in range(12)]  # once every 4 batches of 16
    assert history == pytest.approx(expected, abs=1e-6)


def test_p_reaches_one_after_images_to_full_whatever_the_batch():
    for batch_size in (7, 16, 50, 300):  # an interval is over with the batch that completes it
        adaptive = controller(images_to_full=3000, interval=100, p_max=1.0)
        batches = math.ceil(1500 / batch_size)
        history = feed(adaptive, [1.0] * batches, batch_size)
        assert history[-1] == pytest.approx(0.5, abs=(100 + batch_size) / 3000)
        assert feed(adaptive, [1.0] * 2 * batches, batch_size)[-1] == pytest.approx(1.0, abs=1e-5)


def test_p_falls_while_d_is_unsure_and_stays_within_its_bounds():
    adaptive = controller(p=0.1, images_to_full=1000, interval=16, p_max=0.3)
    assert feed(adaptive, [0.0])[-1] == pytest.approx(0.1 - 0.016)
    assert feed(adaptive, [-1.0] * 20)[-1] == 0
    assert feed(adaptive, [1.0] * 40)[-1] == pytest.approx(0.3)


def test_the_mean_over_the_interval_is_held_against_the_target():
    options = {"images_to_full": 1000, "interval": 64, "target": 0.5, "p": 0.2}
    assert feed(controller(**options), [1.0, 1.0, 0.0, 0.25])[-1] == pytest.approx(0.264)  # 0.5625
    assert feed(controller(**options), [1.0, 1.0, 0.0, -0.25])[-1] == pytest.approx(0.136)  # 0.4375
    assert feed(controller(**options), [1.0, 0.0, 1.0, 0.0])[-1] == pytest.approx(0.2)  # 0.5, no reason to move
    adaptive = controller(**options)  # images, not batches, have a weight
    adaptive.update(torch.tensor(0.0), 60)
    adaptive.update(torch.tensor(1.0), 16)
    assert adaptive.p.item() == pytest.approx(0.2 - 0.076)
    feed(adaptive, [1.0] * 4)  # the next interval begins anew
    assert adaptive.p.item() == pytest.approx(0.2 - 0.076 + 0.064)


def test_the_defaults_are_those_of_the_paper():
    adaptive = controller()
    assert adaptive.target == 0.6
    assert feed(adaptive, [0.61] * 16)[-1] == pytest.approx(256 / 500_000)
    assert feed(adaptive, [0.59] * 16)[-1] == pytest.approx(0, abs=1e-9)
    assert adaptive.p_max == P_MAX


def test_the_augmentation_follows():
    images = torch.rand(64, 1, 8, 8)
    augment = DifferentiableAugment(p=0, translation=0, contrast=0, cutout=0)
    adaptive = AdaptiveStrength(augment, images_to_full=100, interval=80, p_max=1.0)
    assert torch.equal(augment(images), images)
    feed(adaptive, [1.0] * 10)  # 0.8 twice, at most 1
    assert (augment(images) != images).flatten(1).any(1).all()


def test_continued_from_its_state_equals_uninterrupted():
    signs = torch.rand(40, generator=torch.Generator().manual_seed(0)).mul(2).sub(0.4).tolist()
    whole, first, second = (controller(p=0.3, images_to_full=2000, interval=40) for _ in range(3))
    expected = feed(whole, signs)
    history = feed(first, signs[:16])  # in the middle of an interval
    second.load_state_dict(first.state_dict())
    assert history + feed(second, signs[16:]) == expected
    assert len(set(expected)) > 4


def test_update_does_not_wait_for_the_device():
    torch.compiler.reset()
    compiled, plain = (controller(images_to_full=1000, interval=32) for _ in range(2))
    update = torch.compile(compiled.update, fullgraph=True, backend="eager")
    for sign in (1.0, 1.0, 1.0, -1.0):
        update(torch.tensor(sign), 16)
        plain.update(torch.tensor(sign), 16)
        assert torch.equal(compiled.p, plain.p)
    assert compiled.p == 0
    assert compiled.count == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": 1.0}, r"target is 1\.0.*\(-1, 1\)"),
        ({"target": float("nan")}, "target is nan"),
        ({"interval": 0}, "interval is 0.*at least 1 image"),
        ({"images_to_full": 100}, "images_to_full is 100.*at least interval, 256"),
        ({"p_max": 0.0}, r"p_max is 0\.0.*\(0, 1\]"),
        ({"p_max": 1.1}, r"p_max is 1\.1"),
        ({"p": 0.9}, r"starts with p 0\.9, above p_max 0\.8"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ConfigError, match=message):
        controller(**options)


def test_p_may_start_at_its_bound():
    assert feed(controller(p=P_MAX), [1.0] * 16)[-1] == pytest.approx(P_MAX)


# Leakage, in closed form. Augmentation maps the distribution of images to another one, linearly. If that map has an
# inverse, two distributions that look alike augmented are alike (arXiv 2006.06676, appendix C).


def only(p, **strength):
    return DifferentiableAugment(p=p, **{**OFF, **strength})


@pytest.mark.parametrize("p", [0.3, P_MAX, 1.0])
def test_flips_have_an_inverse_below_p_1(p):
    """The map on {image, mirror image} is [[1 - p/2, p/2], [p/2, 1 - p/2]], with the singular values 1 and 1 - p."""
    image = torch.arange(6.0).expand(20_000, 1, 1, 6)
    torch.manual_seed(0)
    flipped = (only(p, flips=(1,))(image) != image).flatten(1).any(1).float().mean().item()
    transition = torch.tensor([[1 - flipped, flipped], [flipped, 1 - flipped]])
    singular = torch.linalg.svdvals(transition)
    assert singular.tolist() == pytest.approx([1, 1 - p], abs=0.02)
    assert (singular.min() > 0.1) == (p <= P_MAX)


@pytest.mark.parametrize("limit", [1, 2, 3, 8])
def test_shifts_have_an_inverse_up_to_p_max(limit):
    """On a ring of positions the map is circulant: its singular values are the Fourier coefficients of the shifts."""
    size, count = 32, 40_000
    images = torch.full((count, 1, 1, size), -1.0)
    images[..., size // 2] = 1
    torch.manual_seed(0)
    places = only(P_MAX, translation=limit / size)(images).flatten(1).argmax(1)
    shifts = torch.bincount(places - size // 2 + limit, minlength=2 * limit + 1) / count
    frequencies = torch.linspace(-math.pi, math.pi, 1001)
    steps = torch.arange(-limit, limit + 1.0)
    coefficients = (shifts * torch.exp(1j * frequencies[:, None] * steps)).sum(1)
    # uniform numbers in [-limit, limit], rounded: the ends have half the weight
    weights = torch.ones(2 * limit + 1)
    weights[[0, -1]] = 0.5
    expected = 1 - P_MAX + P_MAX * (weights / weights.sum() * torch.cos(frequencies[:, None] * steps)).sum(1)
    assert (coefficients - expected).abs().max() < 0.02
    assert expected.min() > 1 - 1.2173 * P_MAX > 0
    assert coefficients.abs().min() > 0.01


@pytest.mark.parametrize("change", ["brightness", "contrast", "gamma", "scale", "rotation", "fractional_translation"])
def test_continuous_changes_have_an_inverse_up_to_p_max(change):
    """Changes by a number add up when repeated: the map multiplies the Fourier coefficients over that number."""
    strength, count = (10.0 if change == "rotation" else 0.3), 40_000
    places = (torch.arange(5) - 2.0) / 2  # -1, -0.5, 0, 0.5, 1
    images = torch.stack(torch.meshgrid(places, places, indexing="ij")).expand(count, 2, 5, 5)
    torch.manual_seed(0)
    changed = only(P_MAX, **{change: strength})(images)
    middle, right = changed[:, 1, 2, 2], changed[:, 1, 2, 3]
    slope = changed[:, 0, 2, 3]
    number = {
        "brightness": middle / 0.3,
        "contrast": ((right - middle) / 0.5).log() / math.log(1.3),
        "gamma": ((middle + 1) / 2).log().div(math.log(0.5)).log() / math.log(1.5),
        "scale": (right / 0.5).log() / math.log(1.3),
        "rotation": torch.atan2(slope, right).rad2deg() / 10,
        "fractional_translation": middle / (0.3 * 2.5),
    }[change]
    frequencies = torch.linspace(0.1, 12, 100)
    coefficients = torch.exp(1j * frequencies[:, None] * number).mean(1)
    if change not in ("contrast", "gamma"):  # these two are uniform only nearly
        expected = 1 - P_MAX + P_MAX * torch.sinc(frequencies / math.pi)
        assert (coefficients - expected).abs().max() < 0.03
    assert coefficients.abs().min() > 0.01
    always = (coefficients - (1 - P_MAX)) / P_MAX
    assert always.real.min() < -0.1 < 0.1 < always.real.max()  # with p = 1 they would pass 0


# Leakage, tried out: one number of an image has a distribution with mean and deviation, which G has to learn.


def grey(values):
    """Uniform images."""
    return values.view(-1, 1, 1, 1).expand(-1, 1, 4, 4)


def stripe(values):
    """A bright stripe at a place between left, -1, and right, 1."""
    places = torch.linspace(-2, 2, 16)
    return (2 * torch.exp(-((places - values.view(-1, 1, 1, 1)) ** 2) / 0.25) - 1).expand(-1, 1, 4, 16)


def learn(draw, real, *, augment_real, augment_fake, seed=0, steps=300, batch_size=64):
    """(mean, deviation) of a generator after training on images with ``real`` mean and deviation: R1, Adam."""
    torch.manual_seed(seed)
    mean = torch.tensor(0.0, requires_grad=True)
    log_deviation = torch.tensor(math.log(0.4), requires_grad=True)
    layers = [nn.Linear(draw(torch.zeros(1)).numel(), 32), nn.LeakyReLU(0.2), nn.Linear(32, 32), nn.LeakyReLU(0.2)]
    discriminator = nn.Sequential(nn.Flatten(), *layers, nn.Linear(32, 1))
    g_optimizer = torch.optim.Adam([mean, log_deviation], lr=0.02, betas=(0.0, 0.99))
    d_optimizer = torch.optim.Adam(discriminator.parameters(), lr=0.005, betas=(0.0, 0.99))
    last = []
    for step in range(steps):
        g_optimizer.zero_grad()
        fakes = draw(mean + log_deviation.exp() * torch.randn(batch_size))
        F.softplus(-discriminator(augment_fake(fakes))).mean().backward()
        g_optimizer.step()
        d_optimizer.zero_grad()
        reals = draw(real[0] + real[1] * torch.randn(batch_size)).contiguous().requires_grad_()
        fakes = draw(mean + log_deviation.exp() * torch.randn(batch_size)).detach()
        logits = discriminator(augment_real(reals))
        (gradient,) = torch.autograd.grad(logits.sum(), reals, create_graph=True)
        penalty = gradient.square().flatten(1).sum(1).mean()  # R1 through the augmentation
        loss = F.softplus(-logits).mean() + F.softplus(discriminator(augment_fake(fakes))).mean()
        (loss + 0.025 * penalty).backward()
        d_optimizer.step()
        if step >= steps // 2:
            last.append((mean.item(), log_deviation.exp().item()))
    return torch.tensor(last).mean(0).tolist()


@pytest.mark.parametrize(
    ("draw", "change"),
    [(grey, {"brightness": 0.6}), (stripe, {"translation": 0.25})],
    ids=["brightness", "translation"],
)
@pytest.mark.parametrize("p", [0.5, P_MAX])
def test_the_generator_learns_the_distribution_without_augmentation(draw, change, p):
    augment = only(p, **change)
    mean, deviation = learn(draw, (0.2, 0.1), augment_real=augment, augment_fake=augment)
    assert mean == pytest.approx(0.2, abs=0.02)
    assert deviation == pytest.approx(0.1, abs=0.02)
    # while augmenting the real images alone leaks: the test can tell
    _, deviation = learn(draw, (0.2, 0.1), augment_real=augment, augment_fake=nn.Identity())
    assert deviation > 0.135


def test_the_generator_learns_the_side_where_flips_are_not_certain():
    """A chosen flip is done half of the time: with p = 1 both sides look alike, and chance decides."""
    sides = {}
    for p in (0.5, 1.0):
        augment = only(p, flips=(1,))
        found = [learn(stripe, (0.6, 0.1), augment_real=augment, augment_fake=augment, seed=seed) for seed in range(2)]
        sides[p] = [mean for mean, _ in found]
    assert sides[0.5] == pytest.approx([0.6] * 2, abs=0.03)
    assert min(sides[1.0]) == pytest.approx(-0.6, abs=0.03)
