"""MONAI's own commands on ``phantom_plan``, which has weights: from another folder, as somebody who downloaded it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import monai.bundle
import pytest
import torch
from monai_versions import AS_NETWORK

from monai_plan.bundle.zoo import bundle_path

NAME = "phantom_plan"

pytestmark = pytest.mark.usefixtures("clean_logging")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _latent(bundle: Path) -> torch.Tensor:
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    return torch.eye(metadata["network_data_format"]["inputs"]["image"]["num_channels"])[-2:]


def test_downloaded_loaded_and_run(elsewhere: Path) -> None:
    archive = shutil.make_archive(str(elsewhere / NAME), "zip", bundle_path(NAME).parent, NAME)
    monai.bundle.download(name=NAME, bundle_dir=elsewhere / "zoo", url=Path(archive).as_uri(), progress=False)
    bundle = elsewhere / "zoo" / NAME
    options = {"bundle_dir": elsewhere / "zoo", "device": "cpu", **AS_NETWORK}
    trained = monai.bundle.load(NAME, **options).eval()
    network = monai.bundle.load(NAME, workflow_type="inference", **options).eval()
    latent = _latent(bundle)
    images = network(latent)
    torch.testing.assert_close(trained(latent[:, :-2], latent[:, -2:].argmax(1)), images)

    monai.bundle.run(
        config_file=str(bundle / "configs" / "inference.json"), bundle_root=str(bundle), output_dir="made",
        num_images=3, label=1, device="cpu",
    )  # fmt: skip
    pictures = sorted(path.name for path in (elsewhere / "made" / "private" / "inference").iterdir())
    assert pictures == ["class_1_0000.png", "class_1_0001.png", "class_1_0002.png"]


@pytest.mark.parametrize(
    ("command", "options"),
    [("ckpt_export", {}), ("ckpt_export", {"use_trace": True}), ("onnx_export", {})],
    ids=["script", "trace", "onnx"],
)
def test_exported_as_the_zoo_does_it(command: str, options: dict[str, object], elsewhere: Path) -> None:
    """Its sizes are those of the metadata."""
    if command == "onnx_export":
        onnx = pytest.importorskip("onnx")
        pytest.importorskip("onnxscript")
    bundle = bundle_path(NAME)
    getattr(monai.bundle, command)(
        net_id="network_def", filepath="exported.ts", ckpt_file=str(bundle / "models" / "model.pt"),
        meta_file=str(bundle / "configs" / "metadata.json"), config_file=str(bundle / "configs" / "inference.json"),
        bundle_root=str(bundle), **options,
    )  # fmt: skip
    if command == "onnx_export":
        onnx.checker.check_model(onnx.load("exported.ts"))
        return
    options = {"bundle_dir": bundle.parent, "device": "cpu", **AS_NETWORK}
    network = monai.bundle.load(NAME, workflow_type="inference", **options).eval()
    latent = _latent(bundle)
    torch.testing.assert_close(torch.jit.load("exported.ts")(latent), network(latent))


def test_the_layout_is_that_of_init_bundle(elsewhere: Path) -> None:
    monai.bundle.init_bundle(elsewhere / "layout", network=torch.nn.Linear(1, 1), dataset_license=True)
    there = {path.relative_to(elsewhere / "layout") for path in (elsewhere / "layout").rglob("*")}
    ours = bundle_path(NAME)
    assert there <= {path.relative_to(ours) for path in ours.rglob("*")}


def test_the_unit_test_that_travels_with_it(elsewhere: Path) -> None:
    """In a process of its own, as the zoo runs it."""
    bundle = Path(shutil.copytree(bundle_path(NAME), elsewhere / NAME))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    file = bundle / "ci" / "unit_tests" / f"test_{NAME}.py"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(file)], cwd=elsewhere, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Ran 1 test" in done.stderr
