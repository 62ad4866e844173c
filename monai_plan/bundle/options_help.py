"""``monai-plan run --help BUNDLE``: the ids that people set, with their defaults."""

from __future__ import annotations

import json
import os
import textwrap
from typing import Any

from monai.bundle import ConfigParser

from monai_plan.bundle.options import OPTIONS
from monai_plan.bundle.runner.stages_file import load_stages
from monai_plan.bundle.zoo import bundle_folder

__all__ = ["options_help"]

_WIDTH, _COLUMN = 112, 30


def options_help(bundle_root: str | os.PathLike[str]) -> str:
    """A line per id of a bundle: its default as the configs have it, and what it is.

    Args:
        bundle_root: its folder, or a name.

    Raises:
        ConfigError: if the folder holds no bundle with stages.
    """
    folder = bundle_folder(bundle_root)
    defaults: dict[str, Any] = {}
    for stage in load_stages(folder):
        parser = ConfigParser()
        parser.read_config([str(file) for file in stage.config])
        config = parser.get()
        for id in OPTIONS.keys() & config.keys():
            defaults.setdefault(id, config[id])
    lines = [f"The ids of {folder.absolute().name}, to be set by --id value:", ""]
    for id, (words, _) in OPTIONS.items():
        if id in defaults:
            text = f"{words} (default: {_shown(defaults[id])})"
            wrapped = textwrap.wrap(text, _WIDTH - _COLUMN, break_long_words=False)
            gap = " " * _COLUMN
            lines.append(f"  --{id} ".ljust(_COLUMN) + f"\n{gap}".join(wrapped))
    return "\n".join(lines)


def _shown(value: Any) -> str:
    """A default; an expression that looks at the data, or at the size of the images, in words."""
    if not isinstance(value, str):
        return json.dumps(value) if isinstance(value, (list, dict)) else str(value)
    if "data_facts" in value:
        return "that of the data"
    if value.startswith("$torch.device"):
        return "the GPU, if there is one"
    if value.startswith(("$", "@")) and "defaults" in value:
        return "by the images' size"
    return value
