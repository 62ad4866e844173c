"""The main job on phantoms: everything from nothing, on two CPU cores, in minutes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from monai_plan.bundle.runner import run_bundle
from monai_plan.data import make_phantoms
from monai_plan.progress import say

__all__ = ["quickstart"]

BUNDLE = "phantom_plan"
NUM_SUBJECTS, NUM_TEST_SUBJECTS = 120, 40
VOLUMES = {  # what differs in 3D, at 32 x 32 x 32: small networks, since a volume has as many voxels as 32 images
    "spatial_dims": 3,
    "img_size": [32, 32, 32],
    "autoencoder": {"channels": [8, 16, 64], "latent_channels": 8, "use_convtranspose": True},
    "autoencoder_epochs": 32,
    "autoencoder_epoch_steps": 50,
    "autoencoder_batch_size": 2,
    "autoencoder_lr": 0.003,
    "channel_max": 32,
    "batch_size": 16,
    "r1_weight": 1.0,
    "class_weight": 0.3,
    "variety_weight": 3.0,
    "total_images": 60_000,
    "metric_images": 60_000,  # the last state: from half of them on the distance is level, and lesions still grow
    "encoder_epochs": 6,
    "encoder_epoch_steps": 10,
    "encoder_batch_size": 16,
    "inversion_steps": 5,
    "inversion_starts": 1,
    "inversion_batch_size": 16,
    "classifier_stride": 2,
    "identity_epochs": 12,
    "class_epochs": 10,
    "prior_candidates": 6,
    "evaluation_epochs": 12,
}


def quickstart(
    output_dir: str | os.PathLike[str],
    *,
    spatial_dims: int = 2,
    seed: int = 0,
    echo: Callable[[str], object] = say,
    quiet: bool = False,
) -> None:
    """Make phantoms, and run all stages of the bundle on them at a small size.

    Started again on the same folder it goes on where it was stopped.

    Args:
        output_dir: gets ``data/`` (the phantoms, in the role of the patients), ``private/`` and ``release/``.
        spatial_dims: 2 for one to four images of 32 x 32 of each patient; 3 for one volume of 32 x 32 x 32, and an
            autoencoder before the GAN.
        seed: of the phantoms and of everything that is drawn.
        echo, quiet: see ``run_bundle``.
    """
    start = time.monotonic()
    output = Path(output_dir).absolute()
    make_phantoms(
        output / "data",
        img_size=32,
        spatial_dims=spatial_dims,
        images_per_subject=(1, 1) if spatial_dims == 3 else (1, 4),
        num_subjects=NUM_SUBJECTS,
        num_test_subjects=NUM_TEST_SUBJECTS,
        seed=seed,
    )
    overrides = {"seed": seed, **(VOLUMES if spatial_dims == 3 else {})}
    run_bundle(BUNDLE, dataset_dir=output / "data", output_dir=output, overrides=overrides, echo=echo, quiet=quiet)
    echo(f"done in {(time.monotonic() - start) / 60:.1f} minutes")
