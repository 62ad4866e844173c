"""What leaves through the gate passes the zoo's checks, and what was changed afterwards does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gate_fakes import say

from monai_plan.bundle.gate import release_bundle
from monai_plan.bundle.zoo import verify_bundle

pytestmark = pytest.mark.usefixtures("clean_logging")

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
    """It is no bundle: only the manifest is looked at."""
    say(copied)
    release_bundle(copied, kind="data", to=tmp_path / "Ward 7")
    assert verify_bundle(tmp_path / "Ward 7") == []
    (tmp_path / "Ward 7" / "README.md").write_text("mine")
    assert [(finding.level, finding.id) for finding in verify_bundle(tmp_path / "Ward 7")] == [("error", "manifest")]
