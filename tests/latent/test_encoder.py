"""The encoder and its pairs: a linear generator's inverse is found, and the pairs do not depend on the run."""

from __future__ import annotations

import itertools

import pytest
import torch
from latent_fakes import FakeGenerator, assert_same_state, state_of
from torch import nn

from monai_plan.latent import LatentEncoder, LatentPairs
from monai_plan.utils import ConfigError

DIMS = pytest.mark.parametrize("spatial_dims", [2, 3])


def small_images(spatial_dims, num_classes=0):
    """A generator, linear in w, whose images lie within [−1, 1] almost always."""
    generator = FakeGenerator(spatial_dims, num_classes=num_classes)
    for weight in generator.to_image.parameters():
        weight.data *= 0.05
    return generator.train()


def linear_encoder(generator):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        pixels = generator.img_size[0] ** len(generator.img_size)
        return LatentEncoder(nn.Sequential(nn.Flatten(), nn.Linear(pixels, generator.w_dim)), generator.w_dim)


@DIMS
@pytest.mark.parametrize("num_classes", [0, 2])
def test_pairs_are_of_the_generator_and_normalized(spatial_dims, num_classes):
    generator = small_images(spatial_dims, num_classes)
    encoder = linear_encoder(generator)
    before = state_of(generator)
    pairs = LatentPairs(generator, encoder, batch_size=2000)
    batch = next(iter(pairs))
    assert_same_state(before, state_of(generator))
    w = encoder.mean + encoder.scale * batch["label"]
    with torch.no_grad():
        torch.testing.assert_close(generator.eval().synthesis(w).clamp(-1, 1), batch["image"], atol=1e-5, rtol=0)
    assert batch["label"].mean(0).abs().max() < 0.2
    assert batch["label"].square().mean().item() == pytest.approx(1, rel=0.1)  # so that E = E w has the loss 1
    if num_classes:  # both classes: their w lie apart by 3 (e₁ − e₀)
        apart = 3 * (generator.embed.weight[1] - generator.embed.weight[0]).detach()
        side = (w - encoder.mean) @ apart > 0
        assert 0.4 < side.float().mean() < 0.6


@DIMS
def test_the_inverse_of_a_linear_generator_is_found(spatial_dims):
    """By least squares on the pairs: what any training of the network must come to."""
    generator = small_images(spatial_dims, 2)
    encoder = linear_encoder(generator)
    pairs = LatentPairs(generator, encoder, batch_size=2000)
    batch, held_out = itertools.islice(pairs, 2)
    flat = batch["image"].flatten(1)
    columns = torch.cat([flat, torch.ones(len(flat), 1)], 1).double()
    solution = torch.linalg.lstsq(columns, batch["label"].double(), driver="gelsd").solution.float()
    encoder.network[1].weight.data, encoder.network[1].bias.data = solution[:-1].T.contiguous(), solution[-1]
    with torch.no_grad():
        w = encoder.mean + encoder.scale * held_out["label"]
        assert (encoder(held_out["image"]) - w).square().mean() < 1e-4 * w.var()


def test_training_on_pairs_learns():
    generator = small_images(2, 2)
    encoder = linear_encoder(generator)
    pairs = iter(LatentPairs(generator, encoder, batch_size=64))
    adam = torch.optim.Adam(encoder.network.parameters(), lr=0.05)
    losses = []
    for batch in itertools.islice(pairs, 300):
        loss = nn.functional.mse_loss(encoder.network(batch["image"]), batch["label"])
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert losses[0] > 0.5
    assert losses[-1] < 0.1


def test_pairs_depend_on_seed_and_position_alone():
    generator = small_images(2, 2)
    pairs = LatentPairs(generator, linear_encoder(generator), batch_size=4, noise=0.1)
    first = list(itertools.islice(pairs, 3))
    assert not torch.equal(first[0]["image"], first[1]["image"])
    assert pairs.state_dict() == {"position": 3}
    again = LatentPairs(generator, linear_encoder(generator), batch_size=4, noise=0.1)
    torch.rand(3)  # what else is drawn does not matter
    again.load_state_dict({"position": 2})
    for name, value in next(iter(again)).items():
        assert torch.equal(value, first[2][name])
    other = next(iter(LatentPairs(generator, linear_encoder(generator), batch_size=4, noise=0.1, seed=1)))
    assert not torch.equal(other["image"], first[0]["image"])


def test_noise_is_of_the_strength_that_is_asked_for():
    generator = small_images(2)
    clean, noisy = (
        next(iter(LatentPairs(generator, linear_encoder(generator), batch_size=2000, noise=noise)))
        for noise in (0.0, 0.2)
    )
    assert torch.equal(clean["label"], noisy["label"])
    strength = (noisy["image"] - clean["image"]).flatten(1).std(1)
    assert strength.mean().item() == pytest.approx(0.1, rel=0.05)  # uniform in [0, 0.2]
    assert noisy["image"].abs().max() <= 1


@pytest.mark.parametrize(
    "option", [{"batch_size": 0}, {"noise": -0.1}, {"noise": float("nan")}, {"num_mean_samples": 1}]
)
def test_bad_options_name_the_argument(option):
    generator = small_images(2)
    with pytest.raises(ConfigError, match=next(iter(option))):
        LatentPairs(generator, linear_encoder(generator), **option)
