"""Running a bundle: its stages in order, resumable, each through MONAI's own workflow."""

from __future__ import annotations

from monai_plan.bundle.evaluate import evaluate_release
from monai_plan.bundle.runner import StageOutcome, run_bundle
from monai_plan.bundle.stages import (
    aggregate,
    check_data,
    class_counts,
    invert,
    reproduction_distances,
    select_points,
    synthesize,
    synthesize_images,
    walk_anchors,
)
from monai_plan.bundle.train_classifiers import TrainClass, TrainIdentity, identities

__all__ = [
    "StageOutcome",
    "TrainClass",
    "TrainIdentity",
    "aggregate",
    "check_data",
    "class_counts",
    "evaluate_release",
    "identities",
    "invert",
    "reproduction_distances",
    "run_bundle",
    "select_points",
    "synthesize",
    "synthesize_images",
    "walk_anchors",
]
