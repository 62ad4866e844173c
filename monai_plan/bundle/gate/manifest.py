"""The manifest of what left: the SHA-256 of every file, one number over all of them, and the owner's seal.

The hashes tell everybody whether a copy is whole. Whether it is what its owner let out is told by the ``digest``, one
number to publish wherever the owner is believed (a paper, a web page), and to the owner by the ``seal``, an HMAC-SHA256
of that number under a key that stays in ``private/``. A signature that strangers verify needs the owner's own key:
``ssh-keygen -Y sign`` or ``gpg --detach-sign`` of the manifest, whose file lies beside it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
from pathlib import Path
from typing import Any

from monai_plan import __version__
from monai_plan.release import release_secret
from monai_plan.utils import DataError, file_digest, read_json, write_json

__all__ = ["MANIFEST_NAME", "check_manifest", "write_manifest"]

MANIFEST_NAME = "manifest.json"
_SCHEMA, _SCHEMA_VERSION = "monai_plan.manifest", 1
_SIGNATURES = {MANIFEST_NAME + ending for ending in (".sig", ".asc")}  # of ssh-keygen and gpg


def write_manifest(folder: str | os.PathLike[str], *, kind: str, key_file: str | os.PathLike[str]) -> str:
    """Write ``manifest.json`` over all files of a folder.

    Args:
        folder: holds no links and no manifest yet.
        kind: "data", "classifier" or "generator".
        key_file: the owner's key, private; made if it is not there.

    Returns:
        The digest, 64 hexadecimal digits.
    """
    files = {name: file_digest(path) for name, path in _files(Path(folder)).items()}
    digest = _digest(kind, __version__, files)
    content = {
        "schema": _SCHEMA,
        "schema_version": _SCHEMA_VERSION,
        "kind": kind,
        "version": __version__,
        "files": files,
        "digest": digest,
        "seal": _seal(release_secret(key_file), digest),
    }
    write_json(Path(folder) / MANIFEST_NAME, content)
    return digest


def check_manifest(folder: str | os.PathLike[str], *, key_file: str | os.PathLike[str] | None = None) -> list[str]:
    """What in a folder is not as its manifest says: a sentence each; none, if all is.

    Args:
        folder: holds ``manifest.json``.
        key_file: the owner's key, ``private/gate/key.json``, to check the seal as well.

    Raises:
        DataError: if there is no such manifest, or ``key_file`` does not exist.
    """
    folder = Path(folder)
    content = read_json(folder / MANIFEST_NAME, what="the manifest of a release")
    kind, version, listed, digest, seal = _parts(content, folder / MANIFEST_NAME)
    found = _files(folder)
    problems = []
    for name in sorted({*listed, *found} - {MANIFEST_NAME}):
        path = found.get(name)
        if path is None:
            problems.append(f"{name} is in the manifest and not in the folder: copy the folder whole.")
        elif path.is_symlink():
            problems.append(f"{name} is a link: nothing that leads elsewhere is part of a release.")
        elif name not in listed:
            if name not in _SIGNATURES:
                problems.append(f"{name} is not in the manifest: it was put there afterwards.")
        elif file_digest(path) != listed[name]:
            problems.append(f"{name} was changed after the manifest was written: its SHA-256 is another one.")
    if digest != _digest(kind, version, listed):
        problems.append("the digest of the manifest is not that of its files: the manifest was changed.")
    if key_file is not None:
        if not os.path.isfile(key_file):
            raise DataError(f"{key_file} does not exist: give the key that the gate wrote, private/gate/key.json.")
        if not hmac.compare_digest(seal, _seal(release_secret(key_file), digest)):
            problems.append("the seal is not of this key: the owner of the key did not let this folder out.")
    return problems


def _files(folder: Path) -> dict[str, Path]:
    """All files below a folder by their paths in it, and links whatever they lead to; no link is followed."""
    found = {}
    for place, folders, files in os.walk(folder):
        for name in [*files, *(name for name in folders if os.path.islink(os.path.join(place, name)))]:
            path = Path(place) / name
            found[path.relative_to(folder).as_posix()] = path
    return dict(sorted(found.items()))


def _digest(kind: str, version: str, files: dict[str, str]) -> str:
    written = json.dumps([_SCHEMA, _SCHEMA_VERSION, kind, version, sorted(files.items())])
    return hashlib.sha256(written.encode()).hexdigest()


def _seal(key: str, digest: str) -> str:
    return hmac.new(bytes.fromhex(key), digest.encode(), "sha256").hexdigest()


def _parts(content: Any, path: Path) -> tuple[str, str, dict[str, str], str, str]:
    """What a manifest says, if it says all of it."""
    texts = ("kind", "version", "digest", "seal")
    if (
        not isinstance(content, dict)
        or (content.get("schema"), content.get("schema_version")) != (_SCHEMA, _SCHEMA_VERSION)
        or not all(isinstance(content.get(name), str) for name in texts)
        or not isinstance(content.get("files"), dict)
        or not all(re.fullmatch("[0-9a-f]{64}", str(sha256)) for sha256 in content["files"].values())
    ):
        raise DataError(f"{path} is no manifest of a release of this version of monai_plan: have it released again.")
    kind, version, digest, seal = (content[name] for name in texts)
    return kind, version, content["files"], digest, seal
