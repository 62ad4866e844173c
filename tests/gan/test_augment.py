"""Each change alone has the effect that its argument names, in 2D and 3D, and gradients pass."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.autograd import gradcheck

from monai_plan.gan import DifferentiableAugment
from monai_plan.utils import ConfigError

OFF = {"translation": 0.0, "brightness": 0.0, "contrast": 0.0, "cutout": 0.0}
SHAPES = [(1, 8, 12), (3, 8, 5), (1, 8, 6, 4)]
SIZES = [(24, 16), (14, 12, 16)]
CHANGES = {
    "translation": 0.4,
    "brightness": 0.3,
    "contrast": 0.3,
    "cutout": 0.3,
    "flips": (0, 1),
    "fractional_translation": 0.1,
    "scale": 0.25,
    "anisotropy": 0.2,
    "rotation": 10.0,
    "gamma": 0.5,
    "noise": 0.1,
}


def only(p=1.0, **strength):
    return DifferentiableAugment(p=p, **{**OFF, **strength})


def batch(shape, count=30, seed=0):
    torch.manual_seed(seed)
    return torch.rand(count, *shape) * 2 - 1


def positions(sizes):
    """[D, *sizes], the coordinates of all elements, in elements from the centre."""
    return torch.stack(torch.meshgrid(*(torch.arange(n) - (n - 1) / 2 for n in sizes), indexing="ij"))


def sampling(augment, sizes, count=40, seed=0):
    """The affine map of each image, [count, D, D] and [count, D]: its element at x comes from matrix · x + offset.

    It is read off from images of coordinates, which multilinear interpolation reproduces exactly.
    """
    places = positions(sizes)
    images = torch.cat([places, torch.ones(1, *sizes)]).expand(count, *[-1] * (len(sizes) + 1))
    torch.manual_seed(seed)
    matrices, offsets = [], []
    for changed in augment(images):
        inside = changed[-1] > 1 - 1e-4  # -1 has not entered
        x = torch.cat([places[:, inside], torch.ones(1, int(inside.sum()))]).T.double()
        solution = torch.linalg.lstsq(x, changed[:-1, inside].T.double()).solution.T
        assert (x @ solution.T - changed[:-1, inside].T).abs().max() < 1e-3  # affine indeed
        matrices.append(solution[:, :-1])
        offsets.append(solution[:, -1])
    return torch.stack(matrices).float(), torch.stack(offsets).float()


def fix_draws(monkeypatch, number):
    """Everything is chosen, and every uniform number is ``number`` in [0, 1]."""
    monkeypatch.setattr(
        torch, "rand", lambda _, *size, **options: torch.stack([torch.full(size, number), torch.zeros(size)])
    )


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
    assert torch.equal(DifferentiableAugment(p=0, **CHANGES)(images), images)
    assert torch.equal(only()(images), images)


@pytest.mark.parametrize("change", list(CHANGES))
def test_images_without_the_change_stay_bit_for_bit(change):
    images = batch((1, 8, 8), count=200)
    torch.manual_seed(0)
    always = only(1.0, **{change: CHANGES[change]})(images)
    torch.manual_seed(0)
    sometimes = only(0.3, **{change: CHANGES[change]})(images)
    # an image is as it was or changed as it would be with p = 1: the draws do not depend on p
    if change == "flips":  # each axis is chosen for itself
        always = torch.stack([images.flip(2), images.flip(3), images.flip(2, 3)])
    same = (sometimes == images).flatten(1).all(1)
    changed = (sometimes == always).flatten(-3).all(-1).reshape(-1, 200).any(0)
    assert (same | changed).all()
    assert 0 < changed.sum() < 200


def test_an_image_stays_bit_for_bit_where_none_of_all_changes_is_chosen():
    p, count = 0.1, 1000
    images = batch((1, 8, 8), count=count)
    torch.manual_seed(0)
    same = (DifferentiableAugment(p=p, **CHANGES)(images) == images).flatten(1).all(1).float().mean().item()
    # two flips, done half of the time; a shift of up to 3 is 0 on both axes in 1 of 36; nine other changes
    expected = (1 - p / 2) ** 2 * (1 - p * 35 / 36) * (1 - p) ** 9
    assert same == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / count))


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


@pytest.mark.parametrize("sizes", [(6, 5), (5, 4, 6)])
def test_flips_mirror_the_named_axes_half_of_the_time(sizes, monkeypatch):
    images = batch((2, *sizes), count=400)
    torch.manual_seed(0)
    results = only(flips=(1,))(images)
    mirrored = (results == images.flip(3)).flatten(1).all(1)
    assert (mirrored | (results == images).flatten(1).all(1)).all()
    assert mirrored.float().mean().item() == pytest.approx(0.5, abs=0.1)
    fix_draws(monkeypatch, 0.0)
    every = tuple(range(len(sizes)))
    assert torch.equal(only(flips=every)(images), images.flip([2 + axis for axis in every]))


@pytest.mark.parametrize("sizes", SIZES)
def test_fractional_translation_moves_by_any_length(sizes):
    matrices, offsets = sampling(only(fractional_translation=0.2), sizes)
    torch.testing.assert_close(matrices, torch.eye(len(sizes)).expand_as(matrices), atol=1e-4, rtol=0)
    shares = offsets / torch.tensor(sizes)
    assert shares.abs().max() <= 0.2 + 1e-4
    assert (shares.abs().amax(0) > 0.17).all()
    assert ((offsets - offsets.round()).abs() > 0.05).float().mean() > 0.7
    assert torch.corrcoef(shares.T).triu(1).abs().max() < 0.5


@pytest.mark.parametrize("sizes", SIZES)
def test_scale_is_the_same_on_all_axes(sizes):
    matrices, offsets = sampling(only(scale=0.5), sizes)
    factors = 1 / matrices[:, 0, 0]
    torch.testing.assert_close(matrices, torch.eye(len(sizes)) / factors[:, None, None], atol=1e-4, rtol=0)
    assert offsets.abs().max() < 1e-3  # about the centre
    assert 1 / 1.5 - 1e-4 <= factors.min() < 0.72
    assert 1.4 < factors.max() <= 1.5 + 1e-4


@pytest.mark.parametrize("sizes", SIZES)
def test_anisotropy_scales_each_axis_for_itself(sizes):
    matrices, offsets = sampling(only(anisotropy=0.5), sizes)
    factors = 1 / matrices.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(matrices, torch.diag_embed(1 / factors), atol=1e-4, rtol=0)
    assert offsets.abs().max() < 1e-3
    assert 1 / 1.5 - 1e-4 <= factors.min() < 0.72
    assert 1.4 < factors.max() <= 1.5 + 1e-4
    assert torch.corrcoef(factors.T).triu(1).abs().max() < 0.5


@pytest.mark.parametrize("sizes", SIZES)
def test_rotation_keeps_lengths_and_handedness(sizes):
    """Also where the axes differ in length: angles are measured in elements."""
    matrices, offsets = sampling(only(rotation=20.0), sizes)
    identity = torch.eye(len(sizes)).expand_as(matrices)
    torch.testing.assert_close(matrices @ matrices.mT, identity, atol=1e-3, rtol=0)
    torch.testing.assert_close(torch.linalg.det(matrices), torch.ones(len(matrices)), atol=1e-3, rtol=0)
    assert offsets.abs().max() < 1e-3
    if len(sizes) == 2:
        angles = torch.atan2(matrices[:, 1, 0], matrices[:, 0, 0]).rad2deg()
        assert -20.01 <= angles.min() < -17
        assert 17 < angles.max() <= 20.01
    else:  # no plane stays as it is
        assert (matrices - identity).abs().amax(0)[~torch.eye(3, dtype=bool)].min() > math.sin(math.radians(15))


@pytest.mark.parametrize("sizes", [(7, 7), (8, 8), (5, 5, 5), (6, 6, 6)])
def test_quarter_turns_are_those_of_rot90(sizes, monkeypatch):
    images = batch((2, *sizes), count=3)
    expected = images
    for plane in reversed(list(itertools.combinations(range(2, images.ndim), 2))):
        expected = torch.rot90(expected, 1, plane)
    fix_draws(monkeypatch, 1.0)
    torch.testing.assert_close(only(rotation=90.0)(images), expected, atol=1e-4, rtol=0)


def test_planes_of_a_volume_are_turned_each_for_itself():
    matrices, _ = sampling(only(0.5, rotation=20.0), (14, 14, 14), count=80)
    turned = (matrices.abs() > 0.01)[:, [0, 0, 1], [1, 2, 2]]
    assert {tuple(row) for row in turned.tolist()} >= {(True, False, False), (False, True, False), (False, False, True)}


@pytest.mark.parametrize("sizes", SIZES)
def test_geometric_changes_are_composed(sizes):
    """Mirrored, scaled, rotated, shifted: the inverse of that order takes an element to where it comes from."""
    alone = {
        name: sampling(only(**{name: strength}), sizes)
        for name, strength in {
            "flips": (0, 1), "scale": 0.1, "anisotropy": 0.1, "rotation": 15.0, "translation": 0.13,
            "fractional_translation": 0.07,
        }.items()
    }  # fmt: skip
    together = only(
        flips=(0, 1), scale=0.1, anisotropy=0.1, rotation=15.0, translation=0.13, fractional_translation=0.07
    )
    matrices, offsets = sampling(together, sizes)
    expected = alone["flips"][0] @ alone["scale"][0] @ alone["anisotropy"][0] @ alone["rotation"][0]
    torch.testing.assert_close(matrices, expected, atol=1e-3, rtol=0)
    back = alone["translation"][1] + alone["fractional_translation"][1]
    torch.testing.assert_close(offsets, (expected @ back[:, :, None])[:, :, 0], atol=5e-3, rtol=0)


@pytest.mark.parametrize("sizes", SIZES)
def test_what_enters_from_outside_is_the_background(sizes, monkeypatch):
    fix_draws(monkeypatch, 0.0)  # as small as it gets
    results = only(scale=0.5)(torch.full((1, 1, *sizes), 0.5))
    inside = (positions(sizes).abs() <= (torch.tensor(sizes).view(-1, *[1] * len(sizes)) / 1.5 - 1) / 2).all(0)
    outside = (positions(sizes).abs() >= (torch.tensor(sizes).view(-1, *[1] * len(sizes)) / 1.5 + 1) / 2).any(0)
    torch.testing.assert_close(results[0, 0][inside], torch.full((int(inside.sum()),), 0.5))
    torch.testing.assert_close(results[0, 0][outside], torch.full((int(outside.sum()),), -1.0))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("number", "power"), [(1.0, 1.5), (0.0, 1 / 1.5), (0.5, 1.0)])
def test_gamma_raises_grey_values_to_a_power(shape, number, power, monkeypatch):
    images = batch(shape, count=4)
    images[..., 0] = torch.tensor([-1.0, 1.0, -1.5, 2.0]).view(4, *[1] * (images.ndim - 2))
    fix_draws(monkeypatch, number)
    results = only(gamma=0.5)(images)
    torch.testing.assert_close(results[..., 0], images[..., 0])  # black, white, and what lies beyond
    grey = (images[..., 1:] + 1) / 2
    torch.testing.assert_close((results[..., 1:] + 1) / 2, grey**power, atol=0.03, rtol=0)  # 0.03: the offset
    order = images[..., 1:].flatten().argsort()
    assert (results[..., 1:].flatten()[order].diff() >= 0).all()


def test_gamma_has_a_finite_slope_at_the_background(monkeypatch):
    fix_draws(monkeypatch, 0.0)
    images = torch.full((1, 1, 4, 4), -1.0, requires_grad=True)
    (gradient,) = torch.autograd.grad(only(gamma=0.9)(images).sum(), images)
    assert gradient.isfinite().all()
    assert gradient.max() < 10


@pytest.mark.parametrize("shape", [(1, 64, 64), (1, 16, 16, 16)])
def test_noise_has_the_drawn_deviation(shape, monkeypatch):
    images = batch(shape, count=20)
    torch.manual_seed(0)
    deviations = (only(noise=0.2)(images) - images).flatten(1).std(1)
    assert deviations.max() <= 0.2 * 1.05
    assert deviations.min() < 0.05
    fix_draws(monkeypatch, 1.0)
    added = (only(noise=0.2)(images) - images).flatten(1)
    torch.testing.assert_close(added.std(1), torch.full((20,), 0.2), atol=0, rtol=0.05)
    assert added.mean(1).abs().max() < 4 * 0.2 / 64
    assert torch.corrcoef(added).fill_diagonal_(0).abs().max() < 5 / 64


@pytest.mark.parametrize("change", list(CHANGES))
@pytest.mark.parametrize("p", [0.3, 0.8])
def test_probability_is_the_share_of_changed_images(change, p):
    count = 600
    images = batch((1, 8, 8), count=count)
    strength = (0,) if change == "flips" else CHANGES[change]

    def share(augment):
        return (augment(images) != images).flatten(1).any(1).float().mean().item()

    torch.manual_seed(0)
    always = share(only(1.0, **{change: strength}))
    expected = {"flips": 0.5, "translation": 35 / 36}.get(change, 1.0)  # the others are never the identity
    assert always == pytest.approx(expected, abs=0.08 if change == "flips" else 0.02)
    bound = 4 * math.sqrt(p * expected * (1 - p * expected) / count)
    augment = only(0.0, **{change: strength})
    augment.p.fill_(p)  # as AdaptiveStrength does
    assert share(augment) == pytest.approx(p * expected, abs=bound)


@pytest.mark.parametrize("change", list(CHANGES))
@pytest.mark.parametrize("shape", [(1, 4, 3), (1, 3, 4, 2)])
def test_derivative(change, shape):
    augment = only(0.8, **{change: CHANGES[change]})
    images = (batch(shape, count=2) * 0.95).double().requires_grad_()  # gamma bends at -1 and 1

    def function(x):
        torch.manual_seed(2)
        return augment(x).square()

    assert not torch.equal(function(images), images.square())
    assert gradcheck(function, (images,))


@pytest.mark.parametrize("shape", [(2, 4, 3), (1, 3, 2, 3)])
def test_derivative_of_all_changes(shape):
    augment = DifferentiableAugment(p=0.8, **CHANGES)
    images = (batch(shape, count=1) * 0.95).double().requires_grad_()

    def function(x):
        torch.manual_seed(2)
        return augment(x).square()

    assert gradcheck(function, (images,))


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtype_is_kept(dtype):
    images = batch((1, 8, 8)).to(dtype)
    assert DifferentiableAugment(p=1, **CHANGES)(images).dtype == dtype
    assert torch.equal(DifferentiableAugment(p=0, **CHANGES)(images), images)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_autocast_changes_nothing(shape, dtype):
    """Positions in bfloat16 would be off by a whole element in a large image."""
    augment, images = DifferentiableAugment(p=0.8, **CHANGES), batch(shape).to(dtype)
    torch.manual_seed(0)
    expected = augment(images)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        results = augment(images)
    assert results.dtype == dtype
    assert torch.equal(results, expected)


@pytest.mark.parametrize("options", [{}, CHANGES], ids=["default", "all"])
def test_nothing_waits_for_the_device(options):
    """What reads a value of a tensor, or has a shape that depends on one, breaks the graph, which is refused here."""
    torch.compiler.reset()
    augment = DifferentiableAugment(p=0.5, **options)
    compiled = torch.compile(augment, fullgraph=True, backend="eager")
    for shape, count in (((1, 8, 8), 3), ((1, 8, 8), 5), ((1, 6, 8, 4), 3)):
        images = batch(shape, count=count)
        torch.manual_seed(0)
        expected = augment(images)
        torch.manual_seed(0)
        assert torch.equal(compiled(images), expected)
    augment.p.zero_()  # seen without another compilation
    with torch.compiler.set_stance("fail_on_recompile"):
        assert torch.equal(compiled(images), images)


def test_probability_is_part_of_the_state():
    augment = DifferentiableAugment(p=0.25)
    assert augment.state_dict() == {"p": torch.tensor(0.25)}
    assert list(augment.parameters()) == []


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_probability_outside_its_range(p):
    with pytest.raises(ConfigError, match=r"p is .*\[0, 1\]"):
        DifferentiableAugment(p=p)


@pytest.mark.parametrize("name", [name for name in CHANGES if name not in ("flips", "rotation")])
@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")])
def test_strength_outside_its_range(name, value):
    with pytest.raises(ConfigError, match=rf"{name} is {value}.*\[0, 1\)"):
        DifferentiableAugment(**{name: value})


@pytest.mark.parametrize("value", [-1.0, 181.0, float("nan")])
def test_rotation_outside_its_range(value):
    with pytest.raises(ConfigError, match=rf"rotation is {value}.*\[0, 180\] degrees"):
        DifferentiableAugment(rotation=value)


@pytest.mark.parametrize("value", [(3,), (-1,), (0, 0)])
def test_flips_of_an_axis_that_cannot_be(value):
    with pytest.raises(ConfigError, match=r"flips is .*different spatial axes from 0, 1, 2"):
        DifferentiableAugment(flips=value)


def test_flips_of_an_axis_that_the_images_lack():
    with pytest.raises(ConfigError, match=r"flips is \[2\], but images of shape \[1, 1, 8, 8\] have .*\[0, 1\]"):
        DifferentiableAugment(flips=(2,))(torch.zeros(1, 1, 8, 8))
