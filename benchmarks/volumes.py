"""Seconds of the processor and peak memory of every stage on volumes, behind an autoencoder and on voxels.

    python benchmarks/volumes.py [--img_size 32 48 32] [--patients 40] [--voxels]

Phantoms, every stage in a process of its own, with the networks of hippocampus_mr_plan and few steps of each: the
second column says of how many. Multiply. ``--voxels`` has the GAN make voxels, as it would without an autoencoder.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from stage_memory import measured

from monai_plan.data import make_phantoms

STEPS = {
    "autoencoder_epochs": 1, "autoencoder_epoch_steps": 10, "total_images": 80, "epoch_images": 80,
    "metric_images": 10**6, "encoder_epochs": 1, "encoder_epoch_steps": 2, "inversion_steps": 2, "identity_epochs": 1,
    "class_epochs": 1, "num_images": 40, "evaluation_epochs": 1, "evaluation_seeds": 1, "min_distance_quantile": 0.0,
}  # fmt: skip
OF = {
    "train_autoencoder": "40 volumes, and all once", "train": "80 volumes, and a measurement",
    "train_encoder": "32 volumes", "invert": "2 steps", "train_identity": "1 epoch", "train_class": "1 epoch",
    "anchors": "320 draws", "synthesize": "40 volumes", "evaluate": "1 classifier a row",
}  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--img_size", type=int, nargs=3, default=[32, 48, 32])
    parser.add_argument("--patients", type=int, default=40)
    parser.add_argument("--voxels", action="store_true", help="without an autoencoder")
    options = parser.parse_args()
    overrides = {**STEPS, "img_size": options.img_size}
    if options.voxels:
        overrides["autoencoder"] = None
    with tempfile.TemporaryDirectory() as folder:
        make_phantoms(
            Path(folder) / "data", spatial_dims=3, img_size=options.img_size, num_subjects=options.patients,
            num_test_subjects=options.patients // 4, images_per_subject=(1, 1), seed=0,
        )  # fmt: skip
        print(f"{'stage':18}{'of':30}{'seconds':>9}{'GiB':>7}{'estimate':>10}")
        for stage, seconds, peak, estimate in measured("hippocampus_mr_plan", Path(folder), overrides):
            told = "" if estimate is None else f"{estimate / 1024:10.2f}"
            print(f"{stage:18}{OF.get(stage, ''):30}{seconds:9.1f}{peak / 1024:7.2f}{told}", flush=True)


if __name__ == "__main__":
    main()
