"""Each change alone has the effect that its argument names, in 2D and 3D, and gradients pass."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from monai_plan.gan import DifferentiableAugment
from monai_plan.utils import ConfigError

OFF = {"translation": 0.0, "brightness": 0.0, "contrast": 0.0, "cutout": 0.0}
SHAPES = [(1, 8, 12), (3, 8, 5), (1, 8, 6, 4)]


def only(p=1.0, **strength):
    return DifferentiableAugment(p=p, **{**OFF, **strength})


def batch(shape, count=30, seed=0):
    torch.manual_seed(seed)
    return torch.rand(count, *shape) * 2 - 1


def shifted(images, shift):
    """Pixel by pixel: what moves in from outside is -1."""
    result = torch.full_like(images, -1.0)
    for position in itertools.product(*map(range, images.shape[2:])):
        source = tuple(p - s for p, s in zip(position, shift, strict=True))
        if all(0 <= i < size for i, size in zip(source, images.shape[2:], strict=True)):
            result[(..., *position)] = images[(..., *source)]
    return result


@pytest.mark.parametrize("shape", SHAPES)
def test_never_is_the_identity(shape):
    images = batch(shape)
    assert torch.equal(DifferentiableAugment(p=0)(images), images)
    assert torch.equal(only()(images), images)


@pytest.mark.parametrize("shape", SHAPES)
def test_translation_moves_whole_pixels(shape):
    images = batch(shape, count=60)
    limits = [int(size * 0.25) for size in shape[1:]]
    possible = list(itertools.product(*(range(-limit, limit + 1) for limit in limits)))
    torch.manual_seed(0)
    results = only(translation=0.25)(images)
    equal = torch.stack([(shifted(images, shift) == results).flatten(1).all(1) for shift in possible])
    assert (equal.sum(0) == 1).all()
    found = [possible[index] for index in equal.int().argmax(0)]
    for axis, limit in enumerate(limits):  # both ends of the range occur, and the axes move on their own
        assert {shift[axis] for shift in found} >= {-limit, limit}
    assert len(set(found)) > 2 * max(limits) + 1


@pytest.mark.parametrize("shape", SHAPES)
def test_brightness_adds_a_constant(shape):
    images = batch(shape)
    torch.manual_seed(0)
    added = (only(brightness=0.3)(images) - images).flatten(1)
    assert (added.amax(1) - added.amin(1)).max() < 1e-6
    constants = added.mean(1)
    assert constants.abs().max() <= 0.3 + 1e-6
    assert constants.min() < -0.2
    assert constants.max() > 0.2


@pytest.mark.parametrize("shape", SHAPES)
def test_contrast_keeps_the_mean(shape):
    images = batch(shape)
    torch.manual_seed(0)
    before = images.flatten(1)
    after = only(contrast=0.3)(images).flatten(1)
    torch.testing.assert_close(after.mean(1), before.mean(1))
    factors = after.std(1) / before.std(1)
    mean = before.mean(1, keepdim=True)
    torch.testing.assert_close(after, mean + (before - mean) * factors[:, None])
    assert 0.7 - 1e-5 <= factors.min() < 0.8
    assert 1.2 < factors.max() <= 1.3 + 1e-5


@pytest.mark.parametrize("shape", SHAPES)
def test_cutout_zeroes_one_box(shape):
    images = batch(shape, count=80).abs() + 0.1
    torch.manual_seed(0)
    results = only(cutout=0.4)(images)
    removed = results == 0
    assert torch.equal(results[~removed], images[~removed])
    full = 0
    for mask in removed:
        assert (mask == mask[:1]).all()  # the same in all channels
        kept_axes = []
        for axis, size in enumerate(shape[1:]):
            others = tuple(a for a in range(len(shape) - 1) if a != axis)
            along = mask[0].any(dim=others) if others else mask[0]
            places = along.nonzero().flatten()
            edge = 0.4 * size
            assert len(places) <= edge + 1
            assert len(places) == 0 or places[-1] - places[0] == len(places) - 1  # without a gap
            if len(places) and places[0] > 0 and places[-1] < size - 1:
                assert abs(len(places) - edge) < 1  # a box that touches no border has its full edge
                full += 1
            kept_axes.append(along)
        box = kept_axes[0]
        for along in kept_axes[1:]:
            box = box.unsqueeze(-1) & along
        assert torch.equal(mask[0], box)  # the product of its sides: one box
    assert full > 10
    assert removed.flatten(1).any(1).float().mean() > 0.9


@pytest.mark.parametrize("change", list(OFF))
def test_probability_is_the_share_of_changed_images(change):
    images = batch((1, 8, 8), count=600).abs() + 0.01
    torch.manual_seed(0)

    def share(p):
        changed = (only(p, **{change: 0.9})(images) - images).abs().flatten(1).amax(1) > 1e-4
        return changed.float().mean().item()

    always = share(1.0)  # a shift of 0 or a box outside changes nothing
    assert always > 0.9
    assert share(0.3) == pytest.approx(0.3 * always, abs=0.06)


@pytest.mark.parametrize("shape", SHAPES)
def test_first_and_second_derivative(shape):
    augment = DifferentiableAugment(p=0.8, translation=0.4)
    images = batch(tuple(min(s, 3) for s in shape), count=2 if len(shape) == 3 else 1).double().requires_grad_()

    def function(x):
        torch.manual_seed(1)
        return augment(x).square()

    assert gradcheck(function, (images,))
    assert gradgradcheck(function, (images,))


def test_gradient_passes_only_where_the_image_is_kept():
    images = batch((1, 8, 8)).requires_grad_()
    torch.manual_seed(0)
    results = only(cutout=0.5)(images)
    (gradient,) = torch.autograd.grad(results.sum(), images)
    assert torch.equal(gradient, (results != 0).float())


@pytest.mark.parametrize("shape", SHAPES)
def test_seeded_draws_repeat(shape):
    augment, images = DifferentiableAugment(), batch(shape)
    torch.manual_seed(5)
    first = augment(images)
    torch.manual_seed(5)
    assert torch.equal(augment(images), first)
    assert not torch.equal(augment(images), first)
    assert first.shape == images.shape
    assert first.dtype == images.dtype


def test_does_not_write_into_its_input():
    images = batch((1, 8, 8))
    before = images.clone()
    DifferentiableAugment(p=1)(images)
    assert torch.equal(images, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(dtype):
    assert DifferentiableAugment(p=1)(batch((1, 8, 8)).to(dtype)).dtype == dtype


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_probability_outside_its_range(p):
    with pytest.raises(ConfigError, match=r"p is .*\[0, 1\]"):
        DifferentiableAugment(p=p)


@pytest.mark.parametrize("name", list(OFF))
@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")])
def test_strength_outside_its_range(name, value):
    with pytest.raises(ConfigError, match=rf"{name} is {value}.*\[0, 1\)"):
        DifferentiableAugment(**{name: value})
