"""What the stages that train a classifier share."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from monai_plan.bundle.same_data import made_of
from monai_plan.data import CheckedDataset
from monai_plan.engines import ClassifierSettings, fit_classifier, new_classifier
from monai_plan.metrics import Images
from monai_plan.networks import save_classifier

__all__ = ["TrainClassifierStage"]

Labelled = tuple[Images, Tensor]  # images [N, C, *spatial] and labels [N]


class TrainClassifierStage(ABC):
    """Trains a classifier on what ``data`` gives, goes on from its checkpoint, and saves the best weights.

    Args:
        dataset: N real images.
        network: makes an untrained classifier, [B, C, *spatial] → [B, labels] logits.
        settings: of its training.
        augment: a MONAI dictionary transform over ``"image"``.
        output_file: where the network goes.
        work_dir: private folder of the checkpoint.
        seed: of everything that is drawn.
        device: where to train.
    """

    name: ClassVar[str]
    kind: ClassVar[str]

    def __init__(
        self,
        *,
        dataset: CheckedDataset,
        network: Callable[[], nn.Module],
        settings: ClassifierSettings,
        augment: Callable[[Mapping[str, Any]], Mapping[str, Any]],
        output_file: str | os.PathLike[str],
        work_dir: str | os.PathLike[str],
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.dataset, self.network, self.settings, self.augment = dataset, network, settings, augment
        self.output_file, self.work_dir, self.seed, self.device = output_file, work_dir, seed, device

    @abstractmethod
    def data(self) -> tuple[Labelled, Labelled]:
        """Images and labels for training and for validation."""

    def run(self) -> None:
        """Train, or go on, and save."""
        (images, labels), validation = self.data()
        network = fit_classifier(
            new_classifier(self.network, seed=self.seed),
            images,
            labels,
            settings=self.settings,
            validation=validation,
            augment=self.augment,
            seed=self.seed,
            device=self.device,
            checkpoint=Path(self.work_dir) / "checkpoint.pt",
            desc=self.name,
        )
        save_classifier(
            network,
            self.output_file,
            kind=self.kind,
            num_outputs=int(labels.max()) + 1,
            made_by={"data": made_of(self.dataset)},
        )
