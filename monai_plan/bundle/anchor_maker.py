"""Both kinds of safe points of one run: k-same averages of its patients, and chosen points of G's own distribution."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from monai_plan.bundle.same_data import check_same_data
from monai_plan.data import CheckedDataset, HeldImages
from monai_plan.latent import Anchors, PriorAnchors, SelectionSettings, k_same
from monai_plan.metrics import PerceptualEmbedding
from monai_plan.networks import LatentDecoder
from monai_plan.release import DistanceCheck
from monai_plan.utils import load_artifact

__all__ = ["AnchorMaker", "distance_check"]


def distance_check(
    training: CheckedDataset,
    test: CheckedDataset,
    embedding: PerceptualEmbedding,
    *,
    quantile: float | None,
    device: torch.device | str,
) -> DistanceCheck | None:
    """The final check against the real images of both sections, lest it tell who was trained on; None without one.

    Args:
        training, test: the real images.
        embedding: of the perceptual distance.
        quantile: of the check, in [0, 1]; None checks nothing.
        device: where to compute.

    Raises:
        ConfigError, DataError: see ``DistanceCheck``.
    """
    if quantile is None:
        return None
    images = HeldImages.joined(training.images, test.images)
    patients = torch.cat([training.identities, test.identities + training.num_subjects])
    return DistanceCheck(images, patients, embedding, quantile=quantile, device=device)


@dataclass(kw_only=True, eq=False)
class AnchorMaker:
    """Makes anchors of either kind, for the walks and for the rows that the walk is compared with.

    Args:
        latents_file: of the stage ``invert``; the best start of every image is used.
        k: patients in a group, at least.
        generator: G.
        identity_net: φ_id.
        class_net: φ_class.
        selection: how points of G's own distribution are chosen.
        training: the real training images.
        test: those of the test section: the check keeps away from them alike.
        embedding: of the perceptual distance, for the check.
        min_distance_quantile: of the check, in [0, 1]; None checks nothing.
        seed: of the draws, and of ties between patients.
        device: where to compute.
    """

    latents_file: str | os.PathLike[str]
    k: int
    generator: LatentDecoder
    identity_net: nn.Module
    class_net: nn.Module
    selection: SelectionSettings
    training: CheckedDataset
    test: CheckedDataset
    embedding: PerceptualEmbedding
    min_distance_quantile: float | None = None
    seed: int = 0
    device: torch.device | str = "cpu"

    def check(self) -> None:
        """Refuse networks and latents that were made of other data.

        Raises:
            DataError: see ``check_same_data``.
        """
        check_same_data(
            self.training,
            generator=self.generator,
            latents=load_artifact(self.latents_file, kind="latents"),
            identity_net=self.identity_net,
            class_net=self.class_net,
        )

    @property
    def most_k(self) -> int:
        """The largest k that all classes have patients for."""
        data = self.training
        patients: dict[int, set[str]] = {label: set() for label in data.labels.tolist()}
        for label, subject in zip(data.labels.tolist(), data.subjects, strict=True):
            patients[label].add(subject)
        return min(map(len, patients.values()))

    def k_same(self) -> Anchors:
        """Averages of at least k patients, see ``monai_plan.latent.k_same``."""
        data = load_artifact(self.latents_file, kind="latents")
        return k_same(_best(data), data["labels"], data["subjects"], self.k, seed=self.seed)

    def prior(self, wanted: Mapping[int, int]) -> Anchors:
        """Points of G's own distribution, see ``monai_plan.latent.PriorAnchors``; all of them passed the final check.

        Args:
            wanted: class → number.
        """
        check = distance_check(
            self.training, self.test, self.embedding, quantile=self.min_distance_quantile, device=self.device
        )
        make = PriorAnchors(
            self.generator, self.identity_net, self.class_net, settings=self.selection, seed=self.seed
        )  # fmt: skip
        patients = _best(load_artifact(self.latents_file, kind="latents"))
        return make(wanted, patients=patients, far=check)


def _best(latents: Mapping[str, Tensor]) -> Tensor:
    """Of every image the latent of its best start."""
    return latents["latents"][torch.arange(len(latents["best"])), latents["best"]]
