"""A bundle's configs are run in a process of their own: however that ends, the checks end in a verdict.

That is no sandbox: what is run may still kill this process, or do whatever the user may.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from monai_plan.bundle.zoo.findings import Finding, error
from monai_plan.utils import write_json

__all__ = ["run_apart"]

LONGEST = 3600  # seconds; the bundles here take some ten
_FOUND, _RULE, _PRINTED = "found.json", "rule.txt", "printed.txt"
# The path of modules is the caller's; os and sys are no files that a folder of this name could stand in for.
_START = """import os, sys
sys.path[:] = sys.argv[1].split(os.pathsep)
from monai_plan.bundle.zoo.apart import look
look(*sys.argv[2:])"""


def run_apart(folder: Path, *, dataset_dir: Path | None = None) -> list[Finding]:
    """``check_running`` in another process, which is looked at: a config or a module of it may end the process with
    any code, be killed, print a verdict of its own, or never end.

    Args:
        folder: of the bundle, whose metadata is in order.
        dataset_dir: data for the training's config.

    Returns:
        What was found; that the process did not come to its end, if so.
    """
    with tempfile.TemporaryDirectory() as temporary:
        told = Path(temporary)
        (told / "work").mkdir()
        command = [sys.executable, "-c", _START, os.pathsep.join(sys.path), str(folder), str(told)]
        with (told / _PRINTED).open("wb") as printed:
            process = subprocess.Popen(
                command + ([] if dataset_dir is None else [str(dataset_dir)]),
                stdin=subprocess.DEVNULL, stdout=printed, stderr=printed, start_new_session=True,
            )  # fmt: skip
            try:
                code = process.wait(LONGEST)
            except subprocess.TimeoutExpired:
                code = None
            finally:  # with all that it started, after Ctrl-C as well
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if (told / _FOUND).is_file():
            return [Finding(**found) for found in json.loads((told / _FOUND).read_text(encoding="utf-8"))]
        return [_ended_early(code, told)]


def look(folder: str, told: str, dataset_dir: str | None = None) -> None:
    """What the other process does: run the checks, write what they found, and end at once.

    Args:
        folder: of the bundle.
        told: folder for the rule that is looked at, what was found, and the checks' own files.
        dataset_dir: data for the training's config.
    """
    from monai_plan.bundle.zoo.check_running import check_running

    def begin(rule: str) -> None:
        (Path(told) / _RULE).write_text(rule, encoding="utf-8")

    data = None if dataset_dir is None else Path(dataset_dir)
    found = check_running(Path(folder), Path(told) / "work", begin=begin, dataset_dir=data)
    write_json(Path(told) / _FOUND, [asdict(finding) for finding in found])
    os._exit(0)  # threads that a config started are no reason to wait


def _ended_early(code: int | None, told: Path) -> Finding:
    rule = (told / _RULE).read_text(encoding="utf-8") if (told / _RULE).is_file() else "running"
    if code is None:
        how = f"did not end within {LONGEST} seconds"
    elif code < 0:
        how = f"was ended by signal {-code}, {signal.strsignal(-code)}, before all was looked at"
    else:
        how = f"ended with code {code} before all was looked at"
    lines = (told / _PRINTED).read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
    return error(
        rule,
        f"the process that runs the bundle's configs {how}; the last line that it printed: {last}.",
        "Look for what ends it, such as os._exit, in the configs and the modules that they name.",
    )
