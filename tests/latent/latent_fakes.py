"""Tiny networks that fulfil the contracts of the latent room, in 2D and 3D, and walks with them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from monai_plan.latent import LatentWalk, WalkSettings
from monai_plan.networks import LatentDecoder

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class FakeGenerator(LatentDecoder):
    """w → a linear map to a small image → one convolution; weights from a seed."""

    def __init__(self, spatial_dims: int, *, num_classes: int = 0, w_dim: int = 6, size: int = 6, seed: int = 0):
        super().__init__()
        self.z_dim, self.w_dim, self.num_classes = 4, w_dim, num_classes
        self.img_channels, self.img_size, self.num_ws = 1, (size,) * spatial_dims, 3
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.to_w = nn.Linear(self.z_dim, w_dim)
            self.embed = nn.Embedding(num_classes, w_dim) if num_classes else None
            self.to_image = nn.Linear(w_dim, size**spatial_dims)
            self.conv = CONV[spatial_dims](1, 1, 3, padding=1)
        self.dropout = nn.Dropout(0.5)  # noise unless in eval mode

    def mapping(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        w = self.to_w(z)
        if self.embed is None:
            assert labels is None
            return w
        assert labels is not None
        return w + 3 * self.embed(labels)

    def synthesis(self, w: Tensor) -> Tensor:
        if w.ndim == 3:
            w = w.mean(1)
        x = self.to_image(w).reshape(-1, 1, *self.img_size)
        return self.dropout(x + self.conv(x))


def fake_classifier(spatial_dims: int, num_classes: int, seed: int = 0) -> nn.Module:
    """A smooth classifier with batch norm and dropout, so that a wrong mode shows."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(
            CONV[spatial_dims](1, 4, 3, padding=1),
            NORM[spatial_dims](4),
            nn.Softplus(),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(4 * 6**spatial_dims, num_classes),
        )
        network[-1].weight.data *= 10  # decided opinions: gradients well above rounding
        return network


def make_walk(
    *nets: nn.Module, terms: dict | None = None, points_per_batch: int | None = None, **settings
) -> LatentWalk:
    """A walk by the published recipe but for ``settings``; of further terms each is (λ, module)."""
    terms = terms or {}
    weights = {name: weight for name, (weight, _) in terms.items()}
    return LatentWalk(
        *nets,
        settings=WalkSettings(lambda_terms=weights, **settings),
        terms={name: term for name, (_, term) in terms.items()},
        points_per_batch=points_per_batch,
    )


class OutOfMemoryAbove(nn.Module):
    """Pass batches of up to ``limit`` to a network, and fail on larger ones as a full GPU does."""

    def __init__(self, network: nn.Module, limit: int):
        super().__init__()
        self.network, self.limit, self.failures = network, limit, 0

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.limit:
            self.failures += 1
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return self.network(x)


def state_of(*networks: nn.Module) -> list:
    """Everything a call must leave as it was: modes, flags, gradients, weights and buffers."""
    return [
        (
            [m.training for m in network.modules()],
            [(p.requires_grad, p.grad is None) for p in network.parameters()],
            {name: value.clone() for name, value in network.state_dict().items()},
        )
        for network in networks
    ]


def assert_same_state(before: list, after: list) -> None:
    for (modes, flags, values), (modes_after, flags_after, values_after) in zip(before, after, strict=True):
        assert modes == modes_after
        assert flags == flags_after
        assert all(torch.equal(values[name], values_after[name]) for name in values)
