"""The stages ``train_identity`` and ``train_class``: φ_id and φ_class."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from monai_plan.bundle.stages import synthesize_images
from monai_plan.data import CheckedDataset, split_by_subject
from monai_plan.engines import ClassifierSettings, fit_classifier, new_classifier
from monai_plan.latent import LatentGenerator
from monai_plan.networks import save_classifier
from monai_plan.utils import ConfigError, DataError, load_artifact

__all__ = ["TrainClass", "TrainIdentity", "identities"]

VALIDATION_SHARE = 0.2  # of the patients of each class

Labelled = tuple[Tensor, Tensor]  # images [N, C, *spatial] and labels [N]


class _TrainClassifier(ABC):
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
        save_classifier(network, self.output_file, kind=self.kind, num_outputs=int(labels.max()) + 1)


class TrainClass(_TrainClassifier):
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
            (dataset.images[training], dataset.labels[training]),
            (dataset.images[validation], dataset.labels[validation]),
        )


class TrainIdentity(_TrainClassifier):
    """φ_id: learns who is on real images x and on their reconstructions G(ŵ).

    The last start of every projection is kept out of the training for the validation, so that what is validated is
    that φ_id recognises a patient in a generated image which it has not seen. With a single start the real images
    validate.

    Args:
        generator: G.
        latents_file: of the stage ``invert``.
        identity_of: see ``identities``.
        options: as for ``TrainClass``.

    Raises:
        DataError: if the latents are of other images.
    """

    name = "train_identity"
    kind = "identity_net"

    def __init__(
        self,
        *,
        generator: LatentGenerator,
        latents_file: str | os.PathLike[str],
        identity_of: str = "subject",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.generator, self.latents_file, self.identity_of = generator, latents_file, identity_of

    def data(self) -> tuple[Labelled, Labelled]:
        """Real images and all starts but the last; the last start."""
        labels = identities(self.dataset, self.identity_of)
        data = load_artifact(self.latents_file, kind="latents")
        if data["keys"] != self.dataset.keys:
            raise DataError(f"{self.latents_file} is of other images than the data list: run the stage invert again.")
        starts = [synthesize_images(self.generator, latents) for latents in data["latents"].unbind(1)]
        held_out = starts.pop() if len(starts) > 1 else self.dataset.images
        images = torch.cat([self.dataset.images, *starts])
        return (images, labels.repeat(1 + len(starts))), (held_out, labels)


def identities(dataset: CheckedDataset, identity_of: str) -> Tensor:
    """What φ_id tells apart.

    Args:
        dataset: N real images.
        identity_of: "subject", one class per patient, or "image", one class per image, as in the paper.

    Returns:
        [N], int64, in 0 … number of identities - 1.

    Raises:
        ConfigError: if ``identity_of`` is neither.
    """
    if identity_of not in ("subject", "image"):
        raise ConfigError(f"identity_of is {identity_of!r}, but must be 'subject' or 'image' (as in the paper).")
    return dataset.identities if identity_of == "subject" else torch.arange(len(dataset))
