"""Anchors from G's own distribution: what they keep away from, and what is said where none remain."""

from __future__ import annotations

import pytest
import torch
from latent_fakes import FakeGenerator, fake_classifier
from torch import nn

from monai_plan.latent import PriorAnchors, SelectionSettings
from monai_plan.networks import frozen
from monai_plan.utils import ConfigError, TrainingError

CHOOSY = SelectionSettings(candidates=12, min_class_probability=0.5, latent_share=0.25)


def make_generator(dims):
    return FakeGenerator(dims, num_classes=2)


class Midway(nn.Module):
    """φ_class that is right of half the draws of either class, and half of those by 0.6 or more."""

    def __init__(self, generator):
        super().__init__()
        dims = len(generator.img_size)
        self.network = fake_classifier(dims, 1)
        with torch.no_grad(), frozen(generator, self.network):
            z = torch.randn(500, generator.z_dim, generator=torch.Generator().manual_seed(0))
            of_class = [
                self.network(generator.synthesis(generator.mapping(z, torch.full((500,), y))).clamp(-1, 1))
                for y in (0, 1)
            ]
        self.medians = [values.median() for values in of_class]
        self.spread = of_class[0].std()

    def forward(self, images):
        values = self.network(images)[:, 0]
        return torch.stack([(values - median) / self.spread for median in self.medians], dim=1) * torch.tensor([1, -1])


def networks(generator):
    """φ_id of 10 identities and φ_class of 2 classes."""
    return [fake_classifier(len(generator.img_size), 10), Midway(generator)]


def judged(generator, nets, anchors):
    """Of each anchor: φ_class's probability of its class, and φ_id's greatest, the slow way."""
    with torch.no_grad(), frozen(generator, *nets):
        images = torch.cat([generator.synthesis(w[None]).clamp(-1, 1) for w in anchors.latents])
        identity, of_class = (net(images).softmax(1) for net in nets)
    return of_class[torch.arange(len(images)), anchors.labels], identity.amax(1)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("layers", [None, 4])
def test_they_are_of_their_class_far_and_unknown(dims, layers):
    generator = make_generator(dims)
    nets = networks(generator)
    shape = (9, 6) if layers is None else (9, generator.num_ws, 6)
    patients = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    accepted = []

    def far(images, chances):
        assert chances.shape == (len(images),)
        assert images.shape[1:] == (1, *(6,) * dims)
        assert images.abs().max() <= 1
        passed = (images.flatten(1).sum(1) * 1000).floor() % 2 == 0  # half of them, whatever they show
        accepted.append(images[passed])
        return passed

    make = PriorAnchors(generator, *nets, settings=CHOOSY, seed=3)
    anchors = make({0: 6, 1: 5}, patients=patients, far=far)
    assert (anchors.labels.tolist(), anchors.members, anchors.k) == ([0] * 6 + [1] * 5, [], None)
    of_class, top = judged(generator, nets, anchors)
    assert (of_class >= 0.5).all()
    with torch.no_grad(), frozen(generator):
        images = torch.cat([generator.synthesis(w[None]).clamp(-1, 1) for w in anchors.latents])
    assert torch.cdist(images.flatten(1), torch.cat(accepted).flatten(1)).amin(1).max() < 1e-2
    for label in (0, 1):
        assert (top[anchors.labels == label].diff() >= -1e-5).all()  # those first that φ_id knows least
    assert PriorAnchors(generator, *nets, seed=3)({0: 60}, patients=patients).latents.shape == (60, 6)


@pytest.mark.parametrize("dims", [2, 3])
def test_of_many_draws_those_are_taken_that_phi_id_knows_least(dims):
    generator = make_generator(dims)
    nets = networks(generator)
    patients = torch.zeros(1, 6)
    everything = PriorAnchors(generator, *nets, seed=3)({0: 72}, patients=patients)
    top = judged(generator, nets, everything)[1]
    few = PriorAnchors(generator, *nets, settings=SelectionSettings(candidates=12), seed=3)({0: 6}, patients=patients)
    assert torch.equal(few.latents, everything.latents[top.argsort()[:6]])
    sure = PriorAnchors(generator, *nets, settings=SelectionSettings(candidates=9, min_class_probability=0.6), seed=3)
    assert judged(generator, nets, everything)[0].min() < 0.5
    assert judged(generator, nets, sure({0: 6}, patients=patients))[0].min() > 0.59


def test_among_those_known_least_the_ones_far_apart_are_taken():
    generator = make_generator(2)
    nets = networks(generator)
    patients = torch.zeros(1, 6)
    everything = PriorAnchors(generator, *nets, seed=3)({0: 120}, patients=patients)
    top = judged(generator, nets, everything)[1]
    alike, varied = (
        PriorAnchors(generator, *nets, settings=SelectionSettings(candidates=12, identity_share=share), seed=3)(
            {0: 10}, patients=patients
        )
        for share in (0.0, 0.5)
    )
    apart = [torch.pdist(anchors.latents).min().item() for anchors in (alike, varied)]
    assert apart[1] > 2 * apart[0]
    found = judged(generator, nets, varied)[1]
    assert found.max() <= top.median()
    assert (found.diff() >= -1e-5).all()
    refused = varied.latents[:3]

    def far(images, chances):
        others = torch.cat([generator.synthesis(w[None]).clamp(-1, 1) for w in refused])
        return torch.cdist(images.flatten(1), others.flatten(1)).amin(1) > 1e-2

    settings = SelectionSettings(candidates=12, identity_share=0.5)
    filled = PriorAnchors(generator, *nets, settings=settings, seed=3)({0: 10}, patients=patients, far=far)
    assert torch.cdist(filled.latents, varied.latents).amin(1).lt(1e-6).sum() == 7  # who was refused is replaced
    assert torch.pdist(filled.latents).min() > apart[0]


