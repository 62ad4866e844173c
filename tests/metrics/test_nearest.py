from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_plan.metrics import RandomFeatureEmbedding, embed, nearest_real
from monai_plan.utils import ConfigError, DataError


def slow_nearest(queries, reals):
    distances = [[float((q.double() - r.double()).square().sum()) for r in reals] for q in queries]
    best = [min(range(len(reals)), key=row.__getitem__) for row in distances]
    return [row[i] for row, i in zip(distances, best, strict=True)], best


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 9), m=st.integers(1, 12), tile=st.integers(1, 7), seed=st.integers(0, 1000))
def test_equals_the_slow_pairwise_search(n, m, tile, seed):
    g = torch.Generator().manual_seed(seed)
    queries, reals = torch.randn(n, 5, generator=g) + 3, torch.randn(m, 5, generator=g) + 3
    distances, indices = slow_nearest(queries, reals)
    result = nearest_real(queries, reals, tile=tile)
    assert result.indices.tolist() == indices
    assert result.distances.tolist() == pytest.approx(distances, rel=1e-5)


def test_copies_are_found_at_distance_zero_far_from_the_origin():
    """‖q‖² − 2q·r + ‖r‖² in float32 alone would lose the distance of a near copy in the length of the vectors."""
    g = torch.Generator().manual_seed(0)
    reals = torch.randn(50, 300, generator=g) + 100
    order = torch.randperm(50, generator=g)
    copies = nearest_real(reals[order], reals, tile=16)
    assert torch.equal(copies.indices, order)
    assert (copies.distances == 0).all()
    near = reals[order] + 1e-3
    result = nearest_real(near, reals, tile=16)
    assert torch.equal(result.indices, order)
    torch.testing.assert_close(result.distances, (near - reals[order]).square().sum(1), rtol=0.05, atol=0)


def test_wrong_shapes_are_refused():
    with pytest.raises(DataError, match="must share E"):
        nearest_real(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(DataError, match="on both sides"):
        nearest_real(torch.zeros(2, 3), torch.zeros(0, 3))
    with pytest.raises(ConfigError, match="tile"):
        nearest_real(torch.zeros(2, 3), torch.zeros(2, 3), tile=0)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_embed_is_the_embedding_batch_by_batch(spatial_dims):
    embedding = RandomFeatureEmbedding(spatial_dims, 1)
    images = torch.rand(5, 1, *[8] * spatial_dims) * 2 - 1
    torch.testing.assert_close(embed(embedding, images, batch_size=2), embedding(images))
    torch.testing.assert_close(embed(embedding, images, batch_size=2, pooled=True), embedding.pooled(images))
    with pytest.raises(DataError, match="no images"):
        embed(embedding, images[:0])
    with pytest.raises(ConfigError, match="batch_size"):
        embed(embedding, images, batch_size=0)
