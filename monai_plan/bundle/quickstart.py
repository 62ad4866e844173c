"""The main job on phantoms: everything from nothing, on two CPU cores, in minutes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from monai_plan.bundle.runner import run_bundle
from monai_plan.data import make_phantoms

__all__ = ["quickstart"]

BUNDLE = "phantom_plan"
NUM_SUBJECTS, NUM_TEST_SUBJECTS = 120, 40


def quickstart(
    output_dir: str | os.PathLike[str], *, seed: int = 0, echo: Callable[[str], object] = print, quiet: bool = False
) -> None:
    """Make phantoms, and run all stages of the bundle on them at a small size.

    Started again on the same folder it goes on where it was stopped.

    Args:
        output_dir: gets ``data/`` (the phantoms, in the role of the patients), ``private/`` and ``release/``.
        seed: of the phantoms and of everything that is drawn.
        echo, quiet: see ``run_bundle``.
    """
    start = time.monotonic()
    output = Path(output_dir).absolute()
    make_phantoms(
        output / "data",
        img_size=32,
        num_subjects=NUM_SUBJECTS,
        num_test_subjects=NUM_TEST_SUBJECTS,
        seed=seed,
    )
    overrides = {"seed": seed}
    run_bundle(BUNDLE, dataset_dir=output / "data", output_dir=output, overrides=overrides, echo=echo, quiet=quiet)
    echo(f"done in {(time.monotonic() - start) / 60:.1f} minutes")
