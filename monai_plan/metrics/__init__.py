"""Perceptual distance, exact nearest-real search and fidelity."""

from monai_plan.metrics.embedding import Images, embed, embed_statistics
from monai_plan.metrics.frechet import FeatureStatistics, frechet_distance
from monai_plan.metrics.nearest import (
    NearestReal,
    nearest_other_images,
    nearest_real,
    nearest_real_images,
)
from monai_plan.metrics.perceptual import (
    LPIPSEmbedding,
    PerceptualEmbedding,
    RandomFeatureEmbedding,
    SqueezeNetEmbedding,
    load_published,
    perceptual_embedding,
)
from monai_plan.metrics.precision_recall import precision_recall

__all__ = [
    "FeatureStatistics",
    "Images",
    "LPIPSEmbedding",
    "NearestReal",
    "PerceptualEmbedding",
    "RandomFeatureEmbedding",
    "SqueezeNetEmbedding",
    "embed",
    "embed_statistics",
    "frechet_distance",
    "load_published",
    "nearest_other_images",
    "nearest_real",
    "nearest_real_images",
    "perceptual_embedding",
    "precision_recall",
]
