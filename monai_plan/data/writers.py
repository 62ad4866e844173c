"""What is written: images, data sets that replace earlier ones whole, sheets of pictures.

Arrays have the axes that MONAI's ``LoadImaged`` gives back: the first spatial axis of a 2D image runs from left to
right, so that real and written images are seen the same way up.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from monai_plan.data.datalist import DATALIST_NAME
from monai_plan.utils import ConfigError, DataError, atomic_path, named_errors

IMAGES_FOLDER = "images"
LONGEST = 16  # pixels of the longest side of a voxel, where the shortest is one


def image_suffix(spatial_dims: int) -> str:
    """The suffix of the format in which images of this many axes are written."""
    return ".png" if spatial_dims == 2 else ".nii"


def write_image(
    path: str | os.PathLike[str], image: Tensor, *, affine: Sequence[Sequence[float]] | None = None
) -> None:
    """Write one image with 8 bits per value: as PNG in 2D, as NIfTI in 3D.

    A PNG is not compressed, nor is ``*.nii``: such files are about twice as large, and read in half the time or less
    (``benchmarks/transform.py``), at every epoch of everybody who trains on them.

    Args:
        path: the file, ``*.png``, ``*.nii`` or ``*.nii.gz``.
        image: [C, *spatial] in [0, 1] (values outside are clipped), with C 1 or 3 in 2D and 1 in 3D.
        affine: 4 x 4, voxel to RAS+ millimetres, of a volume; the identity if left out. PNG holds none.

    Raises:
        ConfigError: if the shape or the channel count cannot be written.
    """
    spatial_dims = image.ndim - 1
    if spatial_dims not in (2, 3) or image.shape[0] not in ((1, 3) if spatial_dims == 2 else (1,)):
        raise ConfigError(
            f"An image of shape {tuple(image.shape)} cannot be written: PNG holds [1 or 3, X, Y], NIfTI [1, X, Y, Z]."
        )
    pixels = (image.detach().float().cpu() * 255.0).round().clamp(0, 255).to(torch.uint8).numpy()
    if spatial_dims == 2:
        rows = np.ascontiguousarray(pixels.transpose(2, 1, 0))  # PNG is stored by rows: [Y, X, C]
        Image.fromarray(rows[..., 0] if rows.shape[-1] == 1 else rows).save(path, format="PNG", compress_level=0)
    else:
        volume = nibabel.Nifti1Image(pixels[0], np.eye(4) if affine is None else np.asarray(affine, dtype=float))
        volume.header.set_xyzt_units("mm")
        nibabel.save(volume, path)


@contextmanager
def replaced_dataset(output_dir: str | os.PathLike[str], *, pattern: str) -> Iterator[Path]:
    """Yield an empty sibling folder to build ``images/`` and ``datalist.json`` in; then move both to ``output_dir``.

    The data list comes last: while it is missing there is no data set, so a killed run leaves none or a whole one.
    Other files of ``output_dir`` stay as they are.

    Raises:
        DataError: if ``output_dir`` holds images or a data list of somebody else, told by names that do not match
            ``pattern``.
    """
    target = Path(output_dir).absolute()
    images, datalist = target / IMAGES_FOLDER, target / DATALIST_NAME
    foreign = (
        [file.name for file in images.iterdir() if not re.fullmatch(pattern, file.name)] if images.exists() else []
    )
    if datalist.exists():
        listed = re.findall(r'"image":\s*"([^"]*)"', datalist.read_text(encoding="utf-8", errors="replace"))
        foreign += [name for name in listed if not re.fullmatch(f"{IMAGES_FOLDER}/{pattern}", name)]
    if foreign:
        raise DataError(
            f"{target} holds a data set that was not written here (for instance {sorted(foreign)[0]}) and is not "
            "overwritten: choose another output folder."
        )
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with named_errors(target, temporary):
            (temporary / IMAGES_FOLDER).mkdir(parents=True)
            yield temporary
        target.mkdir(exist_ok=True)
        datalist.unlink(missing_ok=True)
        if images.exists():
            os.replace(images, temporary / "old")
        os.replace(temporary / IMAGES_FOLDER, images)
        os.replace(temporary / DATALIST_NAME, datalist)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def middle_planes(volumes: Tensor, *, background: float = 0.0, voxel_size: Sequence[float] = (1.0, 1.0, 1.0)) -> Tensor:
    """The three middle planes of volumes in RAS+, as pictures: axial, coronal and sagittal below each other.

    Args:
        volumes: [N, C, X, Y, Z].
        background: beside the narrower planes.
        voxel_size: along X, Y and Z, in mm: planes are drawn in their true proportions, longer voxels as several
            pixels, at most ``LONGEST`` of them.

    Returns:
        [N, C, columns, rows], of cubic voxels max(X, Y) columns and Y + 2 Z rows: front and head are at the top, and
        the patient's left and the front at the right, as NIfTI viewers show them.
    """
    x, y, z = (size // 2 for size in volumes.shape[2:])
    scale = [min(mm / min(voxel_size), LONGEST) for mm in voxel_size]
    columns, rows, slices = (round(size * times) for size, times in zip(volumes.shape[2:], scale, strict=True))
    planes = (
        functional.interpolate(volumes[..., z], size=(columns, rows)),
        functional.interpolate(volumes[:, :, :, y], size=(columns, slices)),
        functional.interpolate(volumes[:, :, x], size=(rows, slices)),
    )
    columns = max(columns, rows)
    padded = []
    for plane in planes:
        before = (columns - plane.shape[2]) // 2
        after = columns - plane.shape[2] - before
        padded.append(functional.pad(plane.flip(3), (0, 0, before, after), value=background))
    return torch.cat(padded, dim=3)


def contact_sheet(images: Tensor, *, columns: int, path: str | os.PathLike[str], zoom: int = 1) -> Path:
    """Write images as one PNG, row by row, with a black line between them; of volumes their ``middle_planes``.

    Args:
        images: [N, C, *spatial] in [-1, 1] (values outside are clipped), with C 1 or 3.
        columns: images in a row.
        path: the file, ``*.png``.
        zoom: every pixel is drawn as a square of this many pixels.

    Returns:
        The path.

    Raises:
        ConfigError: if there is no image, or the shape, ``columns`` or ``zoom`` cannot be drawn.
    """
    if images.ndim not in (4, 5) or len(images) == 0 or images.shape[1] not in (1, 3) or min(columns, zoom) < 1:
        raise ConfigError(
            f"A sheet needs images [N, 1 or 3, *2 or 3 spatial axes], columns and zoom of at least 1, but got "
            f"{tuple(images.shape)}, {columns} and {zoom}."
        )
    pictures = ((images.detach().float().cpu() + 1.0) / 2.0).clamp(0.0, 1.0)
    if pictures.ndim == 5:
        pictures = middle_planes(pictures)
    pictures = pictures.repeat_interleave(zoom, 2).repeat_interleave(zoom, 3)
    count, channels, width, height = pictures.shape
    rows = -(-count // columns)
    sheet = torch.zeros(channels, columns * (width + 1) - 1, rows * (height + 1) - 1)
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        x, y = column * (width + 1), row * (height + 1)
        sheet[:, x : x + width, y : y + height] = picture
    with atomic_path(path) as temporary:
        write_image(temporary, sheet)
    return Path(path)
