"""Autoencoders, and a StyleGAN2 behind whose synthesis network a frozen decoder stands, in 2D and 3D."""

from __future__ import annotations

import pytest
import torch

from monai_plan.networks import (
    ImageAutoencoder,
    StyleGAN2Generator,
    load_autoencoder,
    load_generator,
    new_autoencoder,
    one_input_generator,
    save_autoencoder,
    save_generator,
)
from monai_plan.utils import ArtifactError, ConfigError

OPTIONS = {"channels": [4, 8], "latent_channels": 3, "norm_num_groups": 2}
CASES = [(2, (16, 24)), (3, (16, 24, 16))]


def make_autoencoder(spatial_dims, seed=0, **options):
    torch.manual_seed(seed)
    return ImageAutoencoder(spatial_dims, 1, **{**OPTIONS, **options}).eval()


def make_generator(spatial_dims, img_size, seed=0):
    torch.manual_seed(seed)
    widths = {"channel_base": 64, "channel_max": 4, "mapping_layers": 2}
    return StyleGAN2Generator(spatial_dims, img_size, 1, 5, 6, 2, **widths, autoencoder=OPTIONS).eval()


@pytest.mark.parametrize(("spatial_dims", "img_size"), CASES)
def test_latents_have_mean_0_and_deviation_1_and_decode_to_the_same(spatial_dims, img_size):
    coder, images = make_autoencoder(spatial_dims), torch.rand(6, 1, *img_size) * 2 - 1
    plain = coder.decode(coder.encode(images))
    coder.standardize(images.split(4))
    latents = coder.encode(images)
    assert tuple(latents.shape) == (6, 3, *(length // 2 for length in img_size))
    assert coder.latent_shape(img_size) == (tuple(latents.shape[2:]), 3)
    over = (0, *range(2, latents.ndim))
    torch.testing.assert_close(latents.mean(over), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std(over), torch.ones(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(coder.decode(latents), plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("spatial_dims", "img_size"), CASES)
def test_the_generator_is_the_decoder_behind_the_synthesis_network(spatial_dims, img_size):
    generator, coder = make_generator(spatial_dims, img_size), make_autoencoder(spatial_dims, seed=1)
    coder.standardize([torch.rand(4, 1, *img_size)])
    generator.use_decoder(coder)
    z, labels = torch.randn(3, 5), torch.tensor([0, 1, 1])
    latents = generator.before_decoder(z, labels)
    assert tuple(latents.shape[1:]) == (3, *(length // 2 for length in img_size))
    image = generator(z, labels)
    assert tuple(image.shape) == (3, 1, *img_size)
    torch.testing.assert_close(image, coder.decode(latents))
    w = generator.mapping(z, labels).detach().requires_grad_()
    generator.synthesis(w).square().sum().backward()
    assert (w.grad.abs().sum(1) > 0).all()
    frozen = {name for name, parameter in generator.named_parameters() if not parameter.requires_grad}
    assert {name for name, _ in generator.named_parameters() if ".autoencoder." in name} == frozen
    assert not any("encoder.blocks" in name and ".autoencoder.network.encoder" in name for name in frozen)


@pytest.mark.parametrize(("spatial_dims", "img_size"), CASES)
def test_both_come_back_from_their_files(tmp_path, spatial_dims, img_size):
    generator, coder = make_generator(spatial_dims, img_size), make_autoencoder(spatial_dims, seed=1)
    save_autoencoder(coder, tmp_path / "coder.pt", made_by={"data": "a digest"})
    again = load_autoencoder(make_autoencoder(spatial_dims, seed=2), tmp_path / "coder.pt")
    assert again.made_of == "a digest"
    images = torch.rand(2, 1, *img_size)
    assert torch.equal(again.encode(images), coder.encode(images))
    save_generator(generator.use_decoder(again), tmp_path / "model.pt")
    z, labels = torch.randn(2, 5), torch.tensor([0, 1])
    loaded = load_generator(tmp_path / "model.pt", fit={"img_size": img_size, "img_channels": 1, "num_classes": 2})
    assert torch.equal(loaded(z, labels), generator(z, labels))
    single = one_input_generator(tmp_path / "model.pt", spatial_dims=spatial_dims, img_size=img_size)
    one = torch.cat([z, torch.eye(2)], 1)
    torch.testing.assert_close(torch.jit.script(single)(one), generator(z, labels))


def test_without_an_autoencoder_there_is_nothing_to_load(tmp_path):
    assert new_autoencoder(2, 1, None) is None
    save_autoencoder(None, tmp_path / "coder.pt")
    assert load_autoencoder(None, tmp_path / "coder.pt") is None
    plain = StyleGAN2Generator(2, 8, 1, 5, 6, 2, channel_base=64, channel_max=4, mapping_layers=2).eval()
    assert plain.use_decoder(None) is plain
    z, labels = torch.randn(2, 5), torch.tensor([0, 1])
    assert torch.equal(plain.before_decoder(z, labels), plain(z, labels))


def test_what_cannot_work_says_why(tmp_path):
    with pytest.raises(ConfigError, match=r"the autoencoder cannot be built: .*channels \[4, 6\]"):
        make_autoencoder(2, channels=[4, 6], norm_num_groups=4)
    with pytest.raises(ConfigError, match=r"further options .*nonsense"):
        make_autoencoder(2, nonsense=3)
    with pytest.raises(
        ConfigError, match=r"norm_eps is '\$import os', but the arguments of an autoencoder are numbers"
    ):
        make_autoencoder(2, norm_eps="$import os")
    for options, message in (
        ({}, "lacks channels"), ({"channels": [8, 8]}, "lacks latent_channels"),
        ({**OPTIONS, "spatial_dims": 2}, "has spatial_dims, which the images give"),
        ({**OPTIONS, "channels": 8}, "has channels 8 and latent_channels 3, but must have a list of two or more"),
        ({**OPTIONS, "channels": []}, r"has channels \[\]"),
        ({**OPTIONS, "channels": [-8, 8]}, r"has channels \[-8, 8\]"),
        ({**OPTIONS, "latent_channels": 0}, "latent_channels 0"),
        ({**OPTIONS, "num_res_blocks": [1]}, "cannot be built"),
        ({**OPTIONS, "num_res_blocks": None}, "cannot be built"),
        ({**OPTIONS, "num_res_blocks": 1.5}, "cannot be built"),
        ({**OPTIONS, 1: 2}, "must hold arguments by their names"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            new_autoencoder(2, 1, options)
    with pytest.raises(ConfigError, match=r"img_size is \[16, 15\], but the autoencoder divides every axis by 2"):
        make_autoencoder(2).latent_shape((16, 15))
    with pytest.raises(ConfigError, match="no autoencoder was given, or the other way round"):
        make_generator(2, (16, 24)).use_decoder(None)
    save_autoencoder(make_autoencoder(2), tmp_path / "coder.pt")
    with pytest.raises(ArtifactError, match=r"coder.pt holds the weights of another autoencoder"):
        load_autoencoder(make_autoencoder(2, channels=[8, 8]), tmp_path / "coder.pt")
    with pytest.raises(ArtifactError, match=r"does not exist: run the stage that writes the autoencoder first"):
        load_autoencoder(make_autoencoder(2), tmp_path / "missing.pt")
