"""What the model zoo's checks would say of a bundle, offline and in plain words, and whether it holds anything private.

The zoo's continuous integration downloads the bundle's large files and the metadata's schema, and knows which versions
are taken; all else of it is here, by the same functions of MONAI, and more: see ``check_nothing_private``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from monai_plan.bundle.gate.manifest import MANIFEST_NAME, check_manifest
from monai_plan.bundle.gate.strangers import hidden_in
from monai_plan.bundle.zoo.apart import run_apart
from monai_plan.bundle.zoo.check_files import check_bundle_files, check_nothing_private
from monai_plan.bundle.zoo.check_metadata import check_metadata
from monai_plan.bundle.zoo.findings import Finding, error, warning
from monai_plan.data.datalist import DATALIST_NAME
from monai_plan.release import read_release
from monai_plan.utils import ConfigError, DataError, file_digest, read_json

__all__ = ["Finding", "verify_bundle"]


def _ignore(line: str) -> None:
    pass


def verify_bundle(
    bundle: str | os.PathLike[str],
    *,
    dataset_dir: str | os.PathLike[str] | None = None,
    files_only: bool = False,
    echo: Callable[[str], object] = _ignore,
) -> list[Finding]:
    """Check a bundle: its files, its metadata, and then, if all of that is in order, by running MONAI's tools on it.

    The last part executes the bundle's configs, as MONAI does, in a process of their own, so that there is a verdict
    whatever they do: for a bundle of strangers, look at the configs first.
    Of a data set that the gate let out, which is no bundle, the files are checked: the manifest, and that nothing
    private lies there.

    Args:
        bundle: its folder.
        dataset_dir: data for its ``train.json``; a bundle of monai_plan's form needs none.
        files_only: leave the last part out, so that nothing is executed.
        echo: told what the manifest proves, and that the configs are run, before they are.

    Returns:
        What is wrong, errors first; empty if the zoo would take it.

    Raises:
        ConfigError: if there is no such folder.
    """
    folder = Path(bundle).absolute()
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder: give that of a bundle, or a name that monai-plan bundles lists.")
    kind, of_manifest = _check_manifest(folder)
    if kind is not None and not any(finding.level == "error" for finding in of_manifest):
        digest = read_json(folder / MANIFEST_NAME)["digest"]
        echo(f"the manifest fits; who made it is not checked: compare its digest with the published one, {digest}")
    if kind == "data":
        return of_manifest + _check_data(folder)
    metadata, found = _metadata(folder)
    found += check_bundle_files(folder)
    provenance = metadata.get("provenance", {})
    found += of_manifest
    found += check_nothing_private(folder, provenance if isinstance(provenance, Mapping) else {})
    if metadata:
        found += check_metadata(metadata)
    if not files_only and not any(finding.level == "error" for finding in found):
        echo("its files are in order; now its configs are run, as MONAI does")
        found += run_apart(folder, dataset_dir=None if dataset_dir is None else Path(dataset_dir).absolute())
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


def _check_data(folder: Path) -> list[Finding]:
    """That a data set is one: images by the form of a release, texts, and nothing else."""
    remedy = "Anybody can write a manifest: look at what lies there, and take the data set again from its owner."
    if (folder / "configs").exists():
        return [error("manifest.kind", "the manifest says that this is a data set, and configs/ lies in it.", remedy)]
    try:
        release = read_release(folder)
    except DataError as problem:
        return [error("manifest.kind", f"this is no data set that the gate let out: {problem}", remedy)]
    images = {Path(path).relative_to(folder).as_posix(): Path(path) for path in release.paths}
    pictures = images | {f"figures/{path.name}": path for path in (folder / "figures").glob("*.png") if _is_png(path)}
    known = {name: {"sha256": file_digest(path), "made_of": "a release"} for name, path in pictures.items()}
    found = [
        error("private.image", f"{name} holds {hidden} beside its pixels.", remedy)
        for name, path in images.items()
        if (hidden := hidden_in(path))
    ]
    listed = f"{DATALIST_NAME} is a data list."
    return found + [finding for finding in check_nothing_private(folder, known) if finding.text != listed]


def _is_png(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


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
