"""What leaves, and how: built beside its place from audited files alone, and moved there when it is whole."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from monai_plan.bundle.gate.audited import Audited, audited_release
from monai_plan.bundle.gate.manifest import MANIFEST_NAME, check_manifest, write_manifest
from monai_plan.bundle.gate.packages import write_classifier, write_data, write_generator
from monai_plan.bundle.gate.strangers import same_as
from monai_plan.release import stamp
from monai_plan.utils import ConfigError, DataError, files_below, temporary_name

__all__ = ["KINDS", "release_bundle"]

KEY = "private/gate/key.json"  # below output_dir: of the seal

_Writer = Callable[..., None]
KINDS: dict[str, _Writer] = {"data": write_data, "classifier": write_classifier, "generator": write_generator}


def release_bundle(
    output_dir: str | os.PathLike[str],
    *,
    kind: str,
    to: str | os.PathLike[str],
    accept_generator_risk: bool = False,
    authors: str = "not named",
) -> str:
    """Let a finished run's data, a classifier trained on them, or its generator out of the house.

    Nothing is taken but what is on record, unchanged, and was audited, with no alarm and an answer on copies. The same
    run gives the same bytes, on one machine and with the same versions.

    Args:
        output_dir: of the run.
        kind: "data": images, data list, card and reports. "classifier": a bundle of plain MONAI with a network that is
            trained here, on the synthetic images alone. "generator": a bundle with the generator and the points whose
            images were checked.
        to: the new folder; one that an earlier call wrote is replaced.
        accept_generator_risk: needed for "generator": whoever has it can make what nobody checked.
        authors: who releases it, for the metadata.

    Returns:
        The digest of its manifest, 64 hexadecimal digits.

    Raises:
        ConfigError: if the kind or the folder cannot be.
        DataError: naming the first file that may not leave, or what the audit found.
    """
    if kind not in KINDS:
        raise ConfigError(f"kind is {kind!r}, but must be one of {', '.join(KINDS)}.")
    if kind == "generator" and not accept_generator_risk:
        raise ConfigError(
            "the generator was trained on the patients, and whoever has it can make images that nobody has checked and "
            "search it for people: if you may and want to share it all the same, say --accept-generator-risk."
        )
    target, output = Path(os.path.abspath(to)), Path(os.path.abspath(output_dir))
    _check_target(target, output, kind)
    audited = audited_release(output, with_generator=kind == "generator")
    temporary = temporary_name(target)
    try:
        temporary.mkdir(parents=True)
        KINDS[kind](audited, temporary, name=target.name, authors=authors)
        _check_nothing_private(temporary, audited)
        digest = write_manifest(temporary, kind=kind, key_file=output / KEY)
        _normalise(temporary)
        if target.exists():
            shutil.rmtree(target)
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return digest


def _check_target(target: Path, output: Path, kind: str) -> None:
    """A new folder outside of the run, or one that the gate wrote and nobody changed."""
    for place in (output / "private", output / "release"):
        if target.resolve().is_relative_to(place.resolve()) or place.resolve().is_relative_to(target.resolve()):
            raise ConfigError(f"to is {target}, which lies in {place} or holds it: give a folder of its own.")
    if kind != "data" and not re.fullmatch("[a-z][a-z0-9]*(_[a-z0-9]+)*", target.name):
        raise ConfigError(
            f"to ends in {target.name!r}, which is the bundle's name: use small letters, digits and underscores, "
            "such as chest_xray_classifier."
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        ours = target.is_dir() and not target.is_symlink() and (target / MANIFEST_NAME).is_file()
        if not ours or check_manifest(target):
            raise ConfigError(f"{target} holds what the gate did not write, or was changed since: give a new folder.")


def _check_nothing_private(folder: Path, audited: Audited) -> None:
    """The last look: no link, and no file of the private side."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise DataError(f"{path.relative_to(folder)} is a link, and does not leave.")
    for path, name in same_as(audited.output / "private", list(files_below(folder))).items():
        raise DataError(f"{path.relative_to(folder)} is {name}, and does not leave.")


def _normalise(folder: Path) -> None:
    """One time and one set of rights for all files."""
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    stamp(*folder.iterdir())
