"""Images from disk, of any release and of the real data, in one size and one range."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from monai.transforms import Compose, Resized
from torch import Tensor

from monai_plan.data import (
    CheckedDataset,
    LoadShownImaged,
    ScaleShownd,
    choose_scaling,
    inspect_datalist,
    read_datalist,
    write_datalist,
)
from monai_plan.data.datalist import DATALIST_NAME
from monai_plan.data.reader import image_kind
from monai_plan.utils import DataError, files_below, read_json

__all__ = ["ReadImages", "read_real", "read_released"]


@dataclass(frozen=True, eq=False)
class ReadImages:
    """Images of a section of a data list, or of a folder.

    Attributes:
        images: [N, C, *spatial] in [-1, 1].
        subjects: of each its patient; of a released one its group.
        has_subjects: whether they were named; if not, each is its own.
        keys: the path of each, as the data list has it, or below the folder.
        labels: [N], int64, or None where there are none.
        label_names: the name of each class.
        name: of the data set.
    """

    images: Tensor
    subjects: list[str]
    has_subjects: bool
    keys: list[str]
    labels: Tensor | None
    label_names: dict[int, str]
    name: str


def read_real(datalist_file: str | os.PathLike[str], *, img_size: int | None = None) -> tuple[ReadImages, ReadImages]:
    """The members and the held-out patients: the sections ``training`` and ``test`` of a data list.

    Args:
        datalist_file: the data list.
        img_size: elements of each axis; None chooses a size that fits the files, see ``inspect_datalist``.

    Raises:
        DataError: as ``CheckedDataset``; if there is no section ``test``.
    """
    sections = read_datalist(datalist_file).sections
    if not sections.get("test"):
        raise DataError(
            f'{datalist_file} has no section "test": an audit needs patients who did not take part, or nothing says '
            "which likeness is chance. Put images of other patients there."
        )
    facts = inspect_datalist(datalist_file)
    size = facts.img_size if img_size is None else (img_size,) * facts.spatial_dims
    training, test = (
        _read(datalist_file, section, size=size, channels=facts.img_channels) for section in ("training", "test")
    )
    return training, test


def read_released(path: str | os.PathLike[str], *, like: ReadImages, work_dir: str | os.PathLike[str]) -> ReadImages:
    """A release that any tool made, brought to the size and the channels of the real images.

    Args:
        path: a data list, a folder with one (``datalist.json``), or a folder of images without.
        like: the real images.
        work_dir: private folder for a data list of a folder without.

    Raises:
        DataError: if there is no image, or one cannot be read.
    """
    path = Path(path)
    listed = path if path.is_file() else path / DATALIST_NAME
    size, channels = tuple(like.images.shape[2:]), like.images.shape[1]
    if listed.is_file():
        return _read(listed, "training", size=size, channels=channels)
    images = [file for file in files_below(path) if image_kind(file)] if path.is_dir() else []
    if not images:
        raise DataError(f"{path} holds neither {DATALIST_NAME} nor images: give the folder of a release.")
    listed = write_datalist(
        Path(work_dir) / "released.json",
        labels={0: "any"},
        sections={"training": [{"image": str(file.absolute()), "label": 0} for file in images]},
        name=path.name,
    )
    read = _read(listed, "training", size=size, channels=channels)
    keys = [file.relative_to(path).as_posix() for file in images]
    return ReadImages(read.images, keys, False, keys, None, {}, path.resolve().name)


def _read(datalist_file: str | os.PathLike[str], section: str, *, size: tuple[int, ...], channels: int) -> ReadImages:
    scaling = choose_scaling(datalist_file=datalist_file)
    checked = CheckedDataset(
        datalist_file=datalist_file,
        section=section,
        transform=Compose(
            [LoadShownImaged("image"), Resized("image", spatial_size=size, mode="area"), ScaleShownd("image", scaling)]
        ),
        img_size=size,
        img_channels=channels,
        num_classes=max(read_datalist(datalist_file).labels, default=0) + 1,
        progress=True,
    )
    return ReadImages(
        images=checked.images[:],
        subjects=checked.subjects,
        has_subjects=checked.has_subjects,
        keys=checked.keys,
        labels=torch.as_tensor(checked.labels),
        label_names=checked.label_names,
        name=str(read_json(datalist_file).get("name") or Path(datalist_file).absolute().parent.name),
    )
