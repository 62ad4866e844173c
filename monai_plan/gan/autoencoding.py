"""The training of an autoencoder of images, and its latent images as the data set of a GAN."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from monai.inferers import SimpleInferer
from torch import Tensor, nn
from torch.nn import functional

from monai_plan.data import CheckedDataset
from monai_plan.gan.augment import DifferentiableAugment
from monai_plan.metrics import PerceptualEmbedding
from monai_plan.networks import ImageAutoencoder, StyleGAN2Generator, images_at_once
from monai_plan.networks.running import bf16_is_fast
from monai_plan.utils import ConfigError, derive_seed

__all__ = [
    "AutocastInferer",
    "AutoencoderBatches",
    "AutoencoderLoss",
    "BeforeDecoderInferer",
    "LatentImages",
    "latent_images",
]


class AutoencoderBatches:
    """Endless batches of images that are their own label, for a ``SupervisedTrainer``.

    Every draw of batch n, and those that the network makes with it, come from (seed, n), for which the global random
    state of torch is set: a training that is continued equals one that never stopped, if this is part of its
    ``ResumeHandler``.

    Args:
        dataset: the images, see ``CheckedDataset``.
        batch_size: images of a batch, drawn one by one.
        augment: changes them; the changed image is what is to be reproduced.
        seed: of all draws.
        device: where the batches are to be.

    Raises:
        ConfigError: if ``batch_size`` is less than 1.
    """

    def __init__(
        self,
        dataset: CheckedDataset,
        *,
        batch_size: int,
        augment: DifferentiableAugment,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size of the autoencoder is {batch_size}, but must be at least 1.")
        self.dataset, self.batch_size, self.seed, self.position = dataset, batch_size, seed, 0
        self.device = torch.device(device)
        self.augment = augment.to(self.device)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        while True:
            torch.manual_seed(derive_seed(self.seed, "autoencoder", self.position))
            images = self.dataset.images[torch.randint(len(self.dataset), (self.batch_size,))]
            images = self.augment(images.to(self.device, torch.float32)).clamp(-1, 1)
            self.position += 1
            yield {"image": images, "label": images}

    def state_dict(self) -> dict[str, int]:
        """The number of batches given."""
        return {"position": self.position}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on at the position that ``state_dict`` gave."""
        self.position = state["position"]


class BeforeDecoderInferer(SimpleInferer):
    """How a generator is called for its discriminator: a latent image is not decoded."""

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """``network.before_decoder``, see ``StyleGAN2Generator``."""
        return cast(StyleGAN2Generator, network).before_decoder(inputs, *args, **kwargs)


class AutocastInferer(SimpleInferer):
    """Calls a network in bfloat16 autocast.

    Args:
        amp: whether to; by default where ``bf16_is_fast``.
    """

    def __init__(self, *, amp: bool | None = None) -> None:
        super().__init__()
        self.amp = amp

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The network's output for ``inputs``."""
        enabled = bf16_is_fast(inputs.device) if self.amp is None else self.amp
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=enabled):
            return super().__call__(inputs, network, *args, **kwargs)


class AutoencoderLoss(nn.Module):
    """What an ``ImageAutoencoder`` is trained by: mean |x̂ − x| + mean |∇x̂ − ∇x| + λ_p d(x̂, x)² + λ_KL KL.

    ∇ is the difference of neighbours along each axis, summed over the axes, without which edges stay blurred; d is the
    distance in the perceptual embedding, and KL that of the latents' distribution to N(0, I), per element, as in
    arXiv 2112.10752.

    Args:
        embedding: of d.
        perceptual_weight: λ_p.
        kl_weight: λ_KL.
    """

    def __init__(
        self, embedding: PerceptualEmbedding, *, perceptual_weight: float = 0.3, kl_weight: float = 1e-4
    ) -> None:
        super().__init__()
        self.embedding, self.perceptual_weight, self.kl_weight = embedding, perceptual_weight, kl_weight

    def forward(self, prediction: tuple[Tensor, Tensor, Tensor], images: Tensor) -> Tensor:
        """What ``ImageAutoencoder.forward`` returns, and the images [B, C, *spatial] → scalar."""
        made, mean, deviation = (part.float() for part in prediction)
        loss = functional.l1_loss(made, images)
        for axis in range(2, images.ndim):
            loss = loss + functional.l1_loss(made.diff(dim=axis), images.diff(dim=axis))
        if self.perceptual_weight:
            loss = loss + self.perceptual_weight * self._distances(made, images).mean()
        kl = 0.5 * (mean.square() + deviation.square() - 2 * deviation.log() - 1).mean()
        return loss + self.kl_weight * kl

    def _distances(self, made: Tensor, images: Tensor) -> Tensor:
        """Squared distances in the embedding, [B]."""
        embedding = self.embedding.to(images.device)
        return (embedding(made) - embedding(images)).square().flatten(1).sum(1)


class LatentImages:
    """The latent images of a data set, for the training of a GAN.

    Attributes:
        images: [N, latent_channels, *img_size / factor], about mean 0 and deviation 1, on the CPU.
        labels: [N].
        made_of: see ``CheckedDataset``.
    """

    def __init__(self, dataset: CheckedDataset, autoencoder: ImageAutoencoder) -> None:
        device = autoencoder.shift.device
        with torch.no_grad():
            at_once = images_at_once(dataset.images.shape[2:])
            batches = (images.to(device, torch.float32) for images in dataset.images[:].split(at_once))
            self.images = torch.cat([autoencoder.encode(images).cpu() for images in batches])
        self.labels, self.made_of = dataset.labels, dataset.made_of

    def __len__(self) -> int:
        return len(self.images)


def latent_images(dataset: CheckedDataset, autoencoder: ImageAutoencoder | None) -> CheckedDataset | LatentImages:
    """What a GAN's discriminator sees of a data set: its latent images, or without an autoencoder the images."""
    return dataset if autoencoder is None else LatentImages(dataset, autoencoder)
