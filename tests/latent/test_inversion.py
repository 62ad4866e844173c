"""Inversion: recovery of known latents, and equality with one image at a time."""

from __future__ import annotations

import math

import pytest
import torch
from latent_fakes import FakeGenerator, OutOfMemoryAbove, assert_same_state, state_of
from monai.data import MetaTensor
from torch import nn

from monai_plan.latent import InversionSettings, LatentInverter
from monai_plan.latent.w_statistics import w_statistics
from monai_plan.utils import ConfigError, DataError, TrainingError, seeded_generator

DIMS = pytest.mark.parametrize("spatial_dims", [2, 3])
KEYS = ["a", "b", "c", "d"]


class Features(nn.Module):
    """A smooth fixed embedding, one to one near the images of a fake generator, with dropout to show a wrong mode."""

    def __init__(self, spatial_dims: int, size: int = 6, channels: int = 24):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(5)
            self.linear = nn.Linear(size**spatial_dims, channels)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = self.linear(x.flatten(1))
        return self.dropout(torch.cat([flat, flat.tanh()], 1))


def cohort(spatial_dims: int, num_classes: int = 0) -> tuple[FakeGenerator, torch.Tensor, torch.Tensor]:
    """A generator, four images it made, and their classes."""
    generator = FakeGenerator(spatial_dims, num_classes=num_classes).eval()
    labels = torch.tensor([0, 1, 1, 0])
    z = 0.3 * torch.randn(4, generator.z_dim, generator=torch.Generator().manual_seed(8))
    with torch.no_grad():
        for weight in generator.to_image.parameters():
            weight *= 0.2  # all images well within [−1, 1]
        images = generator.synthesis(generator.mapping(z, labels if num_classes else None))
    assert images.abs().max() < 1
    return generator.train(), images, labels


def inverter(generator: nn.Module, spatial_dims: int, **options: object) -> LatentInverter:
    return with_embedding(generator, Features(spatial_dims), **{"steps": 12, "starts": 2, "batch_size": 100, **options})


def with_embedding(generator: nn.Module, embedding: nn.Module, **options: object) -> LatentInverter:
    """By the settings that are published but for the options, some of which are no settings."""
    others = {name: options.pop(name) for name in ("encoder", "seed", "batch_size") if name in options}
    settings = InversionSettings(**{"num_mean_samples": 200, **options})
    return LatentInverter(generator, embedding, settings=settings, **others)


@DIMS
@pytest.mark.parametrize("num_classes", [0, 2])
@pytest.mark.parametrize("pixel_weight", [0.0, 1.0])
def test_recovers_images_the_generator_made(spatial_dims, num_classes, pixel_weight):
    generator, images, labels = cohort(spatial_dims, num_classes)
    options = {"starts": 2, "pixel_weight": pixel_weight}
    result = inverter(generator, spatial_dims, steps=200, **options)(images, labels, KEYS)
    # With a vanishing learning rate w stays at the mean: the distance from which all starts begin.
    mean = inverter(generator, spatial_dims, steps=1, lr=1e-12, **options)(images, labels, KEYS)
    assert result.latents.shape == (4, 2, 6)
    assert (result.distances < 1e-3 * mean.distances).all()
    with torch.no_grad():
        reconstructions = generator.eval().synthesis(result.best_latents)
    torch.testing.assert_close(reconstructions, images, atol=0.02, rtol=0)


