"""Embedding many images, batch by batch."""

from __future__ import annotations

import pytest
import torch

from monai_plan.metrics import RandomFeatureEmbedding, embed, embed_statistics
from monai_plan.utils import ConfigError, DataError


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_embed_is_the_embedding_batch_by_batch(spatial_dims: int) -> None:
    embedding = RandomFeatureEmbedding(spatial_dims, 1)
    images = torch.rand(5, 1, *[8] * spatial_dims) * 2 - 1
    torch.testing.assert_close(embed(embedding, images, batch_size=2), embedding(images))
    torch.testing.assert_close(embed(embedding, images, pooled=True, batch_size=2), embedding.pooled(images))
    statistics, features = embed_statistics(embedding, images, batch_size=2), embedding.pooled(images).double()
    torch.testing.assert_close(statistics.mean, features.mean(0), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(statistics.covariance, features.T.cov(), rtol=1e-4, atol=1e-7)
    with pytest.raises(DataError, match="no images"):
        embed(embedding, images[:0])
    with pytest.raises(ConfigError, match="batch_size"):
        embed(embedding, images, batch_size=0)
