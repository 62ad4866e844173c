"""The bundles that come with monai_plan, by name; in a checkout as in an installed package."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

from monai_plan.utils import ConfigError

__all__ = ["TEMPLATE", "bundle_folder", "bundle_path", "bundles", "check_name"]

TEMPLATE = "chest_xray_plan"  # of which all others are made

_PACKAGE = Path(__file__).parents[1]
_PLACES = (_PACKAGE / "bundles", _PACKAGE.parent / "bundles")  # of a wheel, and of a checkout


def bundles() -> dict[str, Path]:
    """Name and folder of every bundle that comes with monai_plan, in the order of their names."""
    found: dict[str, Path] = {}
    for place in _PLACES:
        for file in place.glob("*/configs/metadata.json"):
            found.setdefault(file.parents[1].name, file.parents[1])
    return dict(sorted(found.items()))


def bundle_path(name: str) -> Path:
    """The folder of a bundle that comes with monai_plan.

    Raises:
        ConfigError: if there is none of this name.
    """
    found = bundles()
    if name in found:
        return found[name]
    close = difflib.get_close_matches(name, found, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise ConfigError(f"no bundle is called {name!r}: there are {', '.join(found) or 'none, install it again'}.{hint}")


def bundle_folder(bundle: str | os.PathLike[str]) -> Path:
    """The folder of a bundle that is given as a folder or by name; a folder with configs in it goes before.

    Raises:
        ConfigError: if a word is given that is neither.
    """
    folder = Path(bundle)
    if isinstance(bundle, str) and re.fullmatch(r"\w+", bundle) and not (folder / "configs").is_dir():
        return bundle_path(bundle)
    return folder


def check_name(name: str) -> None:
    """Refuse a name that the model zoo would not take for a folder.

    Raises:
        ConfigError: if it is anything but words of small letters and digits, joined by ``_``.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        better = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
        hint = f", such as {better}" if re.match("[a-z]", better) else ""
        raise ConfigError(
            f"{name!r} cannot be the name of a bundle: the zoo wants words of small letters and digits, joined by _"
            f"{hint}."
        )
