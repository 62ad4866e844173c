"""A tiny run with an audit that found nothing, and how to put something into its records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from monai_plan.utils import digest, file_digest


def audit_of(output: Path) -> dict[str, Any]:
    return json.loads((output / "release" / "audit.json").read_text())


def say(output: Path, *, found: dict[str, str] | None = None, told: bool = False, **values: Any) -> None:
    """Let the audit of a run say that it found nothing but what is ``found``: row → verdict."""
    audit = audit_of(output)
    for row in audit["rows"]:
        if not row["verdict"].startswith("If"):
            row["verdict"] = "Nothing found"
        row["verdict"] = (found or {}).get(row["name"], row["verdict"])
        row["told_by_generator"] = told
    release = output / "release"
    audited = [*sorted((release / "images").iterdir()), release / "datalist.json"]
    audit["files"] = {path.relative_to(release).as_posix(): file_digest(path) for path in audited}
    (release / "audit.json").write_text(json.dumps({**audit, **values}))
    record(output, "audit")


def record(output: Path, stage: str, *, reads: bool = False) -> None:
    """Put what lies there now on record, as if the stage had written (and read) it."""
    file = output / "private" / "run" / f"{stage}.json"
    content = json.loads(file.read_text())
    content["writes"] = {name: file_digest(output / name) for name in content["writes"]}
    if reads:
        now = {read: digest(output / read) for read in content["fingerprint"]["reads"] if (output / read).exists()}
        content["fingerprint"]["reads"] |= now
    file.write_text(json.dumps(content))
