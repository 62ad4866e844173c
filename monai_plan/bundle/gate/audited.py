"""The gate's question: are these exactly the files that were audited, and did the audit find nothing?

What the stages wrote and read stands in ``private/run/``, by hash. Whatever in ``release/`` is not on record, or is no
longer as it was written, audited and reported on, is refused by name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_plan import __version__
from monai_plan.bundle.gate.strangers import hidden_in, what_is
from monai_plan.bundle.runner.record import RECORDS, StageRecord, recorded_stages
from monai_plan.bundle.runner.stages_file import covers
from monai_plan.data.datalist import DATALIST_NAME
from monai_plan.data.writers import IMAGES_FOLDER
from monai_plan.release import Release, read_release
from monai_plan.utils import DataError, digest, file_digest, read_json

__all__ = ["Audited", "audited_release"]

_AUDIT = "release/audit.json"
_AGAIN = "run the stages again (monai-plan run), which redoes what changed"


@dataclass(frozen=True)
class Audited:
    """A release whose every file is as it was audited.

    Attributes:
        output: the folder of the run.
        release: the images and their data list.
        files: SHA-256 of every file of the release, by its path in it.
        audit: what ``audit.json`` says.
        configs: of every recorded stage, its config: id of each leaf → value as written.
        audited: of every file or folder that the audit read, its digest then.
    """

    output: Path
    release: Release
    files: dict[str, str]
    audit: dict[str, Any]
    configs: dict[str, dict[str, Any]]
    audited: dict[str, str]

    def is_audited(self, file: str) -> bool:
        """Whether a file below the output is the one that the audit read."""
        path = self.output / file
        return path.is_file() and self.audited.get(file) == digest(path)

    def recorded(self, stage: str, id: str) -> Any:
        """A plain value, or list of them, from a stage's config as it is on record.

        Raises:
            DataError: if the stage or the id is not on record.
        """
        config = self.configs.get(stage, {})
        if id in config:
            return config[id]
        listed = [value for key, value in config.items() if key.startswith(f"{id}#")]
        if not listed:
            raise DataError(f"{self.output} has no {id} of the stage {stage} on record: {_AGAIN}.")
        return listed


def audited_release(output_dir: str | os.PathLike[str], *, with_generator: bool = False) -> Audited:
    """Check a finished run's release against its records and its audit.

    Args:
        output_dir: of ``monai-plan run``, with ``private/`` and ``release/``.
        with_generator: whether the generator will leave too: then the audit must have played that attacker.

    Raises:
        DataError: naming the first file that is not as it was audited, or what the audit found.
    """
    output = Path(os.path.abspath(output_dir))
    if not (output / "release").is_dir() or not (output / RECORDS).is_dir():
        raise DataError(f"{output} is no finished run with release/ and {RECORDS}/: give the output_dir of a run.")
    records = _records(output)
    writes = {
        file: sha256
        for record in records.values()
        for file, sha256 in record["writes"].items()
        if covers("release", file)
    }
    if _AUDIT not in writes:
        raise DataError(f"{output} has no audit on record, and nothing leaves without: {_AGAIN}.")
    _check_files(output, writes, _real_images(records))
    auditor = next(record for record in records.values() if _AUDIT in record["writes"])
    _check_freshness(output, records, auditor)
    audit = read_json(output / _AUDIT, what="an audit")
    files = {Path(file).relative_to("release").as_posix(): sha256 for file, sha256 in sorted(writes.items())}
    _check_audited(audit, files)
    _check_findings(audit, with_generator=with_generator)
    return Audited(
        output=output,
        release=read_release(output / "release"),
        files=files,
        audit=audit,
        configs={name: record["fingerprint"]["config"] for name, record in records.items()},
        audited=auditor["fingerprint"]["reads"],
    )


def _records(output: Path) -> dict[str, dict[str, Any]]:
    """Of every stage, what it read and wrote when it was last done."""

    def refuse(line: str) -> None:
        raise DataError(f"{line}: {_AGAIN}.")

    records = {}
    for name in sorted(recorded_stages(output)):
        record = StageRecord(output, name, refuse)
        if record.started is not None:
            raise DataError(f"the stage {name} of {output} was begun and not finished: {_AGAIN}.")
        if record.finished is not None:
            records[name] = record.finished
    return records


def _real_images(records: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Digest → name, of the real images that the run saw."""
    images: dict[str, str] = {}
    for record in records.values():
        images |= {sha256: name for name, sha256 in ((record["fingerprint"]["data"] or {}).get("images") or {}).items()}
    return images


