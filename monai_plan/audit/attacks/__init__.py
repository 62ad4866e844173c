"""Attacks on a released data set."""

from monai_plan.audit.attacks.base import CopyAttack, Embedder, People, Scores, registered_attacks
from monai_plan.audit.attacks.copies import RegisteredCopies
from monai_plan.audit.attacks.reconstructions import SoftReconstructions

__all__ = [
    "CopyAttack",
    "Embedder",
    "People",
    "RegisteredCopies",
    "Scores",
    "SoftReconstructions",
    "registered_attacks",
]
