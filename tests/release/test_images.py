"""Images as a release holds them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from monai_plan.networks import StyleGAN2Generator
from monai_plan.release import synthesize_images


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_images_have_eight_bits(spatial_dims):
    class Strong(nn.Module):
        """G(w) = w times a ramp: far outside [-1, 1] in parts."""

        def __init__(self):
            super().__init__()
            self.img_size = (4,) * spatial_dims
            self.ramp = nn.Parameter(torch.linspace(-2, 2, 4**spatial_dims).view(1, 1, *(4,) * spatial_dims))

        def synthesis(self, w):
            return w[:, 0].view(-1, 1, *(1,) * spatial_dims) * self.ramp

    generator, latents = Strong(), torch.tensor([[0.1], [0.7], [3.0]])
    images = synthesize_images(generator, latents)
    assert not images.requires_grad
    for w, image in zip(latents[:, 0].tolist(), images, strict=True):
        for value, source in zip(image.flatten().tolist(), generator.ramp.flatten().tolist(), strict=True):
            level = (min(max(w * source, -1.0), 1.0) + 1) * 127.5
            assert (value + 1) * 127.5 == pytest.approx(round((value + 1) * 127.5), abs=1e-3)  # one of 256 levels
            assert abs((value + 1) * 127.5 - level) <= 0.5 + 1e-3  # the nearest one
    assert images.min() == -1
    assert images.max() == 1


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_images_do_not_depend_on_the_batch_size(spatial_dims, monkeypatch):
    torch.manual_seed(0)
    generator = StyleGAN2Generator(spatial_dims, 8, 1, 5, 6, 2, channel_base=64, channel_max=4, mapping_layers=2).eval()
    latents = torch.randn(20, 6)
    images = synthesize_images(generator, latents)
    assert images.shape == (20, 1, *[8] * spatial_dims)
    monkeypatch.setattr("monai_plan.release.images.images_at_once", lambda img_size: 3)
    one_by_one = synthesize_images(generator, latents)
    assert (images - one_by_one).abs().max() <= 2 / 255 + 1e-6  # rounding to the next level at most
    assert (images != one_by_one).float().mean() < 0.01
