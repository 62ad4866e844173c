"""Two discriminators side by side, and the one that goes with an objective."""

from __future__ import annotations

import copy

import pytest
import torch
from gan_fakes import On, make_discriminator, make_trainer
from monai.engines import IterationEvents
from torch.nn.functional import relu, softplus
from torch.nn.utils import parametrize

from monai_plan.gan import (
    OBJECTIVES,
    AdaptiveStrength,
    AidedDiscriminator,
    DifferentiableAugment,
    ProjectedDiscriminator,
    gan_discriminator,
)
from monai_plan.networks import ImageAutoencoder, StyleGAN2Discriminator
from monai_plan.utils import ConfigError

LABELS = torch.tensor([0, 1, 1, 0])
KINDS = {
    "logistic": StyleGAN2Discriminator,
    "relativistic": StyleGAN2Discriminator,
    "hinge": ProjectedDiscriminator,
    "aided": AidedDiscriminator,
}


def images(seed=0):
    return torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_logits_are_those_of_both():
    torch.manual_seed(0)
    both = make_discriminator(objective="aided").eval()  # spectral normalisation moves in training mode
    logits = both(images(), LABELS)
    assert logits.shape == (4, 5)
    torch.testing.assert_close(logits[:, 0], both.own(images(), LABELS))
    torch.testing.assert_close(logits[:, 1:], both.aid(images(), LABELS))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_discriminator_of_each_objective(objective):
    found = gan_discriminator(objective, 2, 32, 1, 2, channel_base=128, channel_max=8, backbone="random")
    assert type(found) is KINDS[objective]
    assert found(torch.zeros(4, 1, 32, 32), LABELS).isfinite().all()
    own = found.own if objective == "aided" else found
    if objective != "hinge":
        assert max(p.shape[0] for p in own.parameters()) == 8
    make_trainer(objective=objective, discriminator=make_discriminator(objective=objective))


def test_what_does_not_exist_is_refused_by_name():
    with pytest.raises(ConfigError, match="no GAN objective 'wasserstein'"):
        gan_discriminator("wasserstein", 2, 32, 1)
    with pytest.raises(ConfigError, match=r"2D images only.*logistic or relativistic"):
        gan_discriminator("aided", 3, 32, 1, backbone="random")
    with pytest.raises(ConfigError, match=r"img_channels 4.*logistic or relativistic"):
        gan_discriminator("aided", 2, 32, 4, backbone="random")


@pytest.mark.parametrize(("objective", "of"), [("aided", "logistic"), ("logistic", "aided")])
def test_an_objective_needs_its_discriminator(objective, of):
    kind = KINDS[of].__name__
    with pytest.raises(ConfigError, match=f"objective {objective} does not go with a {kind}.*gan_discriminator"):
        make_trainer(objective=objective, discriminator=make_discriminator(objective=of))


def test_the_objective_by_hand():
    """Logistic for the own logit, 0.5 · hinge for the others, R1 of the own logit alone, and its sign."""
    found, states = {}, {}

    def keep(engine):
        found["gradients"] = {name: p.grad.clone() for name, p in engine.discriminator.named_parameters()}

    discriminator = make_discriminator(objective="aided")
    trainer = make_trainer(
        objective="aided", aid_weight=0.5, lr=0.0, num_images=4, r1_weight=0.4, r1_interval=5,
        discriminator=discriminator, handlers=[On(IterationEvents.BACKWARD_COMPLETED, keep)],
    )  # fmt: skip
    step = trainer._discriminator_step

    def spy(reals, labels):
        states["before"] = (torch.get_rng_state(), reals, labels, copy.deepcopy(discriminator))
        return step(reals, labels)

    trainer._discriminator_step = spy
    trainer.run()

    rng_state, reals, labels, network = states["before"]
    torch.set_rng_state(rng_state)
    with torch.no_grad():
        fakes = trainer.generator(torch.randn(4, 5), labels)
    reals = reals.clone().requires_grad_()
    with parametrize.cached():
        real, fake = network(reals, labels), network(fakes, labels)
    loss = softplus(-real[:, 0]).mean() + softplus(fake[:, 0]).mean()
    loss = loss + 0.5 * (relu(1 - real[:, 1:]).mean() + relu(1 + fake[:, 1:]).mean())
    (slope,) = torch.autograd.grad(network.own(reals, labels).sum(), reals, create_graph=True)
    loss = loss + 0.4 / 2 * 5 * slope.square().flatten(1).sum(1).mean()
    expected = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
    assert len(expected) == len(found["gradients"])
    for (name, gradient), wanted in zip(found["gradients"].items(), expected, strict=True):
        wanted = torch.zeros_like(gradient) if wanted is None else wanted
        torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-5, msg=name)
    assert any(g.abs().max() > 1e-4 for name, g in found["gradients"].items() if name.startswith("aid."))
    assert trainer.state.output["real_sign"] == real[:, 0].sign().mean()


