"""The files of a bundle: what the zoo needs and prefers, and nothing that derives from patients."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from monai_plan.bundle.names import check_name
from monai_plan.bundle.zoo.findings import Finding, error, warning
from monai_plan.utils import ConfigError, file_digest

__all__ = ["check_bundle_files", "check_nothing_private"]

NEEDED = ("configs/metadata.json", "LICENSE")
CUSTOMARY = ("configs/logging.conf", "docs/README.md", "docs/data_license.txt")
CONFIGS = (".json", ".yaml", ".yml")
LARGE = 25_000_000  # bytes that the zoo takes in one file
MOST_TEXT = 1_000_000
_MACHINE = re.compile(r"(?<![\w./:}])(?:/(?:home|root|Users|mnt|media|scratch)/|[A-Za-z]:\\)[\w.~-]+")


def check_bundle_files(folder: Path) -> list[Finding]:
    """Missing and misnamed files, and large ones.

    Args:
        folder: of the bundle.
    """
    found = []
    try:
        check_name(folder.name)
    except ConfigError as problem:
        found.append(error("files.name", str(problem), "Rename the folder."))
    for name in NEEDED:
        if not (folder / name).is_file():
            found.append(error("files.needed", f"{name} is missing.", "Put it there: the zoo takes no bundle without."))
    if inference_config(folder) is None:
        found.append(error("files.needed", "configs/inference.json is missing.", "Say there how the network is used."))
    if not (folder / "models" / "model.pt").is_file():
        found.append(
            warning(
                "files.weights",
                "models/model.pt is missing.",
                "If the bundle is to have no weights, ask for its name in exclude_verify_preferred_files_list and "
                "exclude_verify_torchscript_list of the zoo's ci/bundle_custom_data.py, and say so in docs/README.md.",
            )
        )
    for name in CUSTOMARY:
        if not (folder / name).is_file():
            found.append(warning("files.customary", f"{name} is missing.", "All bundles of the zoo have it: write it."))
    listed = any((folder / f"large_files{suffix}").is_file() for suffix in CONFIGS)
    for path in _walk(folder):
        if path.is_file() and path.stat().st_size > LARGE:
            text = f"{path.relative_to(folder).as_posix()} has {path.stat().st_size / 1e6:.0f} MB."
            remedy = "Above 25 MB the zoo wants a download in large_files.yml in place of the file."
            found.append((warning if listed else error)("files.large", text, remedy))
    return found


def inference_config(folder: Path) -> Path | None:
    """``configs/inference.json``, or that file in YAML."""
    files = [folder / "configs" / f"inference{suffix}" for suffix in CONFIGS]
    return next((file for file in files if file.is_file()), None)


def check_nothing_private(folder: Path, provenance: Mapping[str, Any]) -> list[Finding]:
    """Find what may derive from patients: whatever is not readable text, unless somebody vouches for exactly that file.

    No check can see whether weights were trained on patients. So a file that is no text needs an entry in
    ``provenance``, by its path in the bundle: ``{"sha256": …, "made_of": "a sentence"}``; of a file in a format of
    monai_plan's private folder no entry is believed.

    Args:
        folder: of the bundle.
        provenance: of ``configs/metadata.json``.
    """
    found = []
    for path in _walk(folder):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found.append(error("private.link", f"{name} is a link.", "What it leads to is checked by nobody: copy it."))
        elif path.name.startswith("."):
            found.append(error("private.hidden", f"{name} is hidden.", "Delete it."))
        elif (text := _text(path)) is None:
            found += _check_binary(path, name, provenance.get(name))
        else:
            found += _check_text(text, name)
    for name in sorted(provenance):
        if not (folder / name).is_file():
            found.append(error("private.provenance", f"provenance names {name}, which is missing.", "Take it out."))
    return found


def _walk(folder: Path) -> Iterator[Path]:
    """All files, and links whatever they lead to, which are not followed."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        links = [name for name in folders if (Path(place) / name).is_symlink()]
        yield from (Path(place) / name for name in sorted([*files, *links]))


def _text(path: Path) -> str | None:
    content = path.read_bytes()
    try:
        return None if b"\0" in content else content.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _check_binary(path: Path, name: str, entry: Any) -> list[Finding]:
    if _is_artifact(path):
        return [
            error(
                "private.artifact",
                f"{name} is a file of a run's private folder.",
                "Such files derive from patients: delete it. Of a generator, only its plain weights may be shared, by "
                "monai-plan release --kind generator.",
            )
        ]
    if not isinstance(entry, Mapping) or not isinstance(entry.get("made_of"), str):
        return [
            error(
                "private.provenance",
                f"nobody says what {name} was made of.",
                'Delete it, or name it in "provenance" of configs/metadata.json with its sha256 and a sentence '
                "(made_of) that says from whose images it comes.",
            )
        ]
    if entry.get("sha256") != file_digest(path):
        text = f"{name} is not the file that provenance speaks of: its SHA-256 is {file_digest(path)}."
        return [error("private.provenance", text, "Put the right file there, or say what this one was made of.")]
    return []


def _is_artifact(path: Path) -> bool:
    """Whether a file was written by ``save_artifact`` or keeps a stage's finished part; both say so in their header."""
    return b"made_by" in path.read_bytes()


def _check_text(text: str, name: str) -> list[Finding]:
    found = []
    if len(text) > MOST_TEXT:
        found.append(
            warning("private.text", f"{name} has {len(text)} characters.", "See what is in it: data, perhaps.")
        )
    machine = _MACHINE.search(text)
    if machine:
        remedy = "It may name people, and is nowhere else: write a path relative to bundle_root."
        found.append(error("private.path", f"{name} names a folder of a machine, {machine[0]}.", remedy))
    if name.endswith(".json"):
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            return [*found, error("files.json", f"{name} is no JSON.", "Mend it.")]
        sections = [part for part in content.values() if isinstance(part, list)] if isinstance(content, dict) else []
        if any(isinstance(item, dict) and {"image", "label"} <= item.keys() for part in sections for item in part):
            found.append(error("private.datalist", f"{name} is a data list.", "It names patients: delete it."))
    return found
