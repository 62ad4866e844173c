"""Attacks, utility and the report: what a synthetic data set is worth, and what it gives away."""

from monai_plan.audit.evaluation import Evaluation, EvaluationRow, RealImages, Spread, evaluate
from monai_plan.audit.membership import MembershipResult, membership_attack
from monai_plan.audit.report import PathFigure, write_report

__all__ = [
    "Evaluation",
    "EvaluationRow",
    "MembershipResult",
    "PathFigure",
    "RealImages",
    "Spread",
    "evaluate",
    "membership_attack",
    "write_report",
]