def test_those_nearest_to_a_patient_in_w_are_left_out():
    generator = make_generator(2)
    nets = networks(generator)
    everything = PriorAnchors(generator, *nets, seed=3)({0: 40}, patients=torch.zeros(1, 6)).latents
    patients = everything[:4] + 1e-4  # who would be behind these draws
    settings = SelectionSettings(latent_share=0.1)
    chosen = PriorAnchors(generator, *nets, settings=settings, seed=3)({0: 40}, patients=patients).latents
    assert torch.cdist(chosen, patients).min() > 5e-2
    assert torch.cdist(everything, patients).min() < 5e-3


def test_the_same_seed_gives_the_same_whatever_else_is_wanted():
    generator = make_generator(2)
    nets = networks(generator)
    make = PriorAnchors(generator, *nets, settings=CHOOSY, seed=3)
    both, one = (make(wanted, patients=torch.zeros(1, 6)) for wanted in ({0: 4, 1: 3}, {1: 3}))
    assert torch.equal(both.latents[both.labels == 1], one.latents)
    other = PriorAnchors(generator, *nets, settings=CHOOSY, seed=4)({1: 3}, patients=torch.zeros(1, 6))
    assert not torch.equal(one.latents, other.latents)


def test_truncation_draws_nearer_to_the_mean():
    generator = make_generator(2)
    nets = networks(generator)
    spread = [
        PriorAnchors(generator, *nets, settings=SelectionSettings(truncation=psi))(
            {0: 50}, patients=torch.zeros(1, 6)
        ).latents.std(0).mean().item()
        for psi in (1.0, 0.5)
    ]  # fmt: skip
    assert spread[1] == pytest.approx(0.5 * spread[0], rel=0.05)


def test_a_draw_is_judged_by_one_chance_in_every_round():
    """Else what was refused would be asked again until chance lets it pass."""
    generator = make_generator(2)
    nets = networks(generator)
    seen = {}

    def far(images, chances):
        for image, chance in zip(images, chances.tolist(), strict=True):
            seen.setdefault(tuple(image.flatten()[:9].mul(1e4).round().tolist()), set()).add(chance)
        return chances > 0.98  # so few that all rounds are drawn

    make = PriorAnchors(generator, *nets, settings=SelectionSettings(candidates=4), seed=3)
    make({0: 30}, patients=torch.zeros(1, 6), far=far)
    assert len(seen) > 300  # of 360 draws
    assert all(len(chances) == 1 for chances in seen.values())
    assert len({chance for chances in seen.values() for chance in chances}) > 300


def test_what_remains_is_less_than_asked_for(caplog):
    generator = make_generator(2)
    nets = networks(generator)
    patients = torch.zeros(1, 6)
    make = PriorAnchors(generator, *nets, settings=SelectionSettings(candidates=2), seed=3)
    with pytest.raises(TrainingError, match="class 0: all of 24 draws of G are too near to a real image"):
        make({0: 4}, patients=patients, far=lambda images, chances: torch.zeros(len(images), dtype=torch.bool))
    with caplog.at_level("WARNING"):
        kept = make({0: 4}, patients=patients, far=lambda images, chances: torch.arange(len(images)) == 0)
    assert len(kept.latents) < 4
    assert "of 24 draws" in caplog.text
    with pytest.raises(ConfigError, match="class 2 are wanted, but G has the classes 0 to 1"):
        make({2: 4}, patients=patients)


def test_a_class_that_phi_class_does_not_know_is_filled_by_the_surest(caplog):
    generator = make_generator(2)
    nets = networks(generator)
    everything = PriorAnchors(generator, *nets, seed=3)({0: 40}, patients=torch.zeros(1, 6))
    limit = judged(generator, nets, everything)[0].sort().values[-3].item() - 1e-4  # of one round three are as sure
    settings = SelectionSettings(candidates=4, min_class_probability=limit)
    with caplog.at_level("WARNING"):
        filled = PriorAnchors(generator, *nets, settings=settings, seed=3)({0: 10}, patients=torch.zeros(1, 6))
    of_class = judged(generator, nets, filled)[0]
    sure = int((of_class >= limit).sum())
    assert 3 <= sure < 10 == len(of_class)
    assert (of_class[sure:].diff() <= 1e-5).all()
    assert f"φ_class is sure of {sure}, and 0 of these are too near" in caplog.text
    assert f"so {10 - sure} of 10 points" in caplog.text


def test_of_an_unconditional_generator_phi_class_alone_chooses():
    generator = FakeGenerator(2)
    identity_net, class_net = fake_classifier(2, 10), fake_classifier(2, 2, seed=1)
    with torch.no_grad(), frozen(generator, class_net):
        z = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
        odds = class_net(generator.synthesis(generator.mapping(z)).clamp(-1, 1)).diff(dim=1)
    class_net[-1].bias.data[1] -= odds.median()  # half of the draws are of either class
    settings = SelectionSettings(candidates=6, min_class_probability=0.5)
    make = PriorAnchors(generator, identity_net, class_net, settings=settings)
    anchors = make({0: 5, 1: 5}, patients=torch.zeros(1, 6))
    assert anchors.labels.tolist() == [0] * 5 + [1] * 5
    assert anchors.less_sure == 0
    assert (judged(generator, [identity_net, class_net], anchors)[0] >= 0.5).all()
