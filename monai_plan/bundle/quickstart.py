"""The main job on phantoms: everything from nothing, on two CPU cores, in minutes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from monai_plan.bundle.runner import run_bundle
from monai_plan.data import make_phantoms

__all__ = ["bundle_path", "quickstart"]

BUNDLE = "chest_xray_plan"
NUM_SUBJECTS, NUM_TEST_SUBJECTS = 120, 40


def bundle_path(name: str) -> Path:
    """The folder of a bundle that comes with monai_plan, in a checkout or an installed package.

    Raises:
        FileNotFoundError: if there is none of this name.
    """
    package = Path(__file__).parents[1]
    for folder in (package / "bundles", package.parent / "bundles"):
        if (folder / name / "configs").is_dir():
            return folder / name
    raise FileNotFoundError(f"monai_plan was installed without the bundle {name}: install it again.")


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
    bundle = bundle_path(BUNDLE)
    make_phantoms(
        output / "data",
        img_size=32,
        num_subjects=NUM_SUBJECTS,
        num_test_subjects=NUM_TEST_SUBJECTS,
        seed=seed,
    )
    overrides = {**json.loads((bundle / "configs" / "quickstart.json").read_text(encoding="utf-8")), "seed": seed}
    run_bundle(bundle, dataset_dir=output / "data", output_dir=output, overrides=overrides, echo=echo, quiet=quiet)
    echo(f"done in {(time.monotonic() - start) / 60:.1f} minutes")
