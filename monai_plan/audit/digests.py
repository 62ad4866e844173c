"""Which files were audited, and against which real images: what a gate compares before anything leaves."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from monai_plan.data.datalist import DATALIST_NAME
from monai_plan.release.secret import release_secret
from monai_plan.utils import digest, file_digest

__all__ = ["real_digest", "released_files"]


class Pictures(Protocol):
    """A section of the real data as it was read."""

    @property
    def digests(self) -> Sequence[str]:
        """Of the pixels of every image as they were read."""


def released_files(files: Sequence[str], folder: str | os.PathLike[str]) -> dict[str, str]:
    """The SHA-256 of every image of a release, and of the data list beside them, by the path below its folder.

    Args:
        files: absolute paths of the images.
        folder: of the release. Where an image lies elsewhere, paths are those below the folder that all images share,
            so that no place on this machine is told.
    """
    base = Path(folder).absolute()
    if not all(Path(file).is_relative_to(base) for file in files):
        base = Path(os.path.commonpath([os.path.dirname(file) for file in files]))
    listed = [str(Path(folder).absolute() / DATALIST_NAME)]
    found = sorted(file for file in {*files, *listed} if os.path.isfile(file))
    names = [Path(os.path.relpath(file, base)).as_posix() if file not in listed else DATALIST_NAME for file in found]
    return {name: file_digest(file) for name, file in zip(names, found, strict=True)}


def real_digest(members: Pictures, held_out: Pictures, *, secret_file: str | os.PathLike[str]) -> str:
    """A keyed digest of the real images, 64 hexadecimal digits, whatever their order, files and classes.

    Without the key it says nothing: a plain digest would let whoever has all images but one find the last by trying.

    Args:
        members, held_out: as they were read.
        secret_file: private; the key, which is drawn where there is none.
    """
    pictures = digest(sorted(members.digests), sorted(held_out.digests))
    key = bytes.fromhex(release_secret(secret_file))
    return hmac.new(key, pictures.encode(), hashlib.sha256).hexdigest()
