"""A release as it is read back: its items, what all its images share, and their values.

Images have the axes that MONAI's ``LoadImaged`` with ``ensure_channel_first`` gives, [C, *spatial].
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from monai.transforms import LoadImage
from PIL import Image
from torch import Tensor

from monai_plan.data.datalist import DATALIST_NAME, Datalist, read_datalist
from monai_plan.utils import DataError, digest, first_line

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
        try:
            image = _loader()(path)
        except Exception as error:  # readers raise what they like on a damaged file
            raise DataError(f"{path} cannot be read ({first_line(error)}): write the release again.") from error
        values = torch.as_tensor(image).as_subclass(Tensor)
        stored = values.to(torch.uint8)
        if values.shape != (self.img_channels, *self.img_size) or not torch.equal(stored.to(values.dtype), values):
            raise DataError(
                f"{path} is not an image of {self.img_channels} x {list(self.img_size)} values of 8 bits: write the "
                "release again."
            )
        return stored

    def stored_images(self) -> Tensor:
        """All images as they are stored, uint8 [N, C, *spatial].

        Raises:
            DataError: as ``stored_image``.
        """
        return torch.stack([self.stored_image(index) for index in range(len(self))])

    @property
    def images(self) -> Tensor:
        """All images, [N, C, *spatial] float32 in [-1, 1]: read anew at every access.

        Raises:
            DataError: as ``stored_image``.
        """
        low, high = VALUE_RANGE
        return self.stored_images().sub(low).div(high - low).mul(2).sub(1)


def read_release(datalist_file: str | os.PathLike[str]) -> Release:
    """Read a release that ``write_synthetic`` wrote, the section ``training`` of its data list.

    Args:
        datalist_file: the data list, or the folder that holds it.

    Raises:
        DataError: if there is no release or no image in it, or an image is missing, unreadable or of another size,
            channel count or geometry than the first. What only decoding shows is found when an image is read.
    """
    datalist = _read_datalist(Path(datalist_file).absolute())
    items = datalist.sections["training"]
    paths: list[str] = [item["image"] for item in items]
    shape, affine = _header(paths[0])
    for path in paths[1:]:
        other_shape, other_affine = _header(path)
        if other_shape != shape or not np.allclose(other_affine, affine):
            raise DataError(
                f"{path} has the shape {list(other_shape)} and {paths[0]} {list(shape)}, or their affines differ, but "
                "all images of a release share both: write the release again."
            )
    img_channels, *img_size = shape
    return Release(
        folder=datalist.path.parent,
        paths=paths,
        labels=[item["label"] for item in items],
        label_names=datalist.labels,
        groups=[item["subject"] for item in items],
        img_size=tuple(img_size),
        img_channels=img_channels,
        affine=affine,
        digest=digest(datalist.path, *map(Path, paths)),
    )


@cache
def _loader() -> LoadImage:
    return LoadImage(ensure_channel_first=True)


def _read_datalist(path: Path) -> Datalist:
    """The data list of a release, with at least one sample, all files there."""
    file = path / DATALIST_NAME if path.is_dir() else path
    if not file.is_file():
        raise DataError(
            f"{file.parent} holds no {file.name}: give the folder of a release, made by the stage synthesize."
        )
    datalist = read_datalist(file)
    items = datalist.sections["training"]
    if not items:
        raise DataError(f'{datalist.path} has no samples in "training": make the release again.')
    missing = [item["image"] for item in items if not os.path.isfile(item["image"])]
    if missing:
        raise DataError(
            f"{missing[0]}, listed in {datalist.path}, does not exist ({len(missing)} of {len(items)} are missing): "
            "copy the release whole."
        )
    return datalist


def _header(path: str) -> tuple[tuple[int, ...], np.ndarray]:
    """The shape [C, *spatial] and the affine [4, 4] of an image file, without decoding it."""
    try:
        if path.endswith(".png"):
            with Image.open(path) as image:
                return (len(image.getbands()), *image.size), np.eye(4)
        volume = nibabel.Nifti1Image.from_filename(path)
        return (1, *volume.shape), np.asarray(volume.affine, dtype=float)
    except Exception as error:  # readers raise what they like on a damaged file
        raise DataError(f"{path} cannot be read ({first_line(error)}): write the release again.") from error