@DIMS
@pytest.mark.parametrize("noise_ramp", [0.75, 1.0])
def test_equals_the_slow_reference(spatial_dims, noise_ramp):
    """One image and one start at a time, with Adam, schedules and noise written out."""
    generator, images, labels = cohort(spatial_dims, 2)
    steps, lr, seed = 12, 0.1, 4
    result = inverter(generator, spatial_dims, steps=steps, lr=lr, seed=seed, noise_ramp=noise_ramp, pixel_weight=0.5)(
        images, labels, KEYS
    )
    generator.eval()
    embedding = Features(spatial_dims).eval()
    z = torch.randn(200, generator.z_dim, generator=seeded_generator(seed, "mean"))
    for i, key in enumerate(KEYS):
        with torch.no_grad():
            ws = generator.mapping(z, torch.full((200,), int(labels[i])))
            mean = ws.mean(0)
            sigma = math.sqrt(sum(float((w - mean).square().sum()) for w in ws) / len(ws))

        def distance(w, i=i):
            image = generator.synthesis(w[None])
            perceptual = (embedding(image) - embedding(images[i : i + 1])).square().sum()
            return perceptual + 0.5 * (image - images[i]).square().mean()

        for start in range(2):
            rng = seeded_generator(seed, "noise", key, start)
            w, m, v, seen = mean.clone(), torch.zeros(6), torch.zeros(6), []
            for step in range(steps):
                r = step / steps
                noise = 0.05 * sigma * max(0.0, 1 - r / noise_ramp) ** 2
                rate = lr * min(1.0, r / 0.05) * (0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - r) / 0.25)))
                w.requires_grad_()
                loss = distance(w + noise * torch.randn(6, generator=rng) if noise > 0 else w)
                if noise == 0:
                    seen.append((loss.item(), w.detach()))
                (g,) = torch.autograd.grad(loss, w)
                m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
                m_hat, v_hat = m / (1 - 0.9 ** (step + 1)), v / (1 - 0.999 ** (step + 1))
                w = w.detach() - rate * m_hat / (v_hat.sqrt() + 1e-8)
            best, best_w = min([*seen, (distance(w).item(), w)], key=lambda pair: pair[0])
            assert result.distances[i, start].item() == pytest.approx(best, rel=1e-3)
            torch.testing.assert_close(result.latents[i, start], best_w, rtol=1e-3, atol=1e-4)


