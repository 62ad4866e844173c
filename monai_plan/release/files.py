"""The image files of a release, PNG and NIfTI-1 as they are written here: what they promise, and their values.

Whoever reads a release has it from somebody else. A file is told by its content, its size is judged before anything is
decoded, and no other decoder is reached.
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from monai_plan.utils import DataError, first_line

__all__ = ["StoredHeader", "read_header", "read_values"]

MOST_VALUES = 2**28  # of an image: 640 voxels along each of three axes
MOST_PER_BYTE = 100  # values in a byte of a compressed file, beyond the first 2**20 values; images have about 2
_PNG, _NIFTI = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"n+1\0"


@dataclass(frozen=True, eq=False)
class StoredHeader:
    """What a file says of its image.

    Attributes:
        shape: [C, *spatial].
        affine: [4, 4], float64, voxel to RAS+ millimetres; the identity in 2D.
        offset: bytes before the values of a NIfTI file; 0 of a PNG.
    """

    shape: tuple[int, ...]
    affine: np.ndarray
    offset: int = 0


def read_header(path: str) -> StoredHeader:
    """The header of an image file, of which nothing is decoded.

    Raises:
        DataError: if it is no such file, or promises more than it can hold.
    """
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            start = file.read(348)
        kinds = {".png": _png_header, ".nii": _nifti_header}
        header = kinds.get(Path(path).suffix.lower(), _no_header)(start, size)
        if not 0 < math.prod(header.shape) <= min(MOST_VALUES, max(2**20, MOST_PER_BYTE * size)):
            raise ValueError(f"its {size} bytes promise {' x '.join(map(str, header.shape))} values")
    except Exception as error:  # nibabel raises what it likes on a damaged header
        raise DataError(f"{path} cannot be read ({first_line(error).rstrip('.')}): write the release again.") from error
    return header


def _no_header(start: bytes, size: int) -> StoredHeader:
    raise ValueError("its name ends with neither .png nor .nii")


def _png_header(start: bytes, size: int) -> StoredHeader:
    if not start.startswith(_PNG):
        raise ValueError("it is no PNG")
    width, height, bits, colour = struct.unpack_from(">IIBB", start, len(_PNG))
    if bits != 8 or colour not in (0, 2):
        raise ValueError(f"it has {bits} bits per value and colour type {colour}, not 8 bits, grey (0) or RGB (2)")
    return StoredHeader((1 if colour == 0 else 3, width, height), np.eye(4))


def _nifti_header(start: bytes, size: int) -> StoredHeader:
    if start[344:] != _NIFTI:
        raise ValueError("it is no uncompressed NIfTI-1 file")
    header = nibabel.Nifti1Header(start, check=False)
    shape, offset, affine = header.get_data_shape(), int(header["vox_offset"]), header.get_best_affine()
    if len(shape) != 3 or header.get_data_dtype() != np.uint8 or header.get_slope_inter() not in ((None, None), (1, 0)):
        raise ValueError("it is no volume of three axes with 8 bits per value, unscaled")
    if offset < 352 or offset + math.prod(shape) != size or not np.isfinite(affine).all():
        raise ValueError(f"its header promises {' x '.join(map(str, shape))} values, its size is {size} bytes")
    return StoredHeader((1, *map(int, shape)), np.asarray(affine, dtype=float), offset)


def read_values(path: str, header: StoredHeader) -> Tensor:
    """The values of an image, uint8 [C, *spatial], with the axes that MONAI's ``LoadImage`` gives.

    Raises:
        DataError: if the file is damaged.
    """
    try:
        if header.offset:
            count = math.prod(header.shape)
            values = np.fromfile(path, np.uint8, count, offset=header.offset).reshape(header.shape, order="F")
        else:
            with Image.open(path, formats=["PNG"]) as image:
                rows = np.asarray(image)
            values = rows.reshape(*header.shape[:0:-1], header.shape[0]).transpose(2, 1, 0)
        return torch.from_numpy(np.ascontiguousarray(values))
    except Exception as error:  # decoders raise what they like on a damaged file
        raise DataError(f"{path} cannot be read ({first_line(error).rstrip('.')}): write the release again.") from error
