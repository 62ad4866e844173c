"""The bundle at a size at which all its stages take seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

BUNDLE = Path(__file__).parents[1] / "bundles" / "chest_xray_plan"

# Everything as small as it goes: about seven seconds for all stages on one core.
TINY: dict[str, Any] = {
    "img_size": [16, 16],
    "z_dim": 16,
    "w_dim": 16,
    "channel_base": 64,
    "channel_max": 8,
    "total_images": 64,
    "epoch_images": 32,
    "batch_size": 8,
    "classifier_channels": [4, 4, 4, 4],
    "classifier_stride": 1,
    "encoder_channels": [4, 4, 4, 4],
    "encoder_epochs": 2,
    "encoder_epoch_steps": 3,
    "encoder_batch_size": 8,
    "inversion_steps": 3,
    "inversion_starts": 2,
    "identity_epochs": 2,
    "class_epochs": 2,
    "anchor_kind": "k_same",
    "walk_kind": "plan",
    "k": 2,
    "num_points": 96,
    "walk_coarse_points": 0,
    "walk_steps": 2,
    "evaluation_epochs": 1,
    "evaluation_seeds": 2,
    "device": "cpu",
}
PATIENT = "Mustermann-{:02d}"  # the phantoms' own names would be too harmless to look for


def known_secret(count: int) -> str:
    """In place of chance, where two releases are compared; temporary files have such names too."""
    return "5e" * count
