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
VOLUMES = {  # what differs in 3D, at 32 x 32 x 32: a tenth of the images, of latent volumes of 8 x 8 x 8
    "spatial_dims": 3,
    "img_size": [32, 32, 32],
    "autoencoder_epochs": 24,
    "variety_weight": 3.0,
    "total_images": 10_000,
    "epoch_images": 1000,
    "metric_images": 2000,
    "batch_size": 8,
    "r1_weight": 10.0,
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
    "evaluation_epochs": 6,
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
        spatial_dims: 2 for images of 32 x 32, 3 for volumes of 32 x 32 x 32, made behind an autoencoder.
        seed: of the phantoms and of everything that is drawn.
        echo, quiet: see ``run_bundle``.
    """
    start = time.monotonic()
    output = Path(output_dir).absolute()
    make_phantoms(
        output / "data",
        img_size=32,
        spatial_dims=spatial_dims,
        num_subjects=NUM_SUBJECTS,
        num_test_subjects=NUM_TEST_SUBJECTS,
        seed=seed,
    )
    overrides = {"seed": seed, **(VOLUMES if spatial_dims == 3 else {})}
    run_bundle(BUNDLE, dataset_dir=output / "data", output_dir=output, overrides=overrides, echo=echo, quiet=quiet)
    echo(f"done in {(time.monotonic() - start) / 60:.1f} minutes")
