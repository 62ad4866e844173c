"""Embedding many images, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from monai_plan.metrics.frechet import FeatureStatistics
from monai_plan.metrics.perceptual import PerceptualEmbedding
from monai_plan.utils import ConfigError, DataError

__all__ = ["Images", "embed", "embed_batch", "embed_statistics"]


class Images(Protocol):
    """Images [N, C, *spatial] in [-1, 1]: a tensor, or what gives float32 tensors when it is indexed or split."""

    @property
    def shape(self) -> torch.Size:
        """[N, C, *spatial]."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any) -> Tensor: ...

    def split(self, size: int) -> Iterable[Tensor]:
        """Batches of at most ``size`` images."""


@torch.no_grad()
def embed(
    embedding: PerceptualEmbedding,
    images: Images,
    *,
    pooled: bool = False,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Embed many images, batch by batch.

    Args:
        embedding: is moved to ``device`` and stays there.
        images: [N, C, *spatial], values in [-1, 1].
        pooled: take ``embedding.pooled``, as precision and recall need it.
        batch_size: images at a time.
        device: where to compute, in the weights' precision whatever autocast says.

    Returns:
        [N, E], on the CPU; the squared distances of its rows are the perceptual ones. With ``pooled`` [N, F].

    Raises:
        DataError: if there are no images or they do not fit the embedding.
        ConfigError: if ``batch_size`` is less than 1.
    """
    function = embedding.pooled if pooled else embedding
    return torch.cat([batch.cpu() for batch in _embedded(embedding, function, images, batch_size, device)])


@torch.no_grad()
def embed_statistics(
    embedding: PerceptualEmbedding,
    images: Images,
    *,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
) -> FeatureStatistics:
    """Mean and covariance of ``embedding.pooled(images)``, for the Fréchet distance, batch by batch.

    Args, Raises: see ``embed``.

    Returns:
        On the CPU.
    """
    statistics = FeatureStatistics()
    for features in _embedded(embedding, embedding.pooled, images, batch_size, device):
        statistics.add(features.cpu())  # float64, which not every device knows
    return statistics


def _embedded(
    embedding: PerceptualEmbedding,
    function: Callable[[Tensor], Tensor],
    images: Images,
    batch_size: int,
    device: torch.device | str,
) -> Iterator[Tensor]:
    """What a function of the embedding makes of each batch."""
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}.")
    if not len(images):
        raise DataError("there are no images to embed.")
    embedding.to(device)
    return (embed_batch(function, batch, device) for batch in images.split(batch_size))


def embed_batch(function: Callable[[Tensor], Tensor], images: Tensor, device: torch.device | str) -> Tensor:
    """What a function makes of images on a device, in the weights' precision whatever autocast says."""
    with torch.autocast(torch.device(device).type, enabled=False):
        return function(images.to(device))
