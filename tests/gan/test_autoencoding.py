"""The training of autoencoders, and latent images as a GAN's data set, in 2D and 3D."""

from __future__ import annotations

import pytest
import torch
from gan_fakes import Images
from monai.engines import SupervisedTrainer
from torch.nn import functional

from monai_plan.engines import ResumeHandler
from monai_plan.gan import (
    AutocastInferer,
    AutoencoderBatches,
    AutoencoderLoss,
    BeforeDecoderInferer,
    DifferentiableAugment,
    StyleGAN2Trainer,
    latent_images,
)
from monai_plan.metrics import perceptual_embedding
from monai_plan.networks import ImageAutoencoder, StyleGAN2Discriminator, StyleGAN2Generator
from monai_plan.utils import ConfigError

OPTIONS = {"channels": [4, 8], "latent_channels": 3, "norm_num_groups": 2}


def make_images(spatial_dims, number=8):
    """Smooth blobs: what an autoencoder can learn within a few steps."""
    noise = torch.rand(number, 1, *(4,) * spatial_dims, generator=torch.Generator().manual_seed(0))
    images = functional.interpolate(noise, scale_factor=4) * 2 - 1
    found = Images(images, torch.arange(number) % 2)
    found.made_of = "a digest"
    return found


def make_training(spatial_dims, *, epochs, path, seed=0):
    torch.manual_seed(seed)
    coder, images = ImageAutoencoder(spatial_dims, 1, **OPTIONS), make_images(spatial_dims)
    batches = AutoencoderBatches(images, batch_size=4, augment=DifferentiableAugment(p=0.5, cutout=0.0), seed=3)
    optimizer = torch.optim.Adam(coder.parameters(), lr=0.02)
    parts = {"coder": coder, "optimizer": optimizer, "batches": batches}
    trainer = SupervisedTrainer(
        device=torch.device("cpu"), max_epochs=epochs, epoch_length=5, train_data_loader=batches, network=coder,
        optimizer=optimizer,
        loss_function=AutoencoderLoss(perceptual_embedding("random", spatial_dims=spatial_dims, img_channels=1)),
        inferer=AutocastInferer(amp=False), decollate=False,
        train_handlers=[ResumeHandler(path=path, save_dict=parts)],
    )  # fmt: skip
    return trainer, coder, images


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_it_learns_to_reproduce(tmp_path, spatial_dims):
    trainer, coder, images = make_training(spatial_dims, epochs=8, path=tmp_path / "checkpoint.pt")
    before = functional.l1_loss(coder(images.images)[0], images.images).item()
    trainer.run()
    coder.eval()
    assert functional.l1_loss(coder.decode(coder.encode(images.images)), images.images).item() < 0.7 * before


def test_a_training_that_goes_on_equals_one_that_never_stopped(tmp_path):
    whole, coder, _ = make_training(2, epochs=3, path=tmp_path / "whole.pt")
    whole.run()
    make_training(2, epochs=1, path=tmp_path / "parts.pt")[0].run()
    torch.rand(7)  # somebody else draws in between
    rest, again, _ = make_training(2, epochs=3, path=tmp_path / "parts.pt", seed=5)
    rest.run()
    for name, value in coder.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_a_gan_learns_latent_images(spatial_dims):
    coder = ImageAutoencoder(spatial_dims, 1, **OPTIONS).eval()
    images = make_images(spatial_dims)
    assert latent_images(images, None) is images
    latents = latent_images(images, coder)
    assert len(latents) == len(images)
    assert latents.made_of == "a digest"
    torch.testing.assert_close(latents.images, coder.encode(images.images))
    size, widths = (8,) * spatial_dims, {"channel_base": 64, "channel_max": 4}
    networks = [
        StyleGAN2Generator(spatial_dims, 16, 1, 5, 6, 2, mapping_layers=2, **widths, autoencoder=OPTIONS)
        for _ in range(2)
    ]
    networks[1].load_state_dict(networks[0].use_decoder(coder).state_dict())
    discriminator = StyleGAN2Discriminator(spatial_dims, size, 3, 2, **widths)
    trainer = StyleGAN2Trainer(
        device="cpu", max_epochs=1, epoch_length=2,
        train_data_loader=[{"image": latents.images[:4], "label": latents.labels[:4]}] * 2,
        generator=networks[0], ema=networks[1], discriminator=discriminator, inferer=BeforeDecoderInferer(),
        g_optimizer=torch.optim.Adam(networks[0].parameters(), lr=0.01),
        d_optimizer=torch.optim.Adam(discriminator.parameters(), lr=0.01),
    )  # fmt: skip
    before = {name: value.clone() for name, value in networks[0].state_dict().items()}
    trainer.run()
    changed = {name for name, value in networks[0].state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert not any("autoencoder" in name for name in changed), "the decoder is frozen"


def test_a_batch_needs_an_image():
    with pytest.raises(ConfigError, match="batch_size of the autoencoder is 0"):
        AutoencoderBatches(make_images(2), batch_size=0, augment=DifferentiableAugment())
