"""A bundle's configs run in a process of their own: whatever they do to it, there is a verdict."""

from __future__ import annotations

import json
import logging
import shutil
import time
from pathlib import Path

import pytest
import torch

from monai_plan.__main__ import main
from monai_plan.bundle.zoo import apart, bundle_path, verify_bundle


def _bundle(folder: Path, network: str) -> Path:
    """A bundle whose network is an expression."""
    bundle = Path(shutil.copytree(bundle_path("phantom_plan"), folder / "phantom_plan"))
    file = bundle / "configs" / "inference.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "network_def": network}))
    return bundle


def test_a_bundle_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From another folder; this process is left as it was, and nothing stays."""
    monkeypatch.chdir(tmp_path)
    before = (logging.root.level, list(logging.root.handlers), torch.initial_seed())
    said: list[str] = []
    assert verify_bundle(bundle_path("phantom_plan"), echo=said.append) == []
    assert len(said) == 1
    assert (logging.root.level, logging.root.handlers, torch.initial_seed()) == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("end", "how"),
    [("os._exit(0)", "ended with code 0 before"), ("os.kill(os.getpid(), 9)", "was ended by signal 9, Killed, before")],
)
def test_a_network_that_ends_the_process(end: str, how: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What it prints is no verdict: it is quoted in one."""
    network = f"$[os := __import__('os'), print('all is well, 0 warnings.', flush=True), {end}]"
    assert main(["verify-bundle", str(_bundle(tmp_path, network))]) == 2
    lines = capfd.readouterr().out.splitlines()
    assert [line for line in lines if how in line and line.startswith("  error network: ")]
    assert [line for line in lines if line.startswith("all is well")] == []
    assert lines[-1] == "phantom_plan: 1 errors, 0 warnings."


def test_a_network_that_never_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "LONGEST", 0.2)
    began = time.monotonic()
    found = verify_bundle(_bundle(tmp_path, "$__import__('time').sleep(1000)"))
    assert time.monotonic() - began < 60
    assert [(finding.level, finding.id) for finding in found] == [("error", "running")]
    assert "did not end within 0.2 seconds" in found[0].text
