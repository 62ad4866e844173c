"""What is audited and against what: image sets, real images, and what several measures share, computed once."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from monai_plan.engines import ClassifierSettings, fit_classifier, new_classifier, predict_probabilities
from monai_plan.metrics import FeatureStatistics, Images, PerceptualEmbedding, embed, embed_statistics
from monai_plan.utils import ConfigError, DataError, derive_seed, digest, finished_part

__all__ = ["AuditInputs", "ImageSet", "Opinions", "RealImages"]

REAL = "real"
MOST_COMPARED = 5000  # images per side whose neighbours are looked for: the time goes with the square


class RealImages(Protocol):
    """Real images of one section of a data list, as ``monai_plan.data.CheckedDataset`` holds them."""

    @property
    def images(self) -> Images:
        """[N, C, *spatial] in [-1, 1]."""

    labels: Tensor  # [N]
    subjects: list[str]
    has_subjects: bool


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images to be judged, a row of the table.

    Attributes:
        name: of the row.
        images: [N, C, *spatial] in [-1, 1].
        labels: [N], int64.
        note: a sentence below the table; empty for none.
    """

    name: str
    images: Images
    labels: Tensor
    note: str = ""


@dataclass(frozen=True, eq=False)
class Opinions:
    """What a classifier that was trained on an image set says about the real images.

    Attributes:
        train: [N, K], probabilities of the real training images.
        test: [M, K], of the real test images.
        seed: of the classifier.
    """

    train: Tensor
    test: Tensor
    seed: int


