"""What every room shares: errors for people, files written whole or not at all, seeds that do not depend on order."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

__all__ = [
    "ArtifactError",
    "ConfigError",
    "DataError",
    "PLANError",
    "TrainingError",
    "atomic_path",
    "derive_seed",
    "file_digest",
    "first_line",
    "load_artifact",
    "save_artifact",
    "seeded_generator",
    "write_json",
    "write_text",
]

FORMAT_VERSION = 1


class PLANError(Exception):
    """An error whose message is meant for the user: the command line prints it without a traceback."""


class ConfigError(PLANError, ValueError):
    """An argument or a config id has a value that cannot work."""


class DataError(PLANError, ValueError):
    """A data list, an image or a label breaks a rule."""


class ArtifactError(PLANError, RuntimeError):
    """A file written by an earlier stage is missing, damaged or of another kind."""


class TrainingError(PLANError, RuntimeError):
    """A training had to stop; the last good checkpoint is kept."""


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its name only if the block succeeds.

    The suffix of ``path`` is kept, for writers that choose a format by it. Folders are made as needed.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}.tmp{target.suffix}")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def file_digest(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_artifact(
    path: str | os.PathLike[str], *, kind: str, data: Mapping[str, Any], made_by: Mapping[str, Any] | None = None
) -> None:
    """Save what a stage made, with a header that says what it is and what made it.

    Args:
        path: the file, by convention ``*.pt``.
        kind: what the file holds, for instance ``"latents"``; ``load_artifact`` checks it.
        data: tensors, numbers, strings and plain containers of these (what ``weights_only=True`` can load).
        made_by: the settings and the digests of the inputs.
    """
    from monai_plan import __version__

    header = {
        "format": "monai_plan",
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "version": __version__,
        "made_by": dict(made_by or {}),
    }
    with atomic_path(path) as temporary:
        torch.save({"header": header, "data": dict(data)}, temporary)


def load_artifact(path: str | os.PathLike[str], *, kind: str) -> dict[str, Any]:
    """Load what ``save_artifact`` wrote, onto the CPU and without executing anything in it.

    Returns:
        ``data`` as it was given to ``save_artifact``, with the header under the key ``"header"``.

    Raises:
        ArtifactError: if the file is missing, unreadable, or of another kind or format version.
    """
    if not os.path.isfile(path):
        raise ArtifactError(f"{path} does not exist: run the stage that writes the {kind} first.")
    with open(path, "rb") as file:
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises what it likes on a damaged file
            raise ArtifactError(
                f"{path} cannot be read as {kind}: it is damaged or holds more than tensors and plain values. "
                f"Delete it and run the stage that writes it again. ({type(error).__name__}: {first_line(error)})"
            ) from error
    header = content.get("header") if isinstance(content, dict) else None
    if not isinstance(header, dict) or header.get("format") != "monai_plan":
        raise ArtifactError(f"{path} was not written by monai_plan: expected a file of {kind}.")
    if header["kind"] != kind:
        raise ArtifactError(f"{path} holds {header['kind']}, but {kind} was expected: check the path.")
    if header["format_version"] > FORMAT_VERSION:
        raise ArtifactError(
            f"{path} has file format {header['format_version']} (monai_plan {header['version']}), this version reads "
            f"up to {FORMAT_VERSION}: update monai_plan."
        )
    return {**content["data"], "header": header}


def first_line(error: BaseException) -> str:
    """The first line of an error's message, which may be empty."""
    return "".join(str(error).splitlines()[:1])


def derive_seed(seed: int, *key: int | str) -> int:
    """A seed in [0, 2**63) that depends on ``seed`` and ``key`` alone, not on the order of any earlier draw."""
    text = "\x1f".join([str(seed), *map(repr, key)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def seeded_generator(seed: int, *key: int | str) -> torch.Generator:
    """A CPU generator seeded with ``derive_seed``; draw on the CPU and move, so that devices agree."""
    return torch.Generator().manual_seed(derive_seed(seed, *key))
