"""Maps and motions: what they leave out, and that a known motion is found."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from monai_plan.audit.attacks.maps import blurred, local_maps, small, small_greys, stretched
from monai_plan.audit.attacks.registration import agreement, fit_motions, sampling_grids
from monai_plan.audit.controls import moved
from monai_plan.utils import DataError

SIZES = [(32, 32), (24, 32), (16, 20, 24)]


def smooth_images(count, size, seed=0):
    """Random images with structure of a few pixels, [count, 1, *size] in [-1, 1]."""
    noise = torch.randn(count, 1, *size, generator=torch.Generator().manual_seed(seed))
    images = blurred(noise, 1.5)
    return images / images.abs().amax()


@pytest.mark.parametrize("size", SIZES)
def test_a_blur_keeps_the_mean_of_what_is_far_from_the_edge_and_spreads_by_its_width(size):
    image = torch.zeros(1, 1, *size)
    centre = tuple(length // 2 for length in size)
    image[(0, 0, *centre)] = 1
    spread = blurred(image, 1.2)
    assert spread.sum() == pytest.approx(1, abs=1e-5)
    places = torch.arange(size[0]) - centre[0]
    profile = spread.flatten(3).sum(3)[0, 0] if len(size) > 2 else spread[0, 0]
    variance = (profile.reshape(size[0], -1).sum(1) * places**2).sum()
    assert variance == pytest.approx(1.2**2, rel=0.05)
    assert blurred(image, 0.0) is image
    torch.testing.assert_close(blurred(torch.full((1, 2, *size), 0.7), 3.0), torch.full((1, 2, *size), 0.7))


def test_maps_know_neither_exposure_nor_contrast_and_turn_with_the_sign():
    images = smooth_images(3, (32, 32)) * 0.8
    maps = local_maps(images)
    torch.testing.assert_close(local_maps(images + 0.2), maps, atol=1e-4, rtol=0)
    torch.testing.assert_close(local_maps(-images), -maps)
    cosine = functional.cosine_similarity(local_maps(0.5 * images).flatten(1), maps.flatten(1))
    assert (cosine > 0.97).all()
    assert local_maps(torch.zeros(1, 1, 16, 16)).abs().max() == 0


@pytest.mark.parametrize("size", SIZES)
def test_stretched_images_fill_the_range_whatever_they_had(size):
    images = smooth_images(3, size)
    wide = stretched(images)
    torch.testing.assert_close(stretched(0.1 * images + 0.5), wide, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(stretched(-images), -wide)
    beyond = (wide.flatten(1).abs() > 1 + 1e-5).float().mean(1)
    assert (beyond <= 0.02).all()
    assert (beyond > 0.01).all()
    assert stretched(torch.full((1, 1, *size), 0.3)).abs().max() < 1e-5, "one grey stays one grey"


def test_small_greys_keep_proportions_and_refuse_what_is_too_narrow():
    assert small_greys(torch.zeros(2, 3, 64, 48)).shape == (2, 1, 32, 24)
    assert small_greys(torch.zeros(2, 1, 40, 32, 48)).shape == (2, 1, 20, 16, 24)
    assert small(torch.zeros(2, 3, 128, 96), longest=64).shape == (2, 3, 64, 48)
    image = torch.rand(1, 1, 32, 20)
    assert torch.equal(small_greys(image), image)
    with pytest.raises(DataError, match="64 x 12 are too narrow"):
        small_greys(torch.zeros(1, 1, 64, 12))


@pytest.mark.parametrize("size", SIZES)
def test_no_motion_is_the_image_itself(size):
    images = smooth_images(2, size)
    grids = sampling_grids(torch.zeros(2, 4 if len(size) == 2 else 7), size)
    torch.testing.assert_close(functional.grid_sample(images, grids, align_corners=False), images, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", SIZES)
def test_turns_keep_lengths_whatever_the_proportions(size):
    """A turn moves places on a circle, in units of elements."""
    motions = torch.zeros(1, 4 if len(size) == 2 else 7)
    motions[:, 0] = 0.5
    grid = sampling_grids(motions, size)[0]
    still = sampling_grids(torch.zeros_like(motions), size)[0]
    lengths = torch.tensor(size[::-1])
    torch.testing.assert_close((grid * lengths).norm(dim=-1), (still * lengths).norm(dim=-1))


@pytest.mark.parametrize("size", SIZES)
def test_a_known_motion_is_found(size):
    images = smooth_images(4, size)
    copies = moved(images, angle=5.0, zoom=0.92)
    maps, other = local_maps(copies, smooth=1.0), local_maps(images, smooth=1.0)
    pairs = torch.tensor([[i, j] for i in range(4) for j in range(4)])
    motions, _ = fit_motions(blurred(maps, 1.5), blurred(other, 1.5), pairs, steps=12)
    motions, correlations = fit_motions(maps, other, pairs, start=motions, steps=12)
    found = agreement(copies, images, pairs, motions, blurs=[0.0])[0]
    same = pairs[:, 0] == pairs[:, 1]
    assert found[same].min() > 0.95
    assert found[~same].max() < 0.75
    assert correlations[same].min() > 0.85
    angles = 1 if len(size) == 2 else 3
    zoom = torch.exp(math.log(1.21) * torch.tanh(motions[same][:, angles]))
    assert (zoom - 0.92).abs().max() < 0.02


def test_a_cropped_copy_agrees_at_every_blur():
    """What lies beyond the crop has no part: blurred before the motion, the edges would differ by it."""
    images = smooth_images(4, (32, 32))
    copies = moved(images, zoom=0.9)
    pairs = torch.arange(4)[:, None].expand(-1, 2)
    motions = torch.zeros(4, 4)
    motions[:, 1] = math.atanh(math.log(0.9) / math.log(1.21))
    found = agreement(copies, images, pairs, motions, blurs=[0.0, 1.0, 2.0])
    assert found.shape == (3, 4)
    assert found.min() > 0.995
    before = agreement(blurred(copies, 2.0), blurred(images, 2.0), pairs, motions, blurs=[0.0])
    assert before.mean() < found[2].mean() - 0.005


def test_results_do_not_depend_on_the_other_pairs():
    images = smooth_images(3, (16, 16))
    pairs = torch.tensor([[0, 1], [1, 2], [2, 0]])
    motions, correlations = fit_motions(images, images, pairs, steps=3)
    alone, correlation = fit_motions(images, images, pairs[1:2], steps=3)
    torch.testing.assert_close(alone, motions[1:2])
    torch.testing.assert_close(correlation, correlations[1:2])
