"""The encoder: from an image to a first guess of its latent, which saves the inversion most of its steps.

It is trained on pairs (G(w), w), without a single real image (Zhu et al., "Generative Visual Manipulation on the
Natural Image Manifold", ECCV 2016, arXiv 1609.03552, section 3.1, and Perarnau et al., arXiv 1611.06355).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from monai_plan.latent.w_statistics import w_statistics
from monai_plan.networks import LatentDecoder, frozen, prepare_networks
from monai_plan.utils import ConfigError, seeded_generator


class LatentEncoder(nn.Module):
    """E(x) = E w + σ_w/√w_dim · network(x), so that the network's outputs are of size 1 whatever the generator.

    Args:
        network: images [B, C, *spatial] in [−1, 1] → [B, w_dim].
        w_dim: length of w.
    """

    def __init__(self, network: nn.Module, w_dim: int) -> None:
        super().__init__()
        self.network = network
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(w_dim))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, C, *spatial] in [−1, 1] → w [B, w_dim]."""
        return self.mean + self.scale * self.network(images)

    def normalize(self, w: Tensor) -> Tensor:
        """The network's output for which E(x) = w; its mean squared error is ‖E(x) − w‖²/σ_w²."""
        return (w - self.mean) / self.scale


class LatentPairs:
    """Endless batches of pairs {"image": clamp(G(w), −1, 1), "label": ``encoder.normalize(w)``}, w = mapping(z, y).

    z ~ N(0, I) and y, uniform over the classes, of the batch at a position depend on (seed, position) alone. The
    position is the state of ``state_dict``: a training that is continued sees the pairs that it would have seen. To the
    images Gaussian noise is added, of a strength uniform in [0, ``noise``]: real images have more of it than G.

    The encoder's mean and scale, E w and σ_w/√w_dim over all classes, are measured here.

    Args:
        generator: G.
        encoder: the encoder that the pairs are for.
        batch_size: pairs in a batch, at least 1.
        noise: the largest standard deviation, at least 0.
        num_mean_samples: draws for E w and σ_w, at least 2.
        seed: of the draws.
        device: where pairs are made; the generator and the encoder are moved there. Default: where the generator is.

    Raises:
        ConfigError: if an argument lies outside its range or the generator does not fulfil the contract.
    """

    def __init__(
        self,
        generator: LatentDecoder,
        encoder: LatentEncoder,
        *,
        batch_size: int = 64,
        noise: float = 0.0,
        num_mean_samples: int = 10_000,
        seed: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        for name, value, least in (
            ("batch_size", batch_size, 1), ("noise", noise, 0), ("num_mean_samples", num_mean_samples, 2)
        ):  # fmt: skip
            if not value >= least:
                raise ConfigError(f"{name} of the encoder's pairs is {value}, but must be at least {least}.")
        self.device = prepare_networks(generator, encoder, device=device)
        self.generator, self.encoder = generator, encoder
        self.batch_size, self.noise, self.seed, self.position = batch_size, noise, seed, 0
        (mean,), (sigma,) = w_statistics(generator, num_samples=num_mean_samples, seed=seed)
        encoder.mean.copy_(mean)
        encoder.scale.copy_(sigma / generator.w_dim**0.5)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        while True:
            rng = seeded_generator(self.seed, "encoder pairs", self.position)
            z = torch.randn(self.batch_size, self.generator.z_dim, generator=rng).to(self.device)
            labels = None
            if self.generator.num_classes > 0:
                labels = torch.randint(self.generator.num_classes, (self.batch_size,), generator=rng).to(self.device)
            with torch.no_grad(), frozen(self.generator):
                w = self.generator.mapping(z, labels)
                images = self.generator.synthesis(w)
            if self.noise > 0:
                strength = self.noise * torch.rand(len(w), *(1,) * (images.ndim - 1), generator=rng)
                images = images + (strength * torch.randn(images.shape, generator=rng)).to(self.device)
            self.position += 1
            yield {"image": images.clamp(-1, 1), "label": self.encoder.normalize(w)}

    def state_dict(self) -> dict[str, int]:
        """The number of batches given."""
        return {"position": self.position}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on at the position that ``state_dict`` gave."""
        self.position = state["position"]
