"""What the identity classifier φ_id is trained on."""

from __future__ import annotations

import os
from typing import Any

import torch

from monai_plan.data import CheckedDataset
from monai_plan.networks import LatentDecoder
from monai_plan.release import synthesize_images
from monai_plan.utils import ConfigError, DataError, load_artifact

__all__ = ["identity_items"]


def identity_items(
    *,
    dataset: CheckedDataset,
    generator: LatentDecoder,
    latents_file: str | os.PathLike[str],
    identity_of: str = "subject",
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Training and validation items for φ_id: real images and their reconstructions G(ŵ), labelled by identity.

    The last start of every projection is kept out of the training for the validation, so that what is validated is
    that φ_id recognises a patient in a generated image which it has not seen. With a single start the real images
    validate.

    Args:
        dataset: N real images.
        generator: G.
        latents_file: of the stage ``invert``.
        identity_of: "subject", a class a patient, or "image", a class an image as in the paper.

    Returns:
        Items {"image": [C, *spatial], "label": identity}, for training and for validation.

    Raises:
        ConfigError: if ``identity_of`` is neither.
        DataError: if the latents are of other images.
    """
    if identity_of not in ("subject", "image"):
        raise ConfigError(f"identity_of is {identity_of!r}, but must be 'subject' or 'image' (as in the paper).")
    data = load_artifact(latents_file, kind="latents")
    if data["keys"] != dataset.keys:
        raise DataError(f"{latents_file} is of other images than the data list: run the stage invert again.")
    identities = dataset.identities if identity_of == "subject" else torch.arange(len(dataset))
    real = [{"image": x, "label": int(y)} for x, y in zip(dataset.images, identities, strict=True)]
    by_start = [
        [{"image": x, "label": int(y)} for x, y in zip(synthesize_images(generator, latents), identities, strict=True)]
        for latents in data["latents"].unbind(1)
    ]
    held_out = by_start.pop() if len(by_start) > 1 else real
    return real + [item for items in by_start for item in items], held_out
