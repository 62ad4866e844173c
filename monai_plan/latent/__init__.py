"""The mathematics of PLAN: inversion into W or W+, k-same aggregation by patient, and the walk.

Pennisi et al., "A Privacy-Preserving Walk in the Latent Space of Generative Models for Medical Applications",
MICCAI 2023, arXiv 2307.02984.
"""

from monai_plan.latent.encoder import LatentEncoder, LatentPairs
from monai_plan.latent.inversion import Inversion, LatentInverter
from monai_plan.latent.k_same import Anchors, choose_pairs, k_same
from monai_plan.latent.path import distance_loss, linear_path
from monai_plan.latent.settings import SPACES, InversionSettings, WalkSettings
from monai_plan.latent.terms import ClassTerm, IdentityTerm, MarginTerm
from monai_plan.latent.walk import LatentWalk, WalkResult

__all__ = [
    "SPACES",
    "Anchors",
    "ClassTerm",
    "IdentityTerm",
    "Inversion",
    "InversionSettings",
    "LatentEncoder",
    "LatentInverter",
    "LatentPairs",
    "LatentWalk",
    "MarginTerm",
    "WalkResult",
    "WalkSettings",
    "choose_pairs",
    "distance_loss",
    "k_same",
    "linear_path",
]
