"""A release whose samples can be told apart, and real items whose every part can be looked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.data import PersistentDataset
from PIL import Image

from monai_plan.release import write_synthetic

NAMES = {0: "normal", 1: "lesion"}
AFFINE = [[-2.0, 0.0, 0.0, 5.0], [0.0, 3.0, 0.0, 6.0], [0.0, 0.0, 4.0, 7.0], [0.0, 0.0, 0.0, 1.0]]
MARKS = ("mustermann", "cough since", "ward_seven")

read_back = pytest.mark.skipif(
    "track_meta" not in PersistentDataset.__init__.__annotations__,
    reason="MONAI 1.4 reads back no image of a PersistentDataset with PyTorch 2.6",
)


def make_release(
    folder: Path, labels: Iterable[int], *, shape: tuple[int, ...] = (1, 16, 16), noise: bool = False
) -> Path:
    """Sample n has the value n everywhere, so that ``sample_of`` knows it, or is noise."""
    labels = list(labels)
    values = torch.arange(len(labels)).reshape(-1, *(1,) * len(shape)) / 127.5 - 1
    if noise:
        values = torch.rand(len(labels), *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    write_synthetic(
        folder,
        images=values.expand(-1, *shape),
        labels=labels,
        label_names=NAMES,
        groups=range(len(labels)),
        affine=AFFINE,
        name="synthetic",
        description="A test.",
    )
    return folder


def sample_of(value: Any) -> int:
    """The number of a sample, from its path or its image as stored."""
    if isinstance(value, str):
        return int(Path(value).name.split(".")[0])
    assert value.min() == value.max()
    return int(value.max())


def real_items(folder: Path, labels: Iterable[int], *, spatial_dims: int = 2) -> list[dict[str, Any]]:
    """Items of images of noise on disk, with a patient's name and a report."""
    folder = folder / "ward_seven"
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    items = []
    for number, label in enumerate(labels):
        pixels = rng.integers(0, 256, (16, 16) if spatial_dims == 2 else (8, 8, 8), dtype=np.uint8)
        path = folder / f"mustermann_{number:02d}{'.png' if spatial_dims == 2 else '.nii'}"
        if spatial_dims == 2:
            Image.fromarray(pixels).save(path)
        else:
            nibabel.save(nibabel.Nifti1Image(pixels, np.array(AFFINE)), path)
        items.append(
            {"image": str(path), "label": label, "subject": f"Mustermann-{number:02d}", "report": "cough since may"}
        )
    return items


def pixel_marks(items: Iterable[Mapping[str, Any]]) -> set[bytes]:
    """Rows and columns of the real images, from either end, as 8 bits and as floats, as stored and scaled to [0, 1]."""
    marks = set()
    for item in items:
        volume = item["image"].endswith(".nii")
        pixels = np.asarray(nibabel.load(item["image"]).dataobj if volume else Image.open(item["image"]))
        scaled = (pixels - pixels.min()) / (pixels.max() - pixels.min())
        for array in (pixels, pixels.astype("f4"), pixels.astype("f8"), scaled.astype("f4")):
            lines = [line for rows in (array, array.T) for line in rows.reshape(-1, rows.shape[-1])]
            marks |= {line.tobytes() for line in lines} | {line[::-1].tobytes() for line in lines}
    return marks


def traces(content: bytes, marks: set[bytes]) -> list[bytes]:
    """What of a patient is in a file or a pickle: marks of text, in any case, or of pixels."""
    text = content.lower()
    return [mark.encode() for mark in MARKS if mark.encode() in text] + [mark for mark in marks if mark in content]


def parts(value: Any) -> Iterator[Any]:
    """Everything in a value, with all containers, attributes and metadata, each object once."""
    seen, stack = set(), [value]
    while stack:
        part = stack.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        if isinstance(part, Mapping):
            stack += [*part.keys(), *part.values()]
        elif isinstance(part, (list, tuple, set)):
            stack += part
        stack += list(getattr(part, "__dict__", {}).values())
        if getattr(part, "base", None) is not None and isinstance(part, np.ndarray):
            stack.append(part.base)
