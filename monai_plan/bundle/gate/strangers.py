"""What a file in a release is, in words, where it has no place there."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel

from monai_plan.tensor_file import load_tensors, tensors_in
from monai_plan.utils import file_digest, files_below

__all__ = ["hidden_in", "same_as", "what_is"]

_PNG_PARTS = {"IHDR", "IDAT", "IEND"}  # what holds the pixels, and nothing else
_NIFTI_TEXTS = ("descrip", "aux_file", "intent_name", "db_name", "data_type")


def what_is(file: Path, *, private: Path, real: Mapping[str, str]) -> str:
    """What a file is that no stage on record has written.

    Args:
        file: below ``release/``.
        private: the private folder of the run.
        real: SHA-256 → name, of the real images.
    """
    if file.is_symlink():
        return f"a link to {os.readlink(file)}"
    sha256 = file_digest(file)
    if sha256 in real:
        return f"the real image {real[sha256]} under another name"
    same = same_as(private, [file])
    return same.get(file) or _of_tensors(file) or "no file that a stage on record wrote"


def same_as(private: Path, files: Sequence[Path]) -> dict[Path, str]:
    """Those of the files that are a private one, whatever their names: file → the name of the private one."""
    wanted = {file.stat().st_size for file in files}
    digests = {
        file_digest(path): f"private/{path.relative_to(private).as_posix()}"
        for path in files_below(private)
        if path.stat().st_size in wanted
    }
    return {file: digests[sha256] for file in files if digests and (sha256 := file_digest(file)) in digests}


def _of_tensors(file: Path) -> str | None:
    """What a file of torch or a pickle holds; None if it is neither."""
    with open(file, "rb") as opened:
        if opened.read(2) not in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
            return None
        try:
            content = load_tensors(opened)
        except Exception:  # whatever torch says of what is more than tensors
            return "a pickle that could run code when it is read"
    header = content.get("header") if isinstance(content, dict) else None
    if isinstance(header, dict) and isinstance(header.get("kind"), str):
        return f"a private file of monai_plan that holds {header['kind']}"
    return f"a file of {sum(1 for _ in tensors_in(content))} tensors: weights, or latents"


def hidden_in(image: Path) -> str | None:
    """What an image file holds beside its pixels and its geometry, in words; None if nothing.

    Args:
        image: a PNG, or an uncompressed NIfTI-1 file.

    Raises:
        OSError: if it cannot be read.
    """
    return _in_png(image.read_bytes()) if image.suffix == ".png" else _in_nifti(image)


def _in_png(content: bytes) -> str | None:
    position = 8
    while position + 8 <= len(content):
        length, name = struct.unpack_from(">I4s", content, position)
        part = name.decode("latin-1")
        if part not in _PNG_PARTS:
            return f"metadata ({part})"
        position += 12 + length
        if part == "IEND":
            break
    return f"{len(content) - position} bytes behind its end" if position != len(content) else None


def _in_nifti(image: Path) -> str | None:
    header = nibabel.Nifti1Header(image.read_bytes()[:348], check=False)
    texts = [name for name in _NIFTI_TEXTS if bytes(header[name]).strip(b"\0")]
    if texts:
        return f"text in its header ({', '.join(texts)})"
    return "an extension of its header" if int(header["vox_offset"]) != 352 else None
