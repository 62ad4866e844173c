"""Running a bundle: its stages in order, resumable, each through MONAI's own workflow."""

from __future__ import annotations

from monai_plan.bundle.runner import StageOutcome, run_bundle

__all__ = ["StageOutcome", "run_bundle"]
