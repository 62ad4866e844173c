"""The mathematics of PLAN: inversion into W or W+, k-same aggregation by patient, and the walk.

Pennisi et al., "A Privacy-Preserving Walk in the Latent Space of Generative Models for Medical Applications",
MICCAI 2023, arXiv 2307.02984.
"""

from monai_plan.latent.encoder import LatentEncoder, LatentPairs
from monai_plan.latent.inversion import SPACES, Inversion, LatentInverter
from monai_plan.latent.k_same import Anchors, choose_pairs, k_same
from monai_plan.latent.terms import (
    MarginTerm,
    WeightedTerm,
)
from monai_plan.latent.walk import LatentWalk, WalkResult, class_loss, distance_loss, identity_loss, linear_path

__all__ = [
    "SPACES",
    "Anchors",
    "Inversion",
    "LatentEncoder",
    "LatentInverter",
    "LatentPairs",
    "LatentWalk",
    "MarginTerm",
    "WalkResult",
    "WeightedTerm",
    "choose_pairs",
    "class_loss",
    "distance_loss",
    "identity_loss",
    "k_same",
    "linear_path",
]