@DIMS
def test_batch_and_order_do_not_matter(spatial_dims):
    generator, images, labels = cohort(spatial_dims, 2)
    whole = inverter(generator, spatial_dims)(images, labels, KEYS)
    for batch_size in (1, 3):
        split = inverter(generator, spatial_dims, batch_size=batch_size)(images, labels, KEYS)
        torch.testing.assert_close(split.latents, whole.latents, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(split.distances, whole.distances, rtol=1e-3, atol=1e-5)
    order = [2, 0]
    part = inverter(generator, spatial_dims)(images[order], labels[order], [KEYS[i] for i in order])
    torch.testing.assert_close(part.latents, whole.latents[order], rtol=1e-3, atol=1e-4)


def test_distance_is_that_of_the_returned_latent_and_best_is_the_least():
    generator, images, _ = cohort(2)
    result = inverter(generator, 2, starts=3)(images, None, KEYS)
    embedding = Features(2).eval()
    generator.eval()
    with torch.no_grad():
        for start in range(3):
            made = generator.synthesis(result.latents[:, start])
            expected = (embedding(made) - embedding(images)).square().sum(1)
            torch.testing.assert_close(result.distances[:, start], expected, rtol=1e-4, atol=1e-7)
    for i in range(4):
        best = min(range(3), key=lambda s, i=i: result.distances[i, s].item())
        assert result.best[i].item() == best
        assert torch.equal(result.best_latents[i], result.latents[i, best])


class Guess(nn.Module):
    """An encoder that knows w of the cohort's images but for an error."""

    def __init__(self, generator: FakeGenerator, images: torch.Tensor, latents: torch.Tensor):
        super().__init__()
        self.register_buffer("images", images)
        self.register_buffer("latents", latents)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.latents[torch.cdist(x.flatten(1), self.images.flatten(1)).argmin(1)]


def known_latents(generator, labels):
    """Those of ``cohort``."""
    z = 0.3 * torch.randn(4, generator.z_dim, generator=torch.Generator().manual_seed(8))
    with torch.no_grad():
        return generator.mapping(z, labels if generator.num_classes else None)


@DIMS
@pytest.mark.parametrize("space", ["w", "w_plus"])
def test_begins_at_the_nearer_of_guess_and_mean(spatial_dims, space):
    generator, images, labels = cohort(spatial_dims, 2)
    known = known_latents(generator, labels)
    guesses = known.clone()
    guesses[1] += 100  # farther than the mean
    options = {"steps": 1, "lr": 1e-12, "starts": 1, "space": space, "initial_noise": 0.0}
    encoder = Guess(generator, images, guesses)
    begun = inverter(generator, spatial_dims, encoder=encoder, **options)(images, labels, KEYS)
    means = inverter(generator, spatial_dims, **options)(images, labels, KEYS)
    expected = torch.stack([known[0], means.latents.flatten(0, 1).reshape(4, -1, 6)[1, 0], known[2], known[3]])
    latents = begun.latents[:, 0] if space == "w" else begun.latents[:, 0].mean(1)
    torch.testing.assert_close(latents, expected)
    assert (begun.distances[[0, 2, 3]] < 1e-9).all()
    assert torch.equal(begun.distances[1], means.distances[1])
    if space == "w_plus":
        assert begun.latents.shape == (4, 1, generator.num_ws, 6)


def test_starts_from_one_guess_lie_around_it():
    generator, images, labels = cohort(2, 2)
    known = known_latents(generator, labels)
    options = {"steps": 1, "lr": 1e-12, "starts": 3, "start_noise": 0.1, "initial_noise": 0.0}
    invert = inverter(generator, 2, encoder=Guess(generator, images, known), **options)
    latents = invert(images, labels, KEYS).latents
    assert torch.equal(latents[:, 0], known)
    z = torch.randn(200, generator.z_dim, generator=seeded_generator(0, "mean"))
    for i, key in enumerate(KEYS):
        with torch.no_grad():
            ws = generator.mapping(z, labels[i].expand(200))
        sigma = (ws - ws.mean(0)).square().sum(1).mean().sqrt()
        for start in (1, 2):
            epsilon = torch.randn(6, generator=seeded_generator(0, "noise", key, start))
            torch.testing.assert_close(latents[i, start], known[i] + 0.1 * sigma * epsilon)


def test_an_encoder_of_another_generator_is_refused():
    generator, images, labels = cohort(2, 2)
    invert = inverter(generator, 2, encoder=Guess(generator, images, torch.zeros(4, 5)))
    with pytest.raises(ConfigError, match=r"encoder must return \[B, w_dim\] = \[4, 6\]: got \[4, 5\]"):
        invert(images, labels, KEYS)


class Counting(Features):
    """Counts the images that it sees."""

    seen = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += len(x)
        return super().forward(x)


@DIMS
@pytest.mark.parametrize("space", ["w", "w_plus"])
def test_stopped_early_is_as_good_in_fewer_evaluations(spatial_dims, space):
    """Where the projection has come to its end; and what one image skips is no business of another."""
    generator, images, labels = cohort(spatial_dims, 2)
    options = {"steps": 400, "starts": 2, "num_mean_samples": 200, "space": space, "initial_noise": 0.01}
    full_features, early_features = Counting(spatial_dims), Counting(spatial_dims)
    full = with_embedding(generator, full_features, **options)(images, labels, KEYS)
    options |= {"patience": 20, "tolerance": 0.01, "lr_rampdown": 0.1}
    early = with_embedding(generator, early_features, **options)(images, labels, KEYS)
    assert early_features.seen < 0.7 * full_features.seen
    start = inverter(generator, spatial_dims, steps=1, lr=1e-12, space=space)(images, labels, KEYS)
    assert (full.distances < 1e-4 * start.distances).all()
    assert (early.distances < 1e-3 * start.distances).all()
    alone = [
        with_embedding(generator, Features(spatial_dims), **options, batch_size=1)(
            images[i : i + 1], labels[i : i + 1], [key]
        )
        for i, key in enumerate(KEYS)
    ]
    torch.testing.assert_close(torch.cat([one.latents for one in alone]), early.latents, rtol=1e-2, atol=1e-3)


def test_a_patience_that_never_ends_changes_nothing():
    generator, images, labels = cohort(2, 2)
    plain = inverter(generator, 2)(images, labels, KEYS)
    patient = inverter(generator, 2, patience=100)(images, labels, KEYS)
    assert torch.equal(patient.latents, plain.latents)
    assert torch.equal(patient.distances, plain.distances)


def test_a_start_without_progress_skips_to_the_fall_of_the_learning_rate():
    """Far beyond saturation the gradient is zero: no step helps. After the rise it waits, then makes the fall."""
    generator, images, _ = cohort(2)

    class Flat(Counting):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * 0 + 1 + x.flatten(1)[:, :1] * 0

    options = {"steps": 100, "starts": 1, "lr_rampup": 0.1, "lr_rampdown": 0.2, "num_mean_samples": 20}
    flat = Flat(2)
    with_embedding(generator, flat, patience=7, **options)(images[:1], None, ["a"])
    # the target; then 10 steps of the rise, 7 without progress, 20 of the fall, and the last measurement
    assert flat.seen == 1 + 10 + 7 + 20 + 1
    flat = Flat(2)
    with_embedding(generator, flat, **options)(images[:1], None, ["a"])
    assert flat.seen == 1 + 100 + 1


@DIMS
def test_w_plus_has_a_latent_for_every_layer(spatial_dims):
    """Each layer's w is found: here the image shows their mean alone, and the distance is that of the returned ones."""
    generator, images, labels = cohort(spatial_dims, 2)
    result = inverter(generator, spatial_dims, steps=200, space="w_plus")(images, labels, KEYS)
    assert result.latents.shape == (4, 2, 3, 6)
    assert result.best_latents.shape == (4, 3, 6)
    with torch.no_grad():
        made = generator.eval().synthesis(result.best_latents)
    torch.testing.assert_close(made, images, atol=0.02, rtol=0)


def test_w_plus_needs_a_generator_of_several_layers():
    generator = FakeGenerator(2)
    generator.num_ws = None
    with pytest.raises(ConfigError, match=r"space of the inversion is 'w_plus', but FakeGenerator has no num_ws"):
        inverter(generator, 2, space="w_plus")


def test_starts_and_seeds_differ_and_repeat():
    generator, images, _ = cohort(2)
    result = inverter(generator, 2)(images, None, KEYS)
    assert not torch.equal(result.latents[:, 0], result.latents[:, 1])
    assert torch.equal(result.latents, inverter(generator, 2)(images, None, KEYS).latents)
    assert not torch.equal(result.latents, inverter(generator, 2, seed=1)(images, None, KEYS).latents)


def test_metatensors_give_the_same_plain_tensors():
    generator, images, labels = cohort(2, 2)
    plain = inverter(generator, 2)(images, labels, KEYS)
    result = inverter(generator, 2)(MetaTensor(images), MetaTensor(labels), KEYS)
    assert type(result.latents) is type(result.distances) is torch.Tensor
    assert torch.equal(result.latents, plain.latents)


def test_labels_choose_the_mean_of_their_class():
    generator, images, labels = cohort(2, 2)
    still = {"steps": 1, "lr": 1e-12, "starts": 1}
    z = torch.randn(200, generator.z_dim, generator=seeded_generator(0, "mean"))
    with torch.no_grad():
        by_class = torch.stack([generator.mapping(z, torch.full((200,), c)).mean(0) for c in (0, 1)])
    result = inverter(generator, 2, **still)(images, labels, KEYS)
    torch.testing.assert_close(result.latents[:, 0], by_class[labels])
    result = inverter(generator, 2, **still)(images, None, KEYS)  # without labels: the mean over both
    both, _ = w_statistics(generator, num_samples=200)
    torch.testing.assert_close(result.latents[:, 0], both.expand(4, -1))


@DIMS
def test_networks_are_left_as_they_were(spatial_dims):
    generator, images, labels = cohort(spatial_dims, 2)
    embedding = Features(spatial_dims)
    embedding.linear.weight.requires_grad_(False)
    before = state_of(generator, embedding)
    invert = with_embedding(generator, embedding, steps=2, starts=1, num_mean_samples=20)
    with torch.no_grad():
        invert(images, labels, KEYS)
    assert_same_state(before, state_of(generator, embedding))
    with pytest.raises(ConfigError, match="must return"):
        with_embedding(generator, nn.Identity(), steps=2, num_mean_samples=20)(images, labels, KEYS)
    assert_same_state(before, state_of(generator, embedding))


def test_out_of_memory_halves_the_batch_and_goes_on():
    generator, images, _ = cohort(2)
    expected = inverter(generator, 2)(images, None, KEYS)
    small = OutOfMemoryAbove(Features(2), 3)
    options = {"steps": 12, "starts": 2, "num_mean_samples": 200}
    result = with_embedding(generator, small, **options)(images, None, KEYS)
    torch.testing.assert_close(result.latents, expected.latents, rtol=1e-3, atol=1e-4)
    assert small.failures > 0
    with pytest.raises(TrainingError, match="not hold even one sample"):
        with_embedding(generator, OutOfMemoryAbove(Features(2), 0), **options)(images, None, KEYS)


def test_result_that_is_not_finite_names_the_image():
    generator, images, _ = cohort(2)

    class Broken(Features):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            embedded = super().forward(x)
            return torch.where(x.flatten(1)[:, :1] == images[2].flatten()[0], math.nan, embedded)

    with pytest.raises(TrainingError, match="inversion of c "):
        with_embedding(generator, Broken(2), steps=3, num_mean_samples=20)(images, None, KEYS)
    generator.to_w.weight.data.fill_(math.nan)
    with pytest.raises(TrainingError, match="mapping"):
        inverter(generator, 2)(images, None, KEYS)


@pytest.mark.parametrize("patience", [0, 1])
def test_progress_reaches_its_total_without_going_back(patience):
    generator, images, _ = cohort(2)
    seen = []
    inverter(generator, 2, steps=3, batch_size=3, patience=patience)(
        images, None, KEYS, progress=lambda *pair: seen.append(pair)
    )
    done = [d for d, _ in seen]
    assert done == sorted(done)
    assert {t for _, t in seen} == {4 * 2 * 3}
    assert seen[-1] == (24, 24)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": torch.zeros(4, 2, 6, 6)}, ConfigError, "C = 1"),
        ({"images": torch.zeros(0, 1, 6, 6)}, ConfigError, "N ≥ 1"),
        ({"images": torch.zeros(4, 1, 8, 8)}, ConfigError, "resize"),
        ({"images": torch.full((4, 1, 6, 6), 3.0)}, DataError, "Image a has values from 3 to 3"),
        ({"images": torch.full((4, 1, 6, 6), math.nan)}, DataError, "Image a has values that are not finite"),
        ({"labels": torch.tensor([0, 1, 2, 0])}, DataError, "Image c has label 2.*0 … 1"),
        ({"labels": torch.zeros(3).long()}, ConfigError, "labels must be"),
        ({"labels": torch.zeros(4)}, ConfigError, "labels must be"),
        ({"keys": ["a", "b", "c"]}, ConfigError, "keys must be 4"),
        ({"keys": ["a", "b", "c", "c"]}, ConfigError, "3 are different"),
    ],
)
def test_bad_input(change, error, message):
    generator, images, labels = cohort(2, 2)
    embedding = nn.Sequential(nn.AdaptiveAvgPool2d(6), Features(2))
    invert = with_embedding(generator, embedding, steps=1, num_mean_samples=20)
    good = {"images": images, "labels": labels, "keys": KEYS}
    invert(**good)
    with pytest.raises(error, match=message):
        invert(**{**good, **change})


def test_a_batch_has_at_least_one_image():
    with pytest.raises(ConfigError, match="batch_size of the inversion is 0, but must be at least 1"):
        inverter(FakeGenerator(2), 2, batch_size=0)


def test_the_default_is_the_fast_one_with_noise_where_no_encoder_guesses():
    generator, images, _ = cohort(2)
    assert LatentInverter(generator, Features(2)).settings == InversionSettings.fast()
    encoder = Guess(generator, images, torch.zeros(4, 6))
    assert LatentInverter(generator, Features(2), encoder=encoder).settings == InversionSettings.fast(encoder=True)
