"""Running a bundle: its stages in order, resumable, each through MONAI's own workflow."""

from __future__ import annotations

from monai_plan.bundle.evaluate import evaluate_release
from monai_plan.bundle.handlers import BestWeights, LossProgressBar, ResumeHandler, StopAtNaN
from monai_plan.bundle.inferers import AdversarialInferer
from monai_plan.bundle.runner import StageOutcome, run_bundle
from monai_plan.bundle.stages import class_items, identity_items

__all__ = [
    "AdversarialInferer",
    "BestWeights",
    "LossProgressBar",
    "ResumeHandler",
    "StageOutcome",
    "StopAtNaN",
    "class_items",
    "evaluate_release",
    "identity_items",
    "run_bundle",
]
