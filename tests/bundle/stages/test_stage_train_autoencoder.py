"""The stage that trains an autoencoder, takes a published one, or has nothing to do; in 2D and 3D."""

from __future__ import annotations

import json

import pytest
import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
from monai.networks.nets import AutoencoderKL

from monai_plan.bundle.stages import TrainAutoencoderStage, TrainStage
from monai_plan.metrics import perceptual_embedding
from monai_plan.networks import ImageAutoencoder, StyleGAN2Generator, load_autoencoder, save_autoencoder
from monai_plan.utils import ArtifactError, ConfigError, DataError, load_artifact

OPTIONS = {"channels": [4, 4], "latent_channels": 2, "norm_num_groups": 2}

TRAPPED = []


class Trap:
    """What a pickle would run."""

    def __reduce__(self):
        return TRAPPED.append, ("ran",)


def make_stage(case, folder, *, coder, weights=None):
    embedding = perceptual_embedding("random", spatial_dims=case.dims, img_channels=1)
    return TrainAutoencoderStage(
        trainer=None, autoencoder=coder, weights=weights, dataset=case.dataset, embedding=embedding,
        output_file=folder / "coder.pt", report_file=folder / "coder.json", device=torch.device("cpu"),
    )  # fmt: skip


def published(case):
    torch.manual_seed(7)
    return AutoencoderKL(
        spatial_dims=case.dims, in_channels=1, out_channels=1, channels=[4, 4], latent_channels=2, num_res_blocks=1,
        norm_num_groups=2, attention_levels=[False, False], with_encoder_nonlocal_attn=False,
        with_decoder_nonlocal_attn=False,
    )  # fmt: skip


def test_a_published_one_is_taken_as_it_is(case, tmp_path):
    theirs = published(case)
    torch.save(theirs.state_dict(), tmp_path / "kl.pt")
    make_stage(case, tmp_path, coder=ImageAutoencoder(case.dims, 1, **OPTIONS), weights=tmp_path / "kl.pt").run()
    coder = load_autoencoder(ImageAutoencoder(case.dims, 1, **OPTIONS), tmp_path / "coder.pt")
    assert coder.made_of == case.dataset.made_of
    images = case.dataset.images[:4]
    with torch.no_grad():
        torch.testing.assert_close(coder.decode(coder.encode(images)), theirs.eval().decode(theirs.encode(images)[0]))
    latents = coder.encode(case.dataset.images[:])
    assert latents.mean().abs().item() < 1e-3
    assert latents.std().item() == pytest.approx(1, abs=0.05)
    report = json.loads((tmp_path / "coder.json").read_text())
    assert 0 < report["mean_absolute_error"] < 2
    assert report["frechet"] > 0


def maisi():
    torch.manual_seed(7)
    return AutoencoderKlMaisi(
        spatial_dims=3, in_channels=1, out_channels=1, num_channels=[4, 8, 4], latent_channels=2,
        num_res_blocks=[2, 2, 1], norm_num_groups=2, attention_levels=[False] * 3, with_encoder_nonlocal_attn=False,
        with_decoder_nonlocal_attn=False, num_splits=1, print_info=False,
    )  # fmt: skip


@pytest.mark.parametrize("kept_in", [None, "unet_state_dict"])
def test_the_autoencoder_of_maisi_is_taken(case, tmp_path, kept_in):
    options = {"channels": [4, 8, 4], "latent_channels": 2, "num_res_blocks": [2, 2, 1], "norm_num_groups": 2}
    if case.dims == 2:
        with pytest.raises(ConfigError, match="makes volumes alone"):
            ImageAutoencoder(2, 1, **options, maisi=True)
        return
    theirs = maisi().eval()
    state = theirs.state_dict()
    torch.save(state if kept_in is None else {kept_in: state, "epoch": 273}, tmp_path / "maisi.pt")
    coder = ImageAutoencoder(3, 1, **options, maisi=True)
    make_stage(case, tmp_path, coder=coder, weights=tmp_path / "maisi.pt").run()
    images = case.dataset.images[:4]
    with torch.no_grad():
        torch.testing.assert_close(coder.decode(coder.encode(images)), theirs.decode(theirs.encode(images)[0]))
    generator = StyleGAN2Generator(
        3, 32, 1, 6, 6, 2, channel_base=16, channel_max=4, autoencoder={**options, "maisi": True}
    )
    w = torch.randn(2, 6, requires_grad=True)
    made = generator.use_decoder(coder).eval().synthesis(w)
    assert made.shape == (2, 1, 32, 32, 32)
    assert torch.autograd.grad(made.sum(), w)[0].abs().sum() > 0


@pytest.mark.parametrize(
    "kind", ["of NaN", "complex", "of a class", "cut off", "a picture", "a list", "of numbered keys"]
)
def test_hostile_weights_are_refused_with_the_file_s_name(case, tmp_path, kind):
    file, state = tmp_path / "kl.pt", published(case).state_dict()
    if kind == "of NaN":
        next(iter(state.values())).view(-1)[3] = float("nan")
    if kind == "complex":
        state = {name: value.to(torch.complex64) for name, value in state.items()}
    torch.save(
        {"a list": [state], "of numbered keys": {0: torch.zeros(1)}, "of a class": Trap()}.get(kind, state), file
    )
    if kind == "cut off":
        file.write_bytes(file.read_bytes()[:-100])
    if kind == "a picture":
        file.write_bytes(b"\x89PNG\r\n" + bytes(100))
    with pytest.raises(ArtifactError, match=r"kl\.pt does not hold the weights of the autoencoder"):
        make_stage(case, tmp_path, coder=ImageAutoencoder(case.dims, 1, **OPTIONS), weights=file).run()
    assert not (tmp_path / "coder.pt").exists()
    assert not TRAPPED


def test_one_of_another_architecture_is_refused(case, tmp_path):
    torch.save({"nonsense": torch.zeros(1)}, tmp_path / "kl.pt")
    with pytest.raises(ArtifactError, match=r"kl.pt does not hold the weights of the autoencoder: give the state dict"):
        make_stage(case, tmp_path, coder=ImageAutoencoder(case.dims, 1, **OPTIONS), weights=tmp_path / "kl.pt").run()


def test_without_one_the_file_says_so(case, tmp_path):
    make_stage(case, tmp_path, coder=None).run()
    assert load_artifact(tmp_path / "coder.pt", kind="autoencoder")["state_dict"] == {}
    assert json.loads((tmp_path / "coder.json").read_text()) == {}


def test_a_gan_goes_on_from_no_autoencoder_of_others(case, tmp_path):
    """Somebody was removed from the data, and the stage train is run alone."""
    coder = ImageAutoencoder(case.dims, 1, **OPTIONS)
    save_autoencoder(coder, tmp_path / "coder.pt", made_by={"data": "of others"})
    coder = load_autoencoder(coder, tmp_path / "coder.pt")
    stage = TrainStage(
        trainer=None, dataset=case.dataset, autoencoder=coder, ema=None, best=None, output_file=tmp_path / "model.pt"
    )
    with pytest.raises(DataError, match="train_autoencoder was run on other images, classes or patients"):
        stage.run()
