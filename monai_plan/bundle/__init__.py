"""Running a bundle: its stages in order, resumable, each through MONAI's own workflow."""

from __future__ import annotations

from monai_plan.bundle.evaluate import evaluate_release
from monai_plan.bundle.runner import StageOutcome, run_bundle
from monai_plan.bundle.stages import (
    aggregate,
    check_data,
    class_counts,
    class_items,
    identity_items,
    invert,
    reproduction_distances,
    select_points,
    synthesize,
    synthesize_images,
    walk_anchors,
)

__all__ = [
    "StageOutcome",
    "aggregate",
    "check_data",
    "class_counts",
    "class_items",
    "evaluate_release",
    "identity_items",
    "invert",
    "reproduction_distances",
    "run_bundle",
    "select_points",
    "synthesize",
    "synthesize_images",
    "walk_anchors",
]
