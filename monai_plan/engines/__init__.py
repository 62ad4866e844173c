"""Trainings on MONAI's engines: the one trainer of classifiers, and handlers to watch, stop and continue any."""

from monai_plan.engines.classifier import (
    ClassifierSettings,
    classification_scores,
    fit_classifier,
    new_classifier,
    predict_probabilities,
)
from monai_plan.engines.handlers import BestWeights, LossProgressBar, ResumeHandler, StopAtNaN
from monai_plan.engines.inferers import AdversarialInferer

__all__ = [
    "AdversarialInferer",
    "BestWeights",
    "ClassifierSettings",
    "LossProgressBar",
    "ResumeHandler",
    "StopAtNaN",
    "classification_scores",
    "fit_classifier",
    "new_classifier",
    "predict_probabilities",
]
