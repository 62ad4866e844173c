"""Exact nearest-real search: how far is each image from the real image nearest to it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from monai_plan.metrics.perceptual import PerceptualEmbedding
from monai_plan.utils import ConfigError, DataError

__all__ = ["NearestReal", "embed", "nearest_real"]

TILE = 256  # rows of queries and of reals a product: at 64 px a few hundred MB
CANDIDATES = 4  # reals a tile whose distance is computed again as a difference


class NearestReal(NamedTuple):
    """The nearest real image of every query.

    Attributes:
        distances: [N] squared Euclidean distances, >= 0.
        indices: [N] int64, the row of ``reals``.
    """

    distances: Tensor
    indices: Tensor


@torch.no_grad()
def nearest_real(queries: Tensor, reals: Tensor, *, tile: int = TILE) -> NearestReal:
    """Find for every query the real embedding at the least squared Euclidean distance, exactly.

    ‖q − r‖² = ‖q‖² − 2 q·r + ‖r‖² makes it a matrix product, tile by tile: memory is bounded by ``tile``² numbers and
    the difference of a tile's rows, whatever N and M. That form loses digits where q ≈ r, just where a copy must show,
    so the few nearest of each tile are measured again as differences.

    Args:
        queries: [N, E].
        reals: [M, E], on the same device.
        tile: rows a side of one product.

    Raises:
        DataError: if the shapes do not fit or a side is empty.
        ConfigError: if ``tile`` is less than 1.
    """
    if queries.ndim != 2 or reals.ndim != 2 or queries.shape[1] != reals.shape[1]:
        raise DataError(
            f"queries [N, E] and reals [M, E] must share E, got {tuple(queries.shape)} and {tuple(reals.shape)}: use "
            "one embedding and one image size for both."
        )
    if not len(queries) or not len(reals):
        raise DataError(f"a nearest-real search needs images on both sides, got {len(queries)} and {len(reals)}.")
    if tile < 1:
        raise ConfigError(f"tile must be at least 1, got {tile}.")
    # Distances do not change when both sides move; centred rows are shorter, and the product loses fewer digits.
    centre = reals.mean(0)
    distances = queries.new_full((len(queries),), torch.inf)
    indices = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
    for first in range(0, len(queries), tile):
        rows = slice(first, first + tile)
        query = queries[rows] - centre
        for start in range(0, len(reals), tile):
            real = reals[start : start + tile] - centre
            rough = real.square().sum(1) - 2 * query @ real.T  # ‖q‖² is the same for all and not needed here
            candidates = rough.topk(min(CANDIDATES, len(real)), largest=False).indices  # [n, candidates]
            # One candidate column at a time: no N × candidates × E.
            exact = torch.stack([(query - real[column]).square().sum(1) for column in candidates.T])
            distance, which = exact.min(0)
            nearer = distance < distances[rows]
            distances[rows] = torch.where(nearer, distance, distances[rows])
            index = candidates.gather(1, which[:, None])[:, 0] + start
            indices[rows] = torch.where(nearer, index, indices[rows])
    return NearestReal(distances, indices)


@torch.no_grad()
def embed(
    embedding: PerceptualEmbedding,
    images: Tensor,
    *,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    pooled: bool = False,
) -> Tensor:
    """Embed many images, batch by batch.

    Args:
        embedding: is moved to ``device`` and stays there.
        images: [N, C, *spatial], values in [-1, 1].
        batch_size: images at a time.
        device: where to compute.
        pooled: False for ``embedding(images)``, whose squared distances are the perceptual ones; True for
            ``embedding.pooled(images)``, the features of the Fréchet distance.

    Returns:
        [N, E], or [N, F] if ``pooled``, on the CPU.

    Raises:
        DataError: if there are no images or they do not fit the embedding.
        ConfigError: if ``batch_size`` is less than 1.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}.")
    if not len(images):
        raise DataError("there are no images to embed.")
    embedding.to(device)
    function = embedding.pooled if pooled else embedding
    return torch.cat([function(batch.to(device)).cpu() for batch in images.split(batch_size)])
