"""What a stage depends on and what it wrote: recorded when it starts and when it is done, told apart in words."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from monai_plan import __version__
from monai_plan.bundle.runner.configs import Plan
from monai_plan.bundle.runner.stages_file import Stage, brief, covers
from monai_plan.utils import DataError, digest, file_digest, files_below, read_json, write_json

# below output_dir
RECORDS = "private/run"
SETTINGS = "private/settings.json"
PROTOCOL = "private/protocol"

Fingerprint = dict[str, Any]


class StageRecord:
    """What lies on record of one stage, from earlier runs and this one.

    Args:
        output: the folder of the run.
        name: of the stage.
        echo: told of a damaged record, which counts as none.

    Attributes:
        finished: of the last time that it was done: ``fingerprint``, ``writes`` (the SHA-256 of every file by its path
            below ``output``), ``seconds`` and ``finished``; or None.
        started: of a run that is not done: ``fingerprint`` and ``started``; or None.
    """

    def __init__(self, output: Path, name: str, echo: Callable[[str], object]) -> None:
        self._finished_file = output / RECORDS / f"{name}.json"
        self._started_file = output / RECORDS / f"{name}.started.json"
        self.finished = _read(self._finished_file, echo)
        self.started = _read(self._started_file, echo)

    @property
    def made_with(self) -> Fingerprint | None:
        """With which fingerprint the work folder was filled; None if nobody knows."""
        owner = self.started or self.finished
        return None if owner is None else owner["fingerprint"]

    def vouches_for(self, file: str, sha256: str) -> bool:
        """Whether the stage itself left ``file`` as it is: it finished so, or had cleared the place and was stopped."""
        return self.started is not None or (self.finished or {"writes": {}})["writes"].get(file) == sha256

    def start(self, now: Fingerprint) -> None:
        """Record that the stage starts, its place being clear."""
        self.started = {"fingerprint": now, "started": _clock()}
        write_json(self._started_file, self.started)

    def finish(self, now: Fingerprint, writes: Mapping[str, str], seconds: float) -> None:
        """Record that the stage is done and what it wrote."""
        self.finished = {"fingerprint": now, "writes": dict(writes), "seconds": seconds, "finished": _clock()}
        write_json(self._finished_file, self.finished)
        self.forget_start()

    def forget_start(self) -> None:
        """The stage is done, also if it was killed before it could say so."""
        self._started_file.unlink(missing_ok=True)
        self.started = None

    def delete(self) -> None:
        """Remove the records."""
        self.forget_start()
        self._finished_file.unlink(missing_ok=True)


def _read(file: Path, echo: Callable[[str], object]) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        record: dict[str, Any] = read_json(file)
        if not {"monai_plan", "config", "reads", "data"} <= record["fingerprint"].keys():
            raise ValueError("an entry is missing")
        record.get("writes", {}).items()
    except (ValueError, KeyError, TypeError, AttributeError):
        echo(f"the record {file} is damaged and counts as none: its stage is done again")
        return None
    return record


def recorded_stages(output: Path) -> set[str]:
    """The names of all stages of which there is a record."""
    return {file.name.split(".")[0] for file in (output / RECORDS).glob("*.json")}


def record_settings(output: Path, settings: Mapping[str, Any], data: Mapping[str, Any], *, partly: bool) -> None:
    """Write down how the run was made, for what goes on from it; what went on from other data is deleted.

    Args:
        output: the folder of the run.
        settings: its bundle, data set and overrides.
        data: digests of the data set, see ``data_digests``.
        partly: only some stages run: their overrides are not those of the whole run.
    """
    file, known = output / SETTINGS, {}
    if file.is_file():
        try:
            known = read_json(file)
        except DataError:  # damaged, so nobody knows of which data
            known = {}
        if known.get("data") != digest(data):
            shutil.rmtree(output / PROTOCOL, ignore_errors=True)
    if partly and "overrides" in known:
        settings = {**settings, "overrides": known["overrides"]}
    # as JSON has it: a tuple is a list, and what is no plain value its text
    write_json(file, json.loads(json.dumps({**settings, "data": digest(data)}, default=str)))


def _clock() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def contents(output: Path, path: str) -> dict[str, str]:
    """The SHA-256 of a file or of all files of a folder, by their paths below ``output``; of nothing there is none."""
    place = output / path
    files = files_below(place) if place.is_dir() else [place] if place.exists() else []
    return {file.relative_to(output).as_posix(): file_digest(file) for file in files}


def fingerprint(plan: Plan, data: Mapping[Path, dict[str, Any]], output: Path) -> Fingerprint:
    """All that the result of a stage depends on, in the form in which it is recorded."""
    reads = {read: _digest(output / read) for read in plan.stage.reads}
    for text, path in plan.elsewhere.items():
        # a word may be the name of a folder by chance, and a folder above the output changes with it
        folder = "/" in text and os.path.isdir(path) and path != Path(str(plan.overrides["dataset_dir"]))
        if path != plan.datalist and (os.path.isfile(path) or (folder and not output.is_relative_to(path))):
            reads[text] = digest(path)
    return {
        "monai_plan": __version__,
        "config": plan.config,
        "reads": reads,
        "data": data[plan.datalist] if plan.datalist is not None else None,
    }


def _digest(path: Path) -> str | None:
    """The digest of a file, or of the names and contents of a folder's files; None if there is nothing."""
    return digest(path) if path.exists() else None


def data_digests(datalist: Path, dataset: Path, output: Path) -> dict[str, Any]:
    """The digest of the data list and of each of its images, by their paths in the list; a copy is the same data.

    Without a data list every file below ``dataset`` counts, but for those of a run that writes there.
    """
    if not datalist.is_file():
        files = [file for file in files_below(dataset) if not file.is_relative_to(output)]
        return {"datalist": None, "images": {file.relative_to(dataset).as_posix(): digest(file) for file in files}}
    content = read_json(datalist, what="a data list")
    if not isinstance(content, dict):
        raise DataError(f"the data list {datalist} is no JSON object: make it anew.")
    items = [
        item for section in content.values() if isinstance(section, list) for item in section if isinstance(item, dict)
    ]
    images = [item.get("image", []) for item in items]
    names = {name for image in images for name in ([image] if isinstance(image, str) else image)}
    return {
        "datalist": digest(datalist),
        "images": {name: _digest(datalist.parent / name) for name in sorted(names)},
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
    reads = {**old["reads"], **new["reads"]}
    found += [f"{read} changed" for read in reads if old["reads"].get(read) != new["reads"].get(read)]
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


def written_differences(finished: Mapping[str, Any], stage: Stage, output: Path) -> list[str]:
    """What became of the writes of a finished stage since it was recorded."""
    found = []
    for write in stage.writes:
        now = contents(output, write)
        if not now:
            found.append(f"{write} is missing")
        elif now != {file: sha256 for file, sha256 in finished["writes"].items() if covers(write, file)}:
            found.append(f"{write} changed")
    return found
