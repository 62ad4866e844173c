"""What tells the items of a data list apart."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from monai.data.meta_tensor import MetaTensor
from torch import Tensor

from monai_plan.utils import ConfigError


def is_path(value: Any) -> bool:
    """Whether ``LoadImage`` would take it for a path, or for those of several files that make one image."""
    files = value if isinstance(value, (list, tuple)) and value else (value,)
    return all(isinstance(file, (str, os.PathLike)) for file in files)


def one_number(value: Any) -> Any:
    """The number in a tensor or array that holds one; anything else as it is."""
    if isinstance(value, Tensor):
        return value.item() if value.numel() == 1 else value
    return value.item() if isinstance(value, (np.ndarray, np.generic)) and value.size == 1 else value


def plain_key(value: Any) -> int | str:
    """An item's key as text or number; paths are written as ``LoadImage`` writes them into the metadata."""
    value = one_number(value)
    if isinstance(value, MetaTensor):
        value = value.meta.get("filename_or_obj")
    if isinstance(value, (list, tuple)) and value:
        value = value[0]
    if isinstance(value, (str, os.PathLike)):
        return os.path.expanduser(Path(value))
    if isinstance(value, int):
        return int(value)
    raise ConfigError(
        f"The sample depends on the item's key, and a {type(value).__name__} is none: name with item_key what "
        "tells the items apart, text or a whole number; by default it is the path of the image."
    )
