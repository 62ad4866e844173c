"""The table of settings by image size."""

from __future__ import annotations

import copy

import pytest
import torch

from monai_plan.gan import (
    OBJECTIVES,
    AdaptiveStrength,
    DifferentiableAugment,
    StyleGAN2Trainer,
    gan_defaults,
    gan_discriminator,
)
from monai_plan.networks import StyleGAN2Generator
from monai_plan.utils import ConfigError

SIZES = [(2, 8), (2, 32), (2, 64), (2, (96, 128)), (2, 256), (2, 512), (3, 32), (3, (32, 64, 64)), (3, 96)]


@pytest.mark.parametrize(("spatial_dims", "img_size"), SIZES)
def test_every_size_has_settings_that_build_a_generator(spatial_dims, img_size):
    found = gan_defaults(img_size, spatial_dims)
    generator = StyleGAN2Generator(
        spatial_dims, img_size, 1, found.z_dim, found.w_dim,
        channel_base=found.channel_base, channel_max=found.channel_max, autoencoder=found.autoencoder,
    )  # fmt: skip
    network = generator.synthesis if found.autoencoder is None else generator.synthesis.network
    widest = network.blocks[0].const.shape[0]
    narrowest = network.blocks[-1].conv1.bias.shape[0]
    assert 8 <= narrowest <= widest <= found.channel_max


def test_networks_grow_with_the_image():
    bases = [gan_defaults(size, autoencoder=None).channel_base for size in (32, 64, 128, 256)]
    assert bases == sorted(set(bases))


def test_r1_weighs_a_pixel_the_same_at_any_size():
    small, large = gan_defaults(64), gan_defaults((128, 64))
    assert small.r1_weight == pytest.approx(0.0002 * 64 * 64 / 16)
    assert large.r1_weight * large.batch_size == pytest.approx(2 * small.r1_weight * small.batch_size)
    assert gan_defaults(32, 3, autoencoder=None).r1_weight == pytest.approx(0.0002 * 32**3 / 8)
    assert gan_defaults(32, 3).r1_weight == gan_defaults((64, 64, 32), 3).r1_weight == 10  # latent images


@pytest.mark.parametrize(
    ("spatial_dims", "img_size", "given", "latent"),
    [(3, 32, "auto", 8), (3, (32, 48, 32), "auto", 12), (3, 16, "auto", None), (3, 36, "auto", None),
     (2, 256, "auto", 32), (2, (128, 256), "auto", 32), (2, 128, "auto", None),
     (2, 250, "auto", None), (3, 32, None, None), (2, 64, {"channels": [8, 8], "latent_channels": 2}, 32)],
)  # fmt: skip
def test_volumes_and_large_images_are_made_behind_an_autoencoder(spatial_dims, img_size, given, latent):
    found = gan_defaults(img_size, spatial_dims, autoencoder=given)
    assert (found.autoencoder is None) == (latent is None)
    if latent is not None:
        generator = StyleGAN2Generator(
            spatial_dims, img_size, 1, 5, 6, 2, channel_base=64, autoencoder=found.autoencoder
        )
        assert max(generator.before_decoder(torch.randn(1, 5), torch.tensor([0])).shape[2:]) == latent


def test_what_is_no_autoencoder_says_so():
    with pytest.raises(ConfigError, match="autoencoder is 'kl', but must be 'auto', None, or the arguments of"):
        gan_defaults(32, 3, autoencoder="kl")


@pytest.mark.parametrize(
    ("spatial_dims", "img_size", "img_channels", "objective"),
    [
        (2, 32, 1, "logistic"),
        (2, 64, 1, "aided"),
        (2, 64, 3, "aided"),
        (2, 64, 2, "logistic"),
        (3, 64, 1, "logistic"),
        (2, 128, 1, "aided"),
        (2, 256, 1, "logistic"),
    ],
)
def test_pretrained_features_help_where_they_can(spatial_dims, img_size, img_channels, objective):
    assert gan_defaults(img_size, spatial_dims, img_channels=img_channels).objective == objective


