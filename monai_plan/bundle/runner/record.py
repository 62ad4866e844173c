"""What a stage depends on, recorded when it starts and when it is done, and told apart in words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from monai_plan import __version__
from monai_plan.bundle.runner.configs import Plan
from monai_plan.bundle.runner.stages_file import Stage, brief
from monai_plan.utils import ArtifactError, DataError, digest, file_digest, files_below

Fingerprint = dict[str, Any]


def fingerprint(plan: Plan, data: Mapping[Path, dict[str, Any]], output: Path) -> Fingerprint:
    """All that the result of a stage depends on, in the form in which it is recorded."""
    return {
        "monai_plan": __version__,
        "config": plan.config,
        "reads": {read: path_digest(output / read) for read in plan.stage.reads},
        "data": data[plan.datalist] if plan.datalist is not None else None,
    }


def path_digest(path: Path) -> str | None:
    """The digest of a file, or of the names and contents of a folder's files; None if there is nothing."""
    return digest(path) if path.exists() else None


def data_digests(datalist: Path, dataset: Path, output: Path) -> dict[str, Any]:
    """The SHA-256 of the data list and of each of its images, by their paths in the list; a copy is the same data.

    Without a data list every file below ``dataset`` counts, but for those of a run that writes there.
    """
    if not datalist.is_file():
        files = {
            file.relative_to(dataset).as_posix(): file
            for file in files_below(dataset)
            if not file.is_relative_to(output)
        }
        return {"datalist": None, "images": {name: path_digest(file) for name, file in sorted(files.items())}}
    try:
        sections = json.loads(datalist.read_text(encoding="utf-8")).values()
    except (ValueError, AttributeError) as error:
        raise DataError(f"the data list {datalist} is no JSON object: {error}. Make it anew.") from error
    items = [item for section in sections if isinstance(section, list) for item in section if isinstance(item, dict)]
    images = [item.get("image", []) for item in items]
    names = {name for image in images for name in ([image] if isinstance(image, str) else image)}
    return {
        "datalist": file_digest(datalist),
        "images": {name: path_digest(datalist.parent / name) for name in sorted(names)},
    }


def differences(old: Fingerprint, new: Fingerprint) -> list[str]:
    """What changed between two fingerprints, in words."""
    found = []
    if old["monai_plan"] != new["monai_plan"]:
        found.append(f"monai_plan changed from {old['monai_plan']} to {new['monai_plan']}")
    before, after = old["config"], new["config"]
    for id in sorted(before.keys() | after.keys()):
        if id not in before:
            found.append(f"config {id} is new: {brief(after[id])}")
        elif id not in after:
            found.append(f"config {id} was removed")
        elif json.dumps(before[id]) != json.dumps(after[id]):  # as text, for NaN equals itself there
            found.append(f"config {id} changed from {brief(before[id])} to {brief(after[id])}")
    if old["data"] != new["data"]:
        found.append(_data_difference(old["data"] or {}, new["data"] or {}))
    found += [f"{read} changed" for read, now in new["reads"].items() if old["reads"].get(read) != now]
    return found


def _data_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    before, after = old.get("images", {}), new.get("images", {})
    counts = {
        "changed": sum(before[name] != after[name] for name in before.keys() & after.keys()),
        "added": len(after.keys() - before.keys()),
        "removed": len(before.keys() - after.keys()),
    }
    kinds = [f"{count} {kind}" for kind, count in counts.items() if count]
    if not kinds:
        return "data set: the data list changed, its images did not"
    first, *others = kinds
    count, kind = first.split()
    return f"data set: {count} image{'s' if count != '1' else ''} " + ", ".join([kind, *others])


def written_differences(record: Mapping[str, Any], stage: Stage, output: Path) -> list[str]:
    """What became of the writes of a finished stage since it was recorded."""
    found = []
    for write in stage.writes:
        found_now = path_digest(output / write)
        if found_now is None:
            found.append(f"{write} is missing")
        elif found_now != record["writes"].get(write):
            found.append(f"{write} changed")
    return found


def read_record(file: Path) -> dict[str, Any] | None:
    """The record in ``file``, None if there is none."""
    if not file.is_file():
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(f"the record {file} is damaged: delete it, and the stage is redone.") from error


def clock() -> str:
    """The time, for a record."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
