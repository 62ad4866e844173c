"""The stage that trains the classifier of the diagnosis, φ_class."""

from __future__ import annotations

import torch

from monai_plan.bundle.stages.train_classifier import Labelled, TrainClassifierStage
from monai_plan.data import split_by_subject

__all__ = ["TrainClassStage"]

VALIDATION_SHARE = 0.2  # of the patients of each class


class TrainClassStage(TrainClassifierStage):
    """φ_class: learns the diagnosis from real images; a fifth of the patients of each class validates."""

    name = "train_class"
    kind = "class_net"

    def data(self) -> tuple[Labelled, Labelled]:
        """The real images, split by subject."""
        dataset = self.dataset
        items = [
            {"image": index, "label": int(label), "subject": subject}
            for index, (label, subject) in enumerate(zip(dataset.labels, dataset.subjects, strict=True))
        ]
        sides = split_by_subject(items, test_fraction=VALIDATION_SHARE, seed=self.seed)
        training, validation = (torch.tensor([item["image"] for item in side]) for side in sides)
        return (
            (dataset.images.subset(training), dataset.labels[training]),
            (dataset.images.subset(validation), dataset.labels[validation]),
        )
