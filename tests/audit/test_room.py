"""The room knows no method of making images: it judges any."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import monai_plan.audit

ROOM = Path(monai_plan.audit.__file__).parent
FILES = sorted(file for file in ROOM.rglob("*") if file.suffix in (".py", ".j2"))
METHOD = re.compile(r"\bPLAN\b|k[-_ ]?same|\bwalk|(?<!text-)\banchor|\blinear\b|monai_plan\.(gan|latent|bundle)")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_no_method_is_named(file: Path) -> None:
    named = [line for line in file.read_text(encoding="utf-8").splitlines() if METHOD.search(line)]
    assert named == []
