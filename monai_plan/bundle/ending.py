"""What a run says at its end: where the report is, what the audit found, what to do next."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from monai_plan.audit.page import verdict_line
from monai_plan.utils import read_json

__all__ = ["ending"]


def ending(output_dir: str | os.PathLike[str]) -> str:
    """The last lines of a run; of a release that is not finished there is nothing to say.

    Args:
        output_dir: of the run.
    """
    output = Path(output_dir)
    report, audit = output / "release" / "report.html", output / "release" / "audit.json"
    if not report.is_file() or not audit.is_file():
        return ""
    lines = {"Report": report, "Audit": output / "release" / "audit.html", "Verdict": verdict_line(audit)}
    lines["Next"] = _next(output, read_json(audit))
    return "\n".join(f"{name + ':':<9}{text}" for name, text in lines.items())


def _next(output: Path, audit: dict[str, object]) -> str:
    exposed, sheet = output / "private" / "exposed", output / "private" / "figures" / "real_and_synthetic.png"
    rows = {row["name"]: row["verdict"] for row in audit.get("rows", [])}  # type: ignore[attr-defined]
    if audit["verdict"] == "Alarm":
        return (
            f"do not release. {exposed} shows whom the images resemble; leave these patients out, or train G "
            "otherwise, and run again."
        )
    if rows.get("copies") == "No answer":
        return (
            'nothing leaves without an answer on copies: more patients in the section "test" give one, or a longer '
            "training of G; then run again."
        )
    command = f"monai-plan release {shlex.quote(str(output))} --kind data --to DIR"
    look = exposed if audit["verdict"] == "Attention" else sheet
    return f"look at {look}, then let the images out: {command}"
