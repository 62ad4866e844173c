"""Perceptual distance, exact nearest-real search and fidelity."""

from monai_plan.metrics.frechet import frechet_distance
from monai_plan.metrics.nearest import NearestReal, embed, nearest_real
from monai_plan.metrics.perceptual import (
    LPIPSEmbedding,
    PerceptualEmbedding,
    RandomFeatureEmbedding,
    SqueezeNetEmbedding,
    perceptual_embedding,
)

__all__ = [
    "LPIPSEmbedding",
    "NearestReal",
    "PerceptualEmbedding",
    "RandomFeatureEmbedding",
    "SqueezeNetEmbedding",
    "embed",
    "frechet_distance",
    "nearest_real",
    "perceptual_embedding",
]
