"""A release as it is read back: its items, what all its images share, and their values.

Images have the axes that MONAI's ``LoadImaged`` with ``ensure_channel_first`` gives, [C, *spatial].
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monai_plan.data.datalist import DATALIST_NAME, Datalist, read_datalist
from monai_plan.release.files import read_header, read_values
from monai_plan.utils import DataError, digest

__all__ = ["Release", "read_release"]

VALUE_RANGE = (0.0, 255.0)  # in which a release stores what G makes in [-1, 1], whatever range the real images have


@dataclass(frozen=True, eq=False)
class Release:
    """A synthetic data set as it was written. The images stay on disk until they are asked for.

    Attributes:
        folder: where it lies.
        paths: the absolute path of every image.
        labels: the class of every image.
        label_names: the name of every class.
        groups: of every image, its group (``subject`` in the data list): images of one group resemble each other.
        img_size: elements of each spatial axis.
        img_channels: channels.
        affine: [4, 4], float64, voxel to RAS+ millimetres; the identity in 2D.
        digest: 64 hexadecimal digits, of the contents of the data list and all image files.
    """

    folder: Path
    paths: list[str]
    labels: list[int]
    label_names: dict[int, str]
    groups: list[str]
    img_size: tuple[int, ...]
    img_channels: int
    affine: np.ndarray
    digest: str

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def items(self) -> list[dict[str, Any]]:
        """``{"image": absolute path, "label": int, "subject": str}`` of every image."""
        keys = zip(self.paths, self.labels, self.groups, strict=True)
        return [{"image": path, "label": label, "subject": group} for path, label, group in keys]

    def stored_image(self, index: int) -> Tensor:
        """An image as it is stored, uint8 [C, *spatial].

        Raises:
            DataError: if the file cannot be read or is not of the release's size.
        """
        path = self.paths[index]
        header = read_header(path)  # again, for nothing is decoded that has grown since
        if header.shape != (self.img_channels, *self.img_size):
            raise DataError(
                f"{path} is no longer an image of {self.img_channels} x {list(self.img_size)} values: write the "
                "release again."
            )
        return read_values(path, header)

    def stored_images(self) -> Tensor:
        """All images as they are stored, uint8 [N, C, *spatial].

        Raises:
            DataError: as ``stored_image``.
        """
        return self._read(torch.uint8)

    def _read(self, dtype: torch.dtype) -> Tensor:
        images = torch.empty(len(self), self.img_channels, *self.img_size, dtype=dtype)
        for index, image in enumerate(images):
            image.copy_(self.stored_image(index))
        return images

    @property
    def images(self) -> Tensor:
        """All images, [N, C, *spatial] float32 in [-1, 1]: read anew at every access.

        Raises:
            DataError: as ``stored_image``.
        """
        low, high = VALUE_RANGE
        return self._read(torch.float32).sub_(low).div_(high - low).mul_(2).sub_(1)


def read_release(datalist_file: str | os.PathLike[str]) -> Release:
    """Read a release that ``write_synthetic`` wrote, the section ``training`` of its data list.

    Args:
        datalist_file: the data list, or the folder that holds it.

    Raises:
        DataError: if there is no release or no image in it, its data list or an image leads out of its folder, a class
            has no name, or an image is missing, no PNG or NIfTI-1 file as they are written here, or of another size,
            channel count or geometry than the first. What only decoding shows is found when an image is read.
    """
    datalist = _read_datalist(Path(datalist_file).absolute())
    items = datalist.sections["training"]
    paths: list[str] = [item["image"] for item in items]
    first = read_header(paths[0])
    for path in paths[1:]:
        other = read_header(path)
        if other.shape != first.shape or not np.allclose(other.affine, first.affine):
            raise DataError(
                f"{path} has the shape {list(other.shape)} and {paths[0]} {list(first.shape)}, or their affines "
                "differ, but all images of a release share both: write the release again."
            )
    img_channels, *img_size = first.shape
    return Release(
        folder=datalist.path.parent,
        paths=paths,
        labels=[item["label"] for item in items],
        label_names=datalist.labels,
        groups=[item["subject"] for item in items],
        img_size=tuple(img_size),
        img_channels=img_channels,
        affine=first.affine,
        digest=digest(datalist.path, *map(Path, paths)),
    )


def _read_datalist(path: Path) -> Datalist:
    """The data list of a release, with at least one sample, all files there."""
    file = path if path.suffix == ".json" else path / DATALIST_NAME
    if not file.is_file():
        raise DataError(
            f"{file.parent} holds no {file.name}: give the folder of a release, made by the stage synthesize."
        )
    _check_inside(file.parent, file, file.name)
    datalist = read_datalist(file)
    items = datalist.sections["training"]
    for item in items:
        _check_inside(file.parent, item["image"], item["key"])
    if not items:
        raise DataError(f'{datalist.path} has no samples in "training": make the release again.')
    unnamed = sorted({item["label"] for item in items} - set(datalist.labels))
    if unnamed:
        raise DataError(f'{datalist.path} has images of class {unnamed[0]}, which has no name in "labels": add it.')
    missing = [item["image"] for item in items if not os.path.isfile(item["image"])]
    if missing:
        raise DataError(
            f"{missing[0]}, listed in {datalist.path}, does not exist ({len(missing)} of {len(items)} are missing): "
            "copy the release whole."
        )
    return datalist


def _check_inside(folder: Path, file: str | os.PathLike[str], name: str) -> None:
    """Refuse what leads out of the folder of a release: by ``..``, as an absolute path or by links."""
    try:
        inside = Path(os.path.realpath(file)).is_relative_to(os.path.realpath(folder)) and not os.path.isabs(name)
    except (OSError, ValueError):  # a loop of links, or a zero byte in the name
        inside = False
    if not inside:
        raise DataError(f"{name!r} of the release {folder} leads out of it, and nothing outside is opened: remove it.")
