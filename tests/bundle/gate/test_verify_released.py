"""What leaves through the gate passes the zoo's checks, and what was changed afterwards does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from gate_fakes import say

from monai_plan.bundle.gate import MANIFEST_NAME, release_bundle
from monai_plan.bundle.gate.manifest import write_manifest
from monai_plan.bundle.zoo import verify_bundle
from monai_plan.release import write_synthetic

pytestmark = pytest.mark.usefixtures("clean_logging", "checked_here")

TOLD = {"classifier": ["properties.train"], "generator": ["private.generator"]}  # warnings


@pytest.mark.parametrize("kind", TOLD)
def test_a_released_bundle(kind: str, copied: Path, tmp_path: Path) -> None:
    say(copied)
    bundle = tmp_path / "ward_plan"
    release_bundle(copied, kind=kind, to=bundle, accept_generator_risk=kind == "generator", authors="somebody")
    assert [(finding.level, finding.id) for finding in verify_bundle(bundle)] == [("warning", id) for id in TOLD[kind]]
    file = bundle / "configs" / "metadata.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "authors": "somebody else"}))
    errors = [(finding.id, finding.text) for finding in verify_bundle(bundle) if finding.level == "error"]
    changed = "configs/metadata.json was changed after the manifest was written: its SHA-256 is another one."
    assert errors == [("manifest", changed)]


def test_a_released_data_set(copied: Path, tmp_path: Path) -> None:
    """It is no bundle: the manifest is looked at, and that nothing private lies there."""
    say(copied)
    release_bundle(copied, kind="data", to=tmp_path / "Ward 7")
    assert verify_bundle(tmp_path / "Ward 7") == []
    signature = tmp_path / "Ward 7" / f"{MANIFEST_NAME}.sig"
    signature.write_bytes(b"\x88\x04\x04\x00\x01\x08")
    said: list[str] = []
    assert verify_bundle(tmp_path / "Ward 7", echo=said.append) == []
    assert len(said) == 1
    assert said[0].startswith("the manifest fits; who made it is not checked")
    (tmp_path / "Ward 7" / "README.md").write_text("mine")
    assert [(finding.level, finding.id) for finding in verify_bundle(tmp_path / "Ward 7")] == [("error", "manifest")]


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("configs/inference.json", b"{}", "manifest.kind"),
        ("model.pt", b"PK\x03\x04\0", "private.provenance"),
        ("latents.pt", b"PK\0made_by", "private.artifact"),
        ("images/ward.png", b"\x89PNG\r\n\x1a\n\0", "private.provenance"),
        ("notes.txt", b"see /home/mustermann/ward", "private.path"),
        ("patients.csv", b"file,label\nward/a.png,1\n", "private.datalist"),
        ("__pycache__/x.pyc", b"x", "private.hidden"),
        ("datalist.json", b"{}", "manifest.kind"),
    ],
)
def test_a_manifest_of_data_hides_nothing(file: str, content: bytes, told: str, tmp_path: Path) -> None:
    """Whoever writes one over what lies there."""
    folder = tmp_path / "left"
    write_synthetic(
        folder, images=torch.rand(4, 1, 8, 8), labels=[0, 1, 0, 1], label_names={0: "a", 1: "b"}, groups=range(4),
        name="ward", description="made up",
    )  # fmt: skip
    write_manifest(folder, kind="data", key_file=tmp_path / "key.json")
    assert verify_bundle(folder) == []
    (folder / MANIFEST_NAME).unlink()
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_bytes(content)
    write_manifest(folder, kind="data", key_file=tmp_path / "key.json")
    assert [(finding.level, finding.id) for finding in verify_bundle(folder)] == [("error", told)]
