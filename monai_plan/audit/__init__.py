"""Attacks, utility and the report: what any synthetic data set is worth, and what it gives away."""

from monai_plan.audit.evaluation import Evaluation, EvaluationRow, evaluate
from monai_plan.audit.inputs import AuditInputs, ImageSet, Opinions, RealImages
from monai_plan.audit.measures import Measure, Spread, register_measure
from monai_plan.audit.membership import MembershipResult, membership_attack
from monai_plan.audit.page import write_audit, write_gallery, write_reading
from monai_plan.audit.privacy import Audit, audit
from monai_plan.audit.reading import ReadImages
from monai_plan.audit.report import Section, write_report

__all__ = [
    "Audit",
    "AuditInputs",
    "Evaluation",
    "EvaluationRow",
    "ImageSet",
    "Measure",
    "MembershipResult",
    "Opinions",
    "ReadImages",
    "RealImages",
    "Section",
    "Spread",
    "audit",
    "evaluate",
    "membership_attack",
    "register_measure",
    "write_audit",
    "write_gallery",
    "write_reading",
    "write_report",
]