class AuditInputs:
    """The real images, the networks and the settings, and what measures share, computed once and kept in files.

    Args:
        train: real training images.
        test: real test images of other patients.
        embedding: of the perceptual distance and the Fréchet distance.
        classifier_factory: makes an untrained classifier, [B, C, *spatial] -> [B, K] logits.
        settings: of its training on the real images; all sets make as many steps.
        cache_dir: a private folder: what is in it derives from patients.
        identity_net: [B, C, *spatial] -> [B, identities] logits.
        seeds: classifiers per set.
        seed: of everything that is drawn.
        augment: see ``fit_classifier``.
        cache_key: anything else on which results depend; change it with ``augment``, which cannot be told apart.
        device: where to compute.
        progress: show a progress bar.

    Raises:
        ConfigError: if ``seeds`` is less than 1.
        DataError: if a patient is in training and test.
    """

    def __init__(
        self,
        *,
        train: RealImages,
        test: RealImages,
        embedding: PerceptualEmbedding,
        classifier_factory: Callable[[], nn.Module],
        settings: ClassifierSettings,
        cache_dir: str | os.PathLike[str],
        identity_net: nn.Module | None = None,
        seeds: int = 3,
        seed: int = 0,
        augment: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
        cache_key: str = "",
        device: torch.device | str = "cpu",
        progress: bool = True,
    ) -> None:
        if seeds < 1:
            raise ConfigError(f"seeds must be at least 1, got {seeds}.")
        both = set(train.subjects) & set(test.subjects)
        if both:
            raise DataError(
                f"subject {min(both)} is in training and test ({len(both)} such): split the data list by subject."
            )
        self.train, self.test, self.embedding, self.identity_net = train, test, embedding, identity_net
        self.classifier_factory, self.settings, self.augment = classifier_factory, settings, augment
        self.cache_dir, self.device, self.progress = Path(cache_dir), device, progress
        self.seeds = [derive_seed(seed, "evaluate", number) for number in range(seeds)]
        self.real = ImageSet(REAL, train.images, train.labels)
        reals = (train.images, train.labels, train.subjects, test.images, test.labels, test.subjects)
        self.show: Callable[[str], object] = lambda text: None  # what is being done now; ``evaluate`` listens
        self._shared = digest(*reals, cache_key, settings.batch_size)

    def check(self, image_set: ImageSet) -> None:
        """Whether a set can be judged beside the real ones.

        Raises:
            DataError: if its images, labels and classes do not fit.
        """
        shape, images, labels = tuple(self.train.images.shape[1:]), image_set.images, image_set.labels
        if tuple(images.shape[1:]) != shape or len(images) != len(labels) or len(images) < 2:
            raise DataError(
                f'the images "{image_set.name}" have the shape {tuple(images.shape)} and {len(labels)} labels: give '
                f"two or more of the shape {shape}, as the real training images, each with a label."
            )
        if int(labels.max()) >= self._num_classes:
            raise DataError(
                f"label {int(labels.max())} is outside the classifier's {self._num_classes} classes: make "
                "classifier_factory build one with an output per class."
            )

    @cached_property
    def _num_classes(self) -> int:
        network = new_classifier(self.classifier_factory, seed=0)
        return self.probabilities(network, self.train.images[:1]).shape[1]

    def judged(self, image_set: ImageSet) -> Images:
        """The images of a set; of the real ones those of the test section: what a new patient shows, the scale."""
        return self.test.images if image_set is self.real else image_set.images

    def probabilities(self, network: nn.Module, images: Images) -> Tensor:
        """[N, K], see ``predict_probabilities``."""
        return predict_probabilities(network, images, batch_size=self.settings.batch_size, device=self.device)

    def statistics(self, images: Images) -> FeatureStatistics:
        """Of the pooled features of images, see ``monai_plan.metrics.embed_statistics``."""
        return embed_statistics(self.embedding, images, batch_size=self.settings.batch_size, device=self.device)

    def features(self, images: Images) -> Tensor:
        """[N, F], pooled features of images; of many those of ``MOST_COMPARED``, spread evenly over all."""
        spread = torch.linspace(0, len(images) - 1, min(len(images), MOST_COMPARED)).long()
        parts = spread.split(self.settings.batch_size)
        return torch.cat([embed(self.embedding, images[part], pooled=True, device=self.device) for part in parts])

    @cached_property
    def train_features(self) -> Tensor:
        """Of the real training images."""
        return self.features(self.train.images)

    @cached_property
    def train_statistics(self) -> FeatureStatistics:
        """Of the real training images."""
        return self.statistics(self.train.images)

    @cached_property
    def embedding_digest(self) -> str:
        """What is made with the embedding depends on it."""
        return digest(self.embedding.title, self.embedding)

    @cached_property
    def classifier_digest(self) -> str:
        """What is made with trained classifiers depends on them."""
        return digest(*(self._classifier_inputs(seed) for seed in self.seeds))

    def _classifier_inputs(self, seed: int) -> list[Any]:
        network = new_classifier(self.classifier_factory, seed=seed)
        return [network, str(network), self.settings, seed]

    def part(
        self, image_set: ImageSet, name: str, *, made_by: Any, make: Callable[[], Mapping[str, Any]]
    ) -> dict[str, Any]:
        """A result about a set, from its file if the same set, real images and ``made_by`` made it, else made now."""
        file = re.sub("[^A-Za-z0-9-]", "_", f"{image_set.name}-{name}")
        inputs = [self._shared, image_set.images, image_set.labels, made_by]
        return finished_part(self.cache_dir / f"{file}.pt", kind="part of the evaluation", made_by=inputs, make=make)

    def opinions(self, image_set: ImageSet) -> list[Opinions]:
        """Train a classifier per seed on a set, and ask each about the real images.

        The same seeds, and so the same initial weights, serve every set, and sets of fewer images are trained on for
        more epochs, so that all make as many steps.
        """
        epochs = max(1, round(self.settings.epochs * len(self.train.images) / len(image_set.images)))
        opinions = []
        for number, seed in enumerate(self.seeds):
            self.show(f"{image_set.name}, classifier {number + 1} of {len(self.seeds)}")

            def make(seed: int = seed) -> dict[str, Tensor]:
                network = fit_classifier(
                    new_classifier(self.classifier_factory, seed=seed),
                    image_set.images,
                    image_set.labels,
                    settings=replace(self.settings, epochs=epochs),
                    augment=self.augment,
                    seed=seed,
                    device=self.device,
                )
                sides = {"train": self.train, "test": self.test}
                return {name: self.probabilities(network, reals.images) for name, reals in sides.items()}

            part = self.part(image_set, f"classifier{number}", made_by=self._classifier_inputs(seed), make=make)
            opinions.append(Opinions(part["train"], part["test"], seed))
        return opinions