def _entries(release: Path) -> Iterator[Path]:
    """All files below the release, and all links; no link is followed."""
    for place, folders, files in os.walk(release):
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        yield from sorted(Path(place) / name for name in [*files, *links])


def _check_files(output: Path, writes: Mapping[str, str], real: Mapping[str, str]) -> None:
    """Every file is on record, as it was written; every file on record is there."""
    release, found = output / "release", set()
    for path in _entries(release):
        name = path.relative_to(output).as_posix()
        found.add(name)
        if not path.is_symlink() and not path.is_file():
            raise DataError(f"{name} is neither a file nor a folder, and does not leave: remove it.")
        if path.is_symlink() or digest(path) in real or name not in writes:
            known = {file_digest(path): real[digest(path)]} if path.is_file() and digest(path) in real else {}
            what = what_is(path, private=output / "private", real=known)
            raise DataError(f"{name} is {what}, and does not leave: remove it, or {_AGAIN}.")
        if file_digest(path) != writes[name]:
            what = what_is(path, private=output / "private", real={})
            told = "" if what.startswith("no file") else f" It is {what}."
            raise DataError(
                f"{name} was changed after it was written.{told} What leaves is what was audited: {_AGAIN}."
            )
        if path.parent.name == IMAGES_FOLDER and (hidden := hidden_in(path)):
            raise DataError(f"{name} holds {hidden} beside its pixels, and does not leave: {_AGAIN}.")
    for name in writes:
        if name not in found:
            raise DataError(f"{name} is on record and is missing: {_AGAIN}.")


def _check_freshness(output: Path, records: Mapping[str, Mapping[str, Any]], auditor: Mapping[str, Any]) -> None:
    """The audit and the report are of the files that are there now."""
    for name, record in records.items():
        for read, before in record["fingerprint"]["reads"].items():
            if covers("release", read) and before != digest(output / read):
                raise DataError(
                    f"the stage {name} read another {read} than there is now, so that what it wrote is stale: {_AGAIN}."
                )
    reads = auditor["fingerprint"]["reads"]
    for name in (f"release/{IMAGES_FOLDER}", f"release/{DATALIST_NAME}"):
        if name not in reads:
            raise DataError(f"the stage that wrote {_AUDIT} did not read {name}, so that it audited something else.")
    version = auditor["fingerprint"]["monai_plan"]
    if version != __version__:
        raise DataError(f"the audit was made by monai_plan {version}, and this is {__version__}: {_AGAIN}.")


def _check_audited(audit: Mapping[str, Any], files: Mapping[str, str]) -> None:
    """The hashes that the audit itself bears are those of the files."""
    audited = audit.get("files") or {}
    for name, sha256 in files.items():
        if (name.startswith(f"{IMAGES_FOLDER}/") or name == DATALIST_NAME) and audited.get(name) != sha256:
            raise DataError(f"{name} is not the file that was audited, by its SHA-256 in {_AUDIT}: {_AGAIN}.")


def _check_findings(audit: Mapping[str, Any], *, with_generator: bool) -> None:
    """No alarm, an answer on copies, and, where the generator leaves too, on the attacker who has it."""
    rows = {row["name"]: row for row in audit["rows"]}
    for row in rows.values():
        if row["verdict"] == "Alarm":
            raise DataError(f'the audit says of "{row["title"]}": {row["sentence"]} Nothing leaves.')
    copies = rows.get("copies")
    if copies is None or copies["verdict"] == "No answer":
        told = "it did not look for copies" if copies is None else copies["sentence"]
        raise DataError(f"the audit has no answer on copies, and nothing leaves without one: {told}")
    if not with_generator:
        return
    if "generator" not in rows:
        raise DataError(f"the audit has not played the attacker who has the generator: {_AGAIN}.")
    for row in rows.values():
        if row.get("told_by_generator"):
            raise DataError(f'the generator does not leave. The audit says of "{row["title"]}": {row["sentence"]}')
