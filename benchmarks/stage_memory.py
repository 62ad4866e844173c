"""Peak memory of every stage of the bundle beside what ``check`` says that it needs.

    python benchmarks/stage_memory.py [--patients 300] [--img_size 64] [--small]

Phantoms, every stage in a process of its own with as few steps as it runs with: the peak is that of the first ones. It
is what the system says of the process, Python and PyTorch included, as the estimate has them.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from monai_plan.bundle import run_bundle
from monai_plan.bundle.runner.stages_file import load_stages
from monai_plan.bundle.zoo import bundle_path
from monai_plan.data import make_phantoms

FEW_STEPS = {
    "total_images": 128, "epoch_images": 64, "metric_images": 10**6, "encoder_epochs": 1, "encoder_epoch_steps": 2,
    "inversion_steps": 2, "identity_epochs": 1, "class_epochs": 1, "walk_steps": 2, "min_distance_quantile": 0.0,
    "num_images": 60, "evaluation_epochs": 1, "evaluation_seeds": 1, "k": 3,
}  # fmt: skip


def run(bundle: str, stage: str, folder: Path, overrides: dict) -> None:
    """One stage, in this process."""
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
    run_bundle(bundle, dataset_dir=folder / "data", output_dir=folder / "out", overrides=overrides, only=[stage])


def measured(bundle: str, folder: Path, overrides: dict) -> Iterator[tuple[str, float, float, float | None]]:
    """Each stage in a process of its own: its name, seconds of the processor, peak in MiB, and estimate in MiB.

    ``folder`` holds the data in ``data``, and gets the run in ``out``.
    """
    estimates: dict[str, float] = {}
    for stage in load_stages(bundle_path(bundle)):
        command = [sys.executable, __file__, "--stage", bundle, stage.name, str(folder), json.dumps(overrides)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        told = process.stdout.read() if process.stdout else ""
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{stage.name} failed:\n{told}")
        if stage.name == "check":
            line = re.search(r"memory of the stages, about, in GiB: (.*)", told)
            estimates = {n: float(x) * 1024 for n, x in re.findall(r"(\w+) ([\d.]+)", line[1] if line else "")}
        yield stage.name, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, estimates.get(stage.name)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patients", type=int, default=300)
    parser.add_argument("--img_size", type=int, default=64)
    parser.add_argument("--small", action="store_true", help="the networks of the quickstart")
    parser.add_argument("--stage", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        run(*options.stage[:2], Path(options.stage[2]), json.loads(options.stage[3]))
        return
    overrides = {**FEW_STEPS, "img_size": [options.img_size] * 2}
    bundle = "phantom_plan" if options.small else "chest_xray_plan"
    with tempfile.TemporaryDirectory() as folder:
        make_phantoms(
            Path(folder) / "data", img_size=options.img_size, num_subjects=options.patients,
            num_test_subjects=options.patients // 4, seed=0,
        )  # fmt: skip
        print(f"{'MiB':18}{'peak':>8}{'estimate':>10}{'ratio':>7}")
        for stage, _, peak, estimate in measured(bundle, Path(folder), overrides):
            told = "" if estimate is None else f"{estimate:10.0f}{estimate / peak:7.2f}"
            print(f"{stage:18}{peak:8.0f}{told}", flush=True)


if __name__ == "__main__":
    main()
