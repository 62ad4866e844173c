"""The override file for several ranks, as torchrun and MONAI's command run it: two gloo processes on the CPU."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from conftest import TINY

from monai_plan.data import make_phantoms
from monai_plan.networks import load_generator
from monai_plan.utils import load_artifact

BUNDLE = Path(__file__).parents[2] / "bundles" / "chest_xray_plan"


def test_torchrun_trains_and_only_the_first_rank_writes(tmp_path: Path) -> None:
    make_phantoms(tmp_path / "data", img_size=16, num_subjects=8, num_test_subjects=4, seed=0)
    configs = [str(BUNDLE / "configs" / name) for name in ("train.json", "multi_gpu_train.json")]
    options = {
        "bundle_root": BUNDLE, "dataset_dir": tmp_path / "data", "output_dir": tmp_path / "out", "backend": "gloo",
        "img_size": "[16,16]", "total_images": 16, "epoch_images": 8, "batch_size": 2, "metric_images": 8,
        "channel_base": 64, "channel_max": 8, "z_dim": 8, "w_dim": 8, "tensorboard": False,
    }  # fmt: skip
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    arguments = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    command = [*torchrun, "-m", "monai.bundle", "run", "--config_file", json.dumps(configs), *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    private = tmp_path / "out" / "private"
    assert sorted(path.name for path in private.iterdir()) == ["model.pt", "model_best.pt", "train"]
    assert sorted(path.name for path in (private / "train").iterdir()) == ["checkpoint.pt", "samples.png"]
    checkpoint = torch.load(private / "train" / "checkpoint.pt", weights_only=True)
    assert checkpoint["trainer"]["images_seen"] == 16  # of both ranks together
    assert checkpoint["trainer"]["iteration"] == 4  # of 2 images on each of 2 ranks
    for name, value in load_generator(private / "model.pt").state_dict().items():
        assert torch.equal(value, checkpoint["ema"][name]), name


def test_torchrun_inverts_as_one_process_does(finished: Path, patients: Path, tmp_path: Path) -> None:
    """33 images are two parts, so each rank has one."""
    private = tmp_path / "out" / "private"
    private.mkdir(parents=True)
    for name in ("model.pt", "encoder.pt"):
        shutil.copy(finished / "private" / name, private)
    configs = [str(BUNDLE / "configs" / name) for name in ("train.json", "invert.json", "multi_gpu.json")]
    known = {name: value for name, value in TINY.items() if name != "device"}
    options = {
        **known, "bundle_root": BUNDLE, "dataset_dir": patients, "output_dir": tmp_path / "out", "backend": "gloo"
    }  # fmt: skip
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    arguments = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    command = [*torchrun, "-m", "monai.bundle", "run", "--config_file", json.dumps(configs), *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "share of 1 of 2 ranks" in done.stderr
    assert len(list((private / "invert").iterdir())) == 2
    made, expected = (
        load_artifact(folder / "latents.pt", kind="latents") for folder in (private, finished / "private")
    )
    assert made["header"] == expected["header"]
    assert made["keys"] == expected["keys"]
    torch.testing.assert_close(made["latents"], expected["latents"], rtol=1e-3, atol=1e-4)
    assert (private / "inversion.json").is_file()
