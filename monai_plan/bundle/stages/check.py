"""The first stage: what no single image shows and what only late stages need, before hours of training."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from monai_plan.bundle.memory import check_memory, stage_needs
from monai_plan.bundle.stages.train_autoencoder import load_published_autoencoder
from monai_plan.bundle.stages.walk import class_counts
from monai_plan.data import CheckedDataset, describe_data
from monai_plan.latent import LatentInverter, LatentWalk
from monai_plan.networks import ImageAutoencoder, frozen, is_imported, load_generator
from monai_plan.release import check_quantile, check_words
from monai_plan.utils import ArtifactError, ConfigError, DataError, first_line, write_json

__all__ = ["CheckStage"]

logger = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False)
class CheckStage:
    """Check that the data and the options of all stages go together; ``check_options`` has seen each option alone.

    Args:
        training: real images of the training section, each one checked already.
        test: real images of the test section.
        inverter, walk: as the later stages will build them, of networks that are not trained yet: what is wrong with
            their options shows when they are built. One image is put through each of their networks.
        batch_size: of the GAN's training.
        k: of k-same.
        anchor_kind, walk_kind: see ``AnchorsStage``.
        num_images, balance: see ``class_counts``.
        min_distance_quantile: see ``Walk``.
        release_name: of the data set that is released.
        discriminator: of the GAN's training.
        autoencoder: behind which the GAN works, or None.
        options: the values of the ids, for the estimate of the memory, see ``stage_needs``.
        report_file: private JSON, see ``describe_data``.
    """

    training: CheckedDataset
    test: CheckedDataset
    inverter: LatentInverter
    walk: LatentWalk
    batch_size: int
    k: int
    anchor_kind: str
    walk_kind: str
    num_images: int | None
    balance: str
    min_distance_quantile: float | None
    release_name: str
    discriminator: nn.Module
    autoencoder: ImageAutoencoder | None
    options: Mapping[str, Any]
    report_file: str | os.PathLike[str]

    def run(self) -> None:
        """Check, and write the report.

        Raises:
            DataError: if a class has no name or too few subjects for two anchors, or there are fewer images than
                ``batch_size``.
            ConfigError: if an option cannot work, or a stage needs more memory than there is.
        """
        if self.anchor_kind == "k_same" and self.walk_kind == "none":
            raise ConfigError(
                "walk_kind is 'none', by which the anchors themselves leave, but anchor_kind is 'k_same': averages of "
                "patients must not leave. Set anchor_kind to 'prior', or walk_kind to 'plan'."
            )
        self._check_channels()
        self._check_autoencoder()
        source = self.options["autoencoder_source"]
        check_words(release_name=self.release_name, autoencoder_source=source, label_names=self.training.label_names)
        if len(self.training) < self.batch_size:
            raise DataError(
                f"the training section has {len(self.training)} images, fewer than batch_size = {self.batch_size}: "
                "lower batch_size."
            )
        unnamed = sorted(set(self.training.labels.tolist()) - set(self.training.label_names))
        if unnamed:
            raise DataError(
                f'class {unnamed[0]} has images, but no name in "labels" of the data list: add it, for the release '
                "names its classes."
            )
        self._check_given_generator()
        class_counts(self.training.labels, num_images=self.num_images, balance=self.balance)
        self._try_autoencoder()
        self._try_networks()
        self._check_subjects()
        if self.min_distance_quantile is not None:
            check_quantile(self.min_distance_quantile, self.training.identities)
        needs = stage_needs(
            self.training, self.test, self.inverter, self.walk, self.discriminator, self.autoencoder, self.options
        )
        logger.info(check_memory(needs, self.walk.device, self.options))
        self._report()

    def _check_channels(self) -> None:
        """A release of volumes is NIfTI of one channel."""
        channels = self.training.images.shape[1]
        if self.training.images.ndim == 5 and channels != 1:
            raise ConfigError(
                f"img_channels is {channels}, but a release holds volumes of one channel: write the volumes in grey, "
                "and leave img_channels out or set it to 1."
            )

    def _check_autoencoder(self) -> None:
        """A published one says what it was trained on, and there is one."""
        weights, source = self.options["autoencoder_weights"], self.options["autoencoder_source"]
        if (weights is None) != (source is None):
            raise ConfigError(
                f"autoencoder_weights is {weights!r} and autoencoder_source {source!r}: give both or neither, for the "
                "card of the release says what data a published autoencoder was trained on."
            )
        if weights is not None and self.autoencoder is None:
            raise ConfigError(
                f"autoencoder_weights is {weights!r}, but the GAN works without an autoencoder: set the id autoencoder "
                "to the arguments of the one that the file holds."
            )

    def _try_autoencoder(self) -> None:
        """One image through it, with the weights that it will have if they are published ones."""
        weights = self.options["autoencoder_weights"]
        if self.autoencoder is None:
            if self.training.images.ndim == 5:
                logger.info(
                    "the GAN makes the voxels themselves, which is slow: by default it has an autoencoder where all "
                    "axes of img_size are multiples of 8 from 32 on"
                )
            return
        coder = copy.deepcopy(self.autoencoder).to(self.walk.device).eval()
        whose = "the autoencoder of the id autoencoder"
        if weights is not None:
            load_published_autoencoder(coder, weights)
            whose = f"the autoencoder with the weights of {weights}"
        image = self.training.images[:1].to(self.walk.device, torch.float32)
        try:
            with torch.no_grad():
                made = coder.decode(coder.encode(image))
                ramp = torch.linspace(-1, 1, image.numel(), device=image.device).view_as(image)
                blind = torch.equal(made, coder.decode(coder.encode(ramp)))
        except (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError) as error:
            raise ConfigError(
                f"{whose} cannot work on images {list(image.shape[1:])}: {first_line(error)}; see "
                "monai_plan.networks.ImageAutoencoder."
            ) from error
        if made.shape != image.shape or not made.isfinite().all():
            what = "NaN or infinite values" if made.shape == image.shape else f"an image {list(made.shape[1:])}"
            raise ConfigError(f"{whose} makes {what} of an image {list(image.shape[1:])}: use another one.")
        if blind:
            raise ConfigError(
                f"{whose} makes the same of an image and of a ramp, so it has learnt nothing: use another one."
            )

    def _check_given_generator(self) -> None:
        """An imported generator in the place of the trained one, of which no earlier stage knows."""
        file = Path(self.report_file).with_name("model.pt")
        if file.exists() and _is_imported(file):
            shape = self.training.images.shape[1:]
            classes = max(self.training.label_names) + 1
            load_generator(file, fit={"img_size": shape[1:], "img_channels": shape[0], "num_classes": classes})

    def _check_subjects(self) -> None:
        """Two anchors of k patients per class, or else two patients, of whom one validates φ_class."""
        data = self.training
        if len(data.label_names) < 2:
            raise DataError("the training section has one class, but φ_class tells two or more apart: add another.")
        averaged = self.anchor_kind == "k_same"
        for label, name in data.label_names.items():
            subjects = {s for s, y in zip(data.subjects, data.labels.tolist(), strict=True) if y == label}
            if averaged and len(subjects) < 2 * self.k:
                raise DataError(
                    f"class {label} ({name}) has {len(subjects)} subjects in the training section, but a walk needs "
                    f"two anchors of k = {self.k} subjects each: add patients"
                    + (f", or use k <= {len(subjects) // 2}." if len(subjects) >= 4 else " or leave the class out.")
                )
            if len(subjects) < 2:
                raise DataError(
                    f"class {label} ({name}) has one subject in the training section, but φ_class learns from one and "
                    "is validated with another: add patients, or leave the class out."
                )

    @torch.no_grad()
    def _try_networks(self) -> None:
        """One image through each network that a later stage will use."""
        dataset, inverter, walk = self.training, self.inverter, self.walk
        generator, label = walk.generator, dataset.labels[:1].to(walk.device)
        with frozen(*inverter.networks, *walk.networks):
            z = torch.zeros(1, generator.z_dim, device=walk.device)
            w = generator.mapping(z, label if generator.num_classes else None)
            image = generator.synthesis(w)
            if image.shape[1:] != dataset.images.shape[1:]:
                raise ConfigError(
                    f"the generator makes images {list(image.shape[1:])}, but the real ones are "
                    f"{list(dataset.images.shape[1:])}: let network_def have the bundle's img_size and img_channels."
                )
            for network in (inverter.embedding, *([] if inverter.encoder is None else [inverter.encoder])):
                network(image)
            for term in walk.terms.values():
                term(w, image, label)
            outputs = {
                "identity_network": (walk.identity_net(image).shape[1], dataset.num_subjects, "num_identities"),
                "class_network": (walk.class_net(image).shape[1], max(dataset.label_names) + 1, "num_classes"),
            }
        for name, (found, needed, id) in outputs.items():
            if found < needed:
                raise ConfigError(f"{name} returns {found} logits, but {needed} are needed: give it {id} outputs.")

    def _report(self) -> None:
        sections = {"training": self.training, "test": self.test}
        write_json(self.report_file, describe_data(sections))
        for name, data in sections.items():
            logger.info(
                "%s: %d images of %d subjects, %d left out", name, len(data), data.num_subjects, len(data.skipped)
            )


def _is_imported(file: Path) -> bool:
    """A damaged file is none: the training will replace it."""
    try:
        return is_imported(file)
    except ArtifactError as error:
        logger.warning("%s: the stage train makes it again", error)
        return False