def test_an_objective_brings_its_regularisers_and_rate():
    found = {name: gan_defaults(64, objective=name) for name in OBJECTIVES}
    assert [name for name in found if found[name].objective != name] == []
    gamma = 0.0002 * 64 * 64 / 16
    assert {name: (d.r1_weight, d.r1_interval, d.r2_weight, d.learning_rate) for name, d in found.items()} == {
        "aided": (gamma, 16, 0.0, 0.0025),
        "logistic": (gamma, 16, 0.0, 0.0025),
        "relativistic": (gamma, 4, gamma, 0.0025),
        "hinge": (0.0, 16, 0.0, 0.002),
    }
    with pytest.raises(ConfigError, match="no GAN objective 'wasserstein'"):
        gan_defaults(64, objective="wasserstein")


@pytest.mark.parametrize(("spatial_dims", "img_size"), [(4, 64), (2, (64, 64, 64)), (2, 7), (3, (32, 32, 9))])
def test_a_size_that_no_network_takes_is_refused(spatial_dims, img_size):
    with pytest.raises(ConfigError):
        gan_defaults(img_size, spatial_dims)


@pytest.mark.slow
@pytest.mark.parametrize(("spatial_dims", "img_size"), [(2, 32), (2, 64), (2, 128), (2, 256), (3, 32), (3, 64)])
def test_each_row_trains(spatial_dims, img_size):
    """Two steps with the row's networks and batch, R1 in the first: every loss is finite and every weight moves."""
    found = gan_defaults(img_size, spatial_dims)
    widths = {"channel_base": found.channel_base, "channel_max": found.channel_max}
    torch.manual_seed(0)
    generator = StyleGAN2Generator(
        spatial_dims, img_size, 1, found.z_dim, found.w_dim, 2, mapping_layers=4, **widths
    )  # fmt: skip
    discriminator = gan_discriminator(found.objective, spatial_dims, img_size, 1, 2, backbone="random", **widths)
    before = [p.detach().clone() for network in (generator, discriminator) for p in network.parameters()]
    batch = {
        "image": torch.rand(found.batch_size, 1, *generator.img_size) * 2 - 1,
        "label": torch.arange(found.batch_size) % 2,
    }
    augment = DifferentiableAugment()
    trainer = StyleGAN2Trainer(
        device="cpu", max_epochs=1, train_data_loader=[batch] * 2, generator=generator, ema=copy.deepcopy(generator),
        discriminator=discriminator, objective=found.objective, augment=augment, adaptive=AdaptiveStrength(augment),
        r1_weight=found.r1_weight, ema_half_life=found.ema_half_life,
        **{
            name: torch.optim.Adam(network.parameters(), lr=found.learning_rate, betas=(0.0, 0.99), fused=True)
            for name, network in (("g_optimizer", generator), ("d_optimizer", discriminator))
        },
    )  # fmt: skip
    trainer.run()  # ends with an error if a loss or weight is not finite
    assert trainer.state.iteration == 2
    assert trainer.state.images_seen == 2 * found.batch_size
    after = [p for network in (generator, discriminator) for p in network.parameters()]
    assert all(p.isfinite().all() and not torch.equal(p, first) for p, first in zip(after, before, strict=True))


def test_a_size_that_is_too_small_behind_the_autoencoder_is_told_as_given():
    with pytest.raises(ConfigError, match=r"img_size \[24, 24, 24\] is \[6, 6, 6\] behind the autoencoder, .* from 32"):
        gan_defaults(24, 3, autoencoder={"channels": [8, 8, 8], "latent_channels": 2})


def test_maisi_is_a_switch():
    with pytest.raises(ConfigError, match="maisi of the autoencoder is 'False', but must be True or False"):
        gan_defaults(32, 3, autoencoder={"channels": [8, 8, 8], "latent_channels": 2, "maisi": "False"})
