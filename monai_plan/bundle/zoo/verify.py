"""What the model zoo's checks would say of a bundle, offline and in plain words, and whether it holds anything private.

The zoo's continuous integration downloads the bundle's large files and the metadata's schema, and knows which versions
are taken; all else of it is here, by the same functions of MONAI, and more: see ``check_nothing_private``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_plan.bundle.gate.manifest import MANIFEST_NAME, check_manifest
from monai_plan.bundle.zoo.check_files import check_bundle_files, check_nothing_private
from monai_plan.bundle.zoo.check_metadata import check_metadata
from monai_plan.bundle.zoo.check_running import check_running
from monai_plan.bundle.zoo.findings import Finding, error, warning
from monai_plan.utils import ConfigError, DataError, read_json

__all__ = ["Finding", "verify_bundle"]


def verify_bundle(
    bundle: str | os.PathLike[str], *, dataset_dir: str | os.PathLike[str] | None = None
) -> list[Finding]:
    """Check a bundle: its files, its metadata, and then, if all of that is in order, by running MONAI's tools on it.

    The last part executes the bundle's configs, as MONAI does: for a bundle of strangers, look at the configs first.
    Of a data set that the gate let out, which is no bundle, only the manifest is checked.

    Args:
        bundle: its folder.
        dataset_dir: data for its ``train.json``; a bundle of monai_plan's form needs none.

    Returns:
        What is wrong, errors first; empty if the zoo would take it.

    Raises:
        ConfigError: if there is no such folder.
    """
    folder = Path(bundle).absolute()
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder: give that of a bundle, or a name that monai-plan bundles lists.")
    kind, of_manifest = _check_manifest(folder)
    if kind == "data":
        return of_manifest
    metadata, found = _metadata(folder)
    found += check_bundle_files(folder)
    provenance = metadata.get("provenance", {})
    found += of_manifest
    found += check_nothing_private(folder, provenance if isinstance(provenance, Mapping) else {})
    if metadata:
        found += check_metadata(metadata)
    if not any(finding.level == "error" for finding in found):
        found += check_running(folder, dataset_dir=None if dataset_dir is None else Path(dataset_dir).absolute())
    return sorted(found, key=lambda finding: finding.level != "error")


def _check_manifest(folder: Path) -> tuple[str | None, list[Finding]]:
    """Of what the gate let out: which kind it is, and what is not as it was then."""
    if not (folder / MANIFEST_NAME).is_file():
        return None, []
    remedy = "Take it again from who let it out."
    try:
        problems = check_manifest(folder)
    except DataError as problem:
        return None, [error("manifest", str(problem), remedy)]
    kind = read_json(folder / MANIFEST_NAME)["kind"]
    if problems:
        return kind, [error("manifest", text, remedy) for text in problems]
    if kind != "generator":
        return kind, []
    text = "the generator was trained on patients' images, and its owner took the risk of letting it out."
    return kind, [warning("private.generator", text, "Read docs/README.md before you pass it on.")]


def _metadata(folder: Path) -> tuple[Mapping[str, Any], list[Finding]]:
    file = folder / "configs" / "metadata.json"
    if not file.is_file():  # told with the files
        return {}, []
    try:
        content = read_json(file, what="the metadata of a bundle")
    except DataError as problem:
        return {}, [error("metadata.json", str(problem), "")]
    if not isinstance(content, dict):
        return {}, [error("metadata.json", "configs/metadata.json is no object.", "Write it anew.")]
    return content, []
