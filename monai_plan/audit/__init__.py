"""Attacks, utility and the report: what any synthetic data set is worth, and what it gives away."""

from monai_plan.audit.evaluation import Evaluation, EvaluationRow, evaluate
from monai_plan.audit.inputs import AuditInputs, ImageSet, Opinions, RealImages
from monai_plan.audit.measures import Measure, Spread, register_measure
from monai_plan.audit.membership import MembershipResult, membership_attack
from monai_plan.audit.report import Section, write_report

__all__ = [
    "AuditInputs",
    "Evaluation",
    "EvaluationRow",
    "ImageSet",
    "Measure",
    "MembershipResult",
    "Opinions",
    "RealImages",
    "Section",
    "Spread",
    "evaluate",
    "membership_attack",
    "register_measure",
    "write_report",
]
