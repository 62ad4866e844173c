"""The override file for several ranks, as torchrun and MONAI's command run it: two gloo processes on the CPU."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_bundle import TINY

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
        "channel_base": 64, "channel_max": 8, "z_dim": 8, "w_dim": 8, "tensorboard": False, "use_best": False,
    }  # fmt: skip
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    arguments = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    command = [*torchrun, "-m", "monai.bundle", "run", "--config_file", json.dumps(configs), *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    private = tmp_path / "out" / "private"
    assert sorted(path.name for path in private.iterdir()) == ["cache", "model.pt", "train"]
    assert sorted(path.name for path in (private / "train").iterdir()) == [
        "checkpoint.pt",
        "model_best.pt",
        "samples.png",
    ]
    checkpoint = torch.load(private / "train" / "checkpoint.pt", weights_only=True)
    assert checkpoint["trainer"]["images_seen"] == 16  # of both ranks together
    assert checkpoint["trainer"]["iteration"] == 4  # of 2 images on each of 2 ranks
    for name, value in load_generator(private / "model.pt").state_dict().items():
        assert torch.equal(value, checkpoint["ema"][name]), name


STAGES = {  # what it reads, options, what it writes: kind, tensor to compare, number of parts
    "invert": (["model.pt", "encoder.pt"], {}, ("latents", "latents", 2)),  # 33 images are two parts
    "walk": (
        ["model.pt", "identity_net.pt", "class_net.pt", "anchors.pt"],
        {"min_distance_quantile": 0.0},
        ("paths", "paths", None),
    ),
}


@pytest.mark.parametrize("stage", STAGES)
def test_torchrun_does_as_one_process_does(stage: str, finished: Path, patients: Path, tmp_path: Path) -> None:
    reads, changes, (kind, name, num_parts) = STAGES[stage]
    known = {key: value for key, value in TINY.items() if key != "device"}
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    # every state of a progress bar as a line of the log, in all processes, to see how the work is shared
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text("import monai_plan.progress as p\np.LINE_SECONDS = 0.0\n")
    places = os.pathsep.join([str(tmp_path / "site"), *sys.path])
    for output in (alone, shared):
        (output / "private").mkdir(parents=True)
        for file in reads:
            shutil.copy(finished / "private" / file, output / "private")
        configs = ["common.json", f"{stage}.json", *(["multi_gpu.json"] if output == shared else [])]
        options = {**known, **changes, "bundle_root": BUNDLE, "dataset_dir": patients, "output_dir": output}
        options |= {"backend": "gloo"} if output == shared else {"device": "cpu"}
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"] if output == shared else []
        arguments = [str(part) for key, value in options.items() for part in (f"--{key}", value)]
        paths = json.dumps([str(BUNDLE / "configs" / config) for config in configs])
        command = [sys.executable, *torchrun, "-m", "monai.bundle", "run", "--config_file", paths, *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=900, env={**os.environ, "PYTHONPATH": places}
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert ("share of 1 of 2 ranks" in done.stdout) == (output == shared)
    written = [sorted(path.name for path in (output / "private" / stage).iterdir()) for output in (alone, shared)]
    assert written[0] == written[1]
    assert num_parts in (None, len(written[0]))
    first, second = (load_artifact(output / "private" / f"{kind}.pt", kind=kind) for output in (alone, shared))
    assert first["header"] == second["header"]
    torch.testing.assert_close(first[name], second[name], rtol=1e-3, atol=1e-4)
    for key in ("kept", "pairs", "reproduced"):
        assert (key in first) == (key in second)
        assert key not in first or torch.equal(first[key], second[key])
