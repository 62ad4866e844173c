"""The generator with one input, and its export by MONAI's commands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from monai_plan.networks import OneInputGenerator, StyleGAN2Generator

BUNDLE = Path(__file__).parents[2] / "bundles" / "chest_xray_plan"


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("num_classes", [0, 3])
def test_one_input_gives_the_image_of_two(spatial_dims, num_classes):
    options = {"channel_base": 32, "channel_max": 8}
    generator = StyleGAN2Generator(spatial_dims, 8, 1, 5, 6, num_classes, **options).eval()
    single = OneInputGenerator(spatial_dims, 8, 1, 5, 6, num_classes, **options).train()
    single.load_state_dict(generator.state_dict())
    z, labels = torch.randn(4, 5), torch.tensor([2, 0, 1, 2])
    latent = torch.cat([z, F.one_hot(labels, 3)], dim=1) if num_classes else z
    wanted = generator(z, labels if num_classes else None)
    torch.testing.assert_close(single(latent), wanted)


@pytest.mark.parametrize("command", ["ckpt_export", "onnx_export"])
def test_monai_exports_the_moving_average_of_a_training(tmp_path, command):
    if command == "onnx_export":
        onnx = pytest.importorskip("onnx")
        pytest.importorskip("onnxscript")
    generator = StyleGAN2Generator(2, 16, 1, 6, 6, 2, channel_base=64, channel_max=8, mapping_layers=4)
    torch.save({"ema": generator.state_dict()}, tmp_path / "checkpoint.pt")
    small = {"img_size": [16, 16], "z_dim": 6, "w_dim": 6, "channel_base": 64, "channel_max": 8}
    configs = [str(BUNDLE / "configs" / name) for name in ("train.json", "export.json")]
    options = {
        "--ckpt_file": tmp_path / "checkpoint.pt",
        "--key_in_ckpt": "ema",
        "--input_shape": "[2,8]",
        "--net_id": "network_def",
        "--use_trace": "True",
    }
    options |= {"--filepath": tmp_path / "exported.ts", "--bundle_root": BUNDLE, "--device": "cpu"}
    options |= {f"--{name}": json.dumps(value) for name, value in small.items()}
    arguments = [str(part) for option in options.items() for part in option]
    monai = [sys.executable, "-m", "monai.bundle", command, "--config_file", json.dumps(configs)]
    done = subprocess.run([*monai, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    if command == "onnx_export":
        onnx.checker.check_model(onnx.load(tmp_path / "exported.ts"))
        return
    exported = torch.jit.load(tmp_path / "exported.ts")
    z, labels = torch.randn(2, 6), torch.tensor([1, 0])
    wanted = generator.eval()(z, labels)
    torch.testing.assert_close(exported(torch.cat([z, F.one_hot(labels, 2)], dim=1)), wanted)
