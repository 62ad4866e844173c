"""Adversarial images in the training of a classifier: by hand, and without a trace in the network."""

from __future__ import annotations

import math

import pytest
import torch
from monai.engines import SupervisedTrainer
from torch import nn
from torch.utils.data import DataLoader

from monai_plan.engines import AdversarialInferer
from monai_plan.utils import ConfigError

DIMS = pytest.mark.parametrize("spatial_dims", [2, 3])


class Seeing(nn.Module):
    """Linear in the pixels, two classes; keeps what it was shown in training mode."""

    def __init__(self, weights: torch.Tensor):
        super().__init__()
        self.linear = nn.Linear(len(weights), 2, bias=False)
        self.linear.weight.data = torch.stack([weights, -weights])
        self.shown: list[torch.Tensor] = []

    def forward(self, x):
        if self.training:
            self.shown.append(x.detach().clone())
        return self.linear(x.flatten(1))


@DIMS
def test_half_of_a_batch_moves_against_its_own_prediction(spatial_dims):
    """Logits ±w·x: the gradient of the predicted class's cross entropy has the sign of −w where w·x > 0, else of w."""
    pixels = 2**spatial_dims
    weights = torch.linspace(-1, 1, pixels)  # no zero among an even number
    network = Seeing(weights)
    x = torch.randn(5, pixels, generator=torch.Generator().manual_seed(0)).clamp(-0.9, 0.9)
    x[0] = weights.sign()  # at the ends of the range: moves inwards alone
    images = x.view(5, 1, *[2] * spatial_dims)
    AdversarialInferer(epsilon=0.05)(images, network)
    side = (x @ weights).sign()[:, None]
    expected = (x - 0.05 * side * weights.sign()).clamp(-1, 1)
    expected[3:] = x[3:]
    (shown,) = network.shown
    torch.testing.assert_close(shown.flatten(1), expected)
    assert shown[0].abs().max() == pytest.approx(0.95)


def test_clamped_to_the_range():
    network = Seeing(torch.tensor([1.0, -1.0]))
    AdversarialInferer(epsilon=0.5)(torch.tensor([[[-1.0, 0.9]]]), network)  # w·x < 0: moves along w
    torch.testing.assert_close(network.shown[0], torch.tensor([[[-0.5, 0.4]]]))
    AdversarialInferer(epsilon=0.5)(torch.tensor([[[0.9, 0.95]]]), network)
    torch.testing.assert_close(network.shown[1], torch.tensor([[[1.0, 0.45]]]))


@pytest.mark.parametrize(("epsilon", "training"), [(0.0, True), (0.1, False)])
def test_without_epsilon_or_in_eval_mode_the_images_are_as_they_are(epsilon, training):
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 3)).train(training)
    images = torch.rand(6, 1, 2, 2)
    torch.testing.assert_close(AdversarialInferer(epsilon=epsilon)(images, network), network(images), rtol=0, atol=0)


@DIMS
def test_the_search_leaves_no_trace(spatial_dims):
    """Batch statistics of one pass, over the images that were shown; no gradient, no change of mode."""
    torch.manual_seed(0)
    conv, norm = ((nn.Conv2d, nn.BatchNorm2d), (nn.Conv3d, nn.BatchNorm3d))[spatial_dims - 2]
    network = nn.Sequential(conv(1, 2, 3), norm(2), nn.Flatten(), nn.Dropout(0.5), nn.Linear(2 * 2**spatial_dims, 3))
    network[4].eval()  # a mixed state
    network[0].bias.requires_grad_(False)
    images = torch.rand(6, 1, *[4] * spatial_dims) * 2 - 1
    with torch.no_grad():
        AdversarialInferer(epsilon=0.1)(images, network)
    assert network[1].num_batches_tracked == 1
    assert [m.training for m in network] == [True, True, True, True, False]
    assert all(p.grad is None for p in network.parameters())
    assert [p.requires_grad for p in network.parameters()] == [True, False, True, True, True, True]
    assert not images.requires_grad


def test_weights_learn_from_what_was_shown():
    network = Seeing(torch.tensor([1.0, -2.0]))
    inferer, images = AdversarialInferer(epsilon=0.1), torch.tensor([[[0.3, -0.2]], [[0.1, 0.4]]])
    inferer(images, network).sum(0)[0].backward()
    assert not torch.equal(network.shown[0], images)
    torch.testing.assert_close(network.linear.weight.grad[0], network.shown[0].sum((0, 1)))


def test_it_serves_monai_s_trainer():
    network = Seeing(torch.linspace(-1, 1, 4))
    data = [{"image": torch.rand(1, 2, 2), "label": i % 2} for i in range(8)]
    trainer = SupervisedTrainer(
        device=torch.device("cpu"), max_epochs=1, train_data_loader=DataLoader(data, batch_size=4), network=network,
        optimizer=torch.optim.SGD(network.parameters(), 0.1), loss_function=nn.CrossEntropyLoss(),
        inferer=AdversarialInferer(epsilon=0.05), decollate=False,
    )  # fmt: skip
    trainer.run()
    changed = [(shown - torch.stack([item["image"] for item in data[4 * b : 4 * b + 4]])).abs().flatten(1).amax(1)
               for b, shown in enumerate(network.shown)]  # fmt: skip
    for batch in changed:
        torch.testing.assert_close(batch, torch.tensor([0.05, 0.05, 0, 0]))


@pytest.mark.parametrize("epsilon", [-0.1, math.inf, math.nan])
def test_bad_epsilon(epsilon):
    with pytest.raises(ConfigError, match="epsilon is"):
        AdversarialInferer(epsilon=epsilon)