def test_spectral_norms_are_found_once_a_step():
    """One step is of G, one of D, which judges real and generated images: in both the same weights."""
    trainer = make_trainer(objective="aided", max_epochs=2, num_images=4)
    found = []
    normed = [module for module in trainer.discriminator.modules() if parametrize.is_parametrized(module)]
    for module in normed:
        module.parametrizations.weight[0].register_forward_hook(lambda *given: found.append(given))
    trainer.run()
    assert len(normed) > 0
    assert len(found) == len(normed) * 2 * trainer.state.iteration


def test_augmentation_follows_the_own_discriminator():
    """The aid is sure of every image; the strength of augmentation does not listen to it."""

    class Sure(torch.nn.Module):
        num_classes = 2

        def forward(self, images, labels):
            return torch.full((len(images), 9), 5.0) + 0 * images.sum()

    augment = DifferentiableAugment(p=0.5)
    trainer = make_trainer(
        objective="aided", discriminator=AidedDiscriminator(make_discriminator(), Sure()), augment=augment,
        adaptive=AdaptiveStrength(augment, images_to_full=40, interval=1), lr=0.0,
    )  # fmt: skip
    with torch.no_grad():
        trainer.discriminator.own.out.bias.zero_()
        trainer.discriminator.own.out.weight.zero_()  # its logit is 0, whose sign is below the target
    trainer.run()
    assert trainer.adaptive.p < 0.5


def test_the_generator_follows_and_every_weight_moves():
    """All real images are bright: so are the samples in the end."""
    trainer = make_trainer(
        objective="aided", max_epochs=20, r1_weight=0.01, images=torch.full((8, 1, 8, 8), 0.8), lr=0.01
    )
    before = {name: p.detach().clone() for name, p in trainer.discriminator.named_parameters()}
    z = torch.randn(64, 5, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(64) % 2
    start = trainer.generator(z, labels).mean().item()
    trainer.run()
    end = trainer.generator(z, labels).mean().item()
    assert abs(end - 0.8) < 0.5 * abs(start - 0.8)
    # (the gradient of a last bias is 0 while real and generated logits lie within the margin)
    still = [name for name, p in trainer.discriminator.named_parameters() if torch.equal(p, before[name])]
    assert [name for name in still if not name.endswith("out.bias")] == []


def test_both_must_know_the_same_classes():
    with pytest.raises(ConfigError, match=r"own knows 2 classes, aid 0"):
        AidedDiscriminator(make_discriminator(), make_discriminator(num_classes=0, objective="aided").aid)


@pytest.mark.parametrize("objective", ["aided", "hinge", "logistic"])
def test_behind_an_autoencoder_features_are_of_decoded_images(objective):
    coder = ImageAutoencoder(2, 1, channels=[4, 8], latent_channels=3, norm_num_groups=2).eval()
    discriminator = gan_discriminator(
        objective, 2, 32, 1, 2, channel_base=64, channel_max=4, backbone="random", autoencoder=coder
    ).eval()
    latents, labels = torch.randn(2, 3, 16, 16), torch.tensor([0, 1])
    logits = discriminator(latents, labels)
    assert logits.shape[0] == 2
    assert not any("autoencoder" in name for name, _ in discriminator.named_parameters()), "the decoder stays as it is"
    aid = {"aided": lambda: discriminator.aid, "hinge": lambda: discriminator}.get(objective)
    if aid is not None:
        found = aid()(latents, labels)
        assert torch.equal(found, aid().judge(coder.decode(latents), labels))
        assert torch.equal(found, logits[:, -found.shape[1] :])
