"""The data list of a public data set, from the folders of its official download as they are."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from monai_plan.data.builders import datalist_from_aptos, datalist_from_shenzhen
from monai_plan.data.datalist import DATALIST_NAME
from monai_plan.utils import ConfigError, temporary_name

_BUILDERS: dict[str, Callable[..., Path]] = {"aptos": datalist_from_aptos, "shenzhen": datalist_from_shenzhen}


def download_datalist(
    source: str, root: str | os.PathLike[str], *, output: str | os.PathLike[str], **options: Any
) -> Path:
    """The data list of a download, for the config id ``datalist_file``.

    It is made anew wherever a file of the download has changed, come or gone, so that an image that was taken out of
    the folder is out of the list.

    Args:
        source: "shenzhen" or "aptos".
        root: the download's folder, see ``datalist_from_shenzhen`` and ``datalist_from_aptos``. If it holds a
            ``datalist.json``, that one is taken, and all else is left aside.
        output: the data list to write. It names patients: keep it with what is private.
        options: of the builder, such as ``test_fraction`` and ``seed``.

    Returns:
        The path of the data list.

    Raises:
        ConfigError: if the source is unknown, or as the builder raises it.
        DataError: if ``root`` is missing or no such download.
    """
    if source not in _BUILDERS:
        raise ConfigError(f"source is {source!r}, but must be {' or '.join(map(repr, sorted(_BUILDERS)))}.")
    own = Path(root) / DATALIST_NAME
    if own.is_file():
        return own
    found = hash(tuple(sorted(_files(Path(root)))))
    output = Path(output).absolute()
    if not output.is_file():
        _made.cache_clear()
    return _made(source, Path(root).absolute(), output, tuple(options.items()), found)


def _files(root: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of every file below a folder."""
    files = (Path(place, name) for place, _, names in os.walk(root, followlinks=True) for name in names)
    return [(str(file), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files if file.exists()]


@lru_cache(maxsize=8)
def _made(source: str, root: Path, output: Path, options: tuple[tuple[str, Any], ...], found: int) -> Path:
    temporary = _BUILDERS[source](root, output=temporary_name(output), **dict(options))
    if output.is_file() and output.read_bytes() == temporary.read_bytes():
        temporary.unlink()  # as it was, its time included
    else:
        os.replace(temporary, output)
    return output
