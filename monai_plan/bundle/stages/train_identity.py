"""The stage that trains the identity classifier, φ_id."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from monai_plan.bundle.same_data import check_same_data
from monai_plan.bundle.stages.train_classifier import Labelled, TrainClassifierStage
from monai_plan.data import CheckedDataset
from monai_plan.networks import LatentDecoder
from monai_plan.release import synthesize_images
from monai_plan.utils import ConfigError, DataError, load_artifact

__all__ = ["TrainIdentityStage", "identities"]


class TrainIdentityStage(TrainClassifierStage):
    """φ_id: learns who is on real images x and on their reconstructions G(ŵ).

    The last start of every projection is kept out of the training for the validation, so that what is validated is
    that φ_id recognises a patient in a generated image which it has not seen. With a single start the real images
    validate.

    Args:
        generator: G.
        latents_file: of the stage ``invert``.
        identity_of: see ``identities``.
        options: see ``TrainClassifierStage``.

    Raises:
        DataError: if the latents are of other images.
    """

    name = "train_identity"
    kind = "identity_net"

    def __init__(
        self,
        *,
        generator: LatentDecoder,
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
        check_same_data(self.dataset, latents=data, generator=self.generator)
        if data["keys"] != self.dataset.keys:
            raise DataError(f"{self.latents_file} is of other images than the data list: run the stage invert again.")
        starts = [synthesize_images(self.generator, latents) for latents in data["latents"].unbind(1)]
        real = self.dataset.images[:]
        held_out = starts.pop() if len(starts) > 1 else real
        images = torch.cat([real, *starts])
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
