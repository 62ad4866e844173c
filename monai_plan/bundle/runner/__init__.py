"""Run all stages of a bundle in order; skip what is done, resume what was stopped, say why anything is redone."""

from __future__ import annotations

from monai_plan.bundle.runner.record import PROTOCOL, SETTINGS, data_digests
from monai_plan.bundle.runner.run import StageOutcome, meant_error, run_bundle

__all__ = ["PROTOCOL", "SETTINGS", "StageOutcome", "data_digests", "meant_error", "run_bundle"]
