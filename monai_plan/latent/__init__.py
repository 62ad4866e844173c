"""The mathematics of PLAN: inversion into W or W+, safe anchors (k-same averages by patient, or chosen
points of G's own distribution), and the walk.

Pennisi et al., "A Privacy-Preserving Walk in the Latent Space of Generative Models for Medical Applications",
MICCAI 2023, arXiv 2307.02984.
"""

from monai_plan.latent.encoder import LatentEncoder, LatentPairs
from monai_plan.latent.inversion import Inversion, LatentInverter
from monai_plan.latent.k_same import Anchors, choose_pairs, k_same
from monai_plan.latent.path import distance_loss, linear_path
from monai_plan.latent.prior import PriorAnchors
from monai_plan.latent.settings import (
    ANCHORS,
    SPACES,
    WALKS,
    InversionSettings,
    SelectionSettings,
    WalkSettings,
)
from monai_plan.latent.terms import ClassTerm, IdentityTerm, MarginTerm
from monai_plan.latent.walk import LatentWalk, WalkResult

__all__ = [
    "ANCHORS",
    "SPACES",
    "WALKS",
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
    "PriorAnchors",
    "SelectionSettings",
    "WalkResult",
    "WalkSettings",
    "choose_pairs",
    "distance_loss",
    "k_same",
    "linear_path",
]
