"""The one reader: of any format, the values that a viewer shows, with the axes of MONAI's ``LoadImage``."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms import MapTransform, Spacing

from monai_plan.data.dicom import DICOM_SUFFIXES, dicom_header, dicom_pixels, is_dicom
from monai_plan.data.header import ImageHeader, ImageRefusedError
from monai_plan.data.raster import raster_header, raster_pixels
from monai_plan.data.volumes import volume_header, volume_pixels

RASTER_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".jp2")
VOLUME_SUFFIXES = (".nii", ".nii.gz", ".mgh", ".mgz", ".img", ".hdr")
# Of files without a suffix that is known.
MARKS = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def image_kind(path: str | os.PathLike[str]) -> str | None:
    """Which reader a file needs, "raster", "volume" or "dicom", by its name or, where that says nothing, its mark.

    Returns:
        None for what is no image.
    """
    name = os.fspath(path).lower()
    for kind, suffixes in (("raster", RASTER_SUFFIXES), ("volume", VOLUME_SUFFIXES), ("dicom", DICOM_SUFFIXES)):
        if name.endswith(suffixes):
            return kind
    if os.path.isdir(path):
        return "dicom"
    if not os.path.isfile(path):  # a pipe would be waited for
        return None
    try:
        with open(path, "rb") as file:
            mark = file.read(8)
        return "raster" if mark.startswith(MARKS) else "dicom" if is_dicom(path) else None
    except OSError:
        return None


def _kind(path: str | os.PathLike[str]) -> str:
    kind = image_kind(path)
    if kind is None:
        raise ImageRefusedError(
            f"has neither a suffix ({', '.join((*RASTER_SUFFIXES, *VOLUME_SUFFIXES, *DICOM_SUFFIXES))}) nor the mark "
            "of an image: convert it"
        )
    return kind


def image_header(path: str | os.PathLike[str]) -> ImageHeader:
    """What a file says of its image, without reading the pixels.

    Args:
        path: a file, or the folder of one DICOM series.

    Raises:
        ImageRefusedError: if the image cannot be shown rightly. Readers raise other errors on damaged files.
    """
    return {"raster": raster_header, "volume": volume_header, "dicom": dicom_header}[_kind(path)](path)


def read_image(path: str | os.PathLike[str], *, spacing: Sequence[float] | None = None) -> MetaTensor:
    """Read one image with the values that a viewer shows.

    Palettes, EXIF's orientation, DICOM's rescaling, modality LUT, inversion and padding are applied; volumes are
    brought to RAS. No value is scaled to a range: that is ``ScaleShownd``'s.

    Args:
        path: PNG, JPEG, BMP, TIFF, GIF, WebP, JPEG 2000, NIfTI, MGH, DICOM, or the folder of one DICOM series.
        spacing: if given, millimetres of an element along each axis, to which the image is resampled.

    Returns:
        [1 or 3, X, Y] or [1 or 3, X, Y, Z], float32, on the CPU, with ``affine`` [4, 4], voxel to RAS+ millimetres.

    Raises:
        ImageRefusedError: if the image cannot be shown rightly. Readers raise other errors on damaged files.
    """
    kind = _kind(path)
    affine = None
    if kind == "raster":
        pixels = raster_pixels(path)
    else:
        pixels, affine = (volume_pixels if kind == "volume" else dicom_pixels)(path)
    values = torch.from_numpy(_as_float32(pixels))
    image = MetaTensor(values, affine=None if affine is None else torch.from_numpy(affine.copy()))
    if spacing is None:
        return image
    if kind == "raster":
        raise ImageRefusedError("has no spacing in millimetres, so do without the id spacing", "spacing")
    if len(spacing) != values.ndim - 1:
        raise ImageRefusedError(
            f"has {values.ndim - 1} axes, but spacing {list(spacing)} has {len(spacing)} values", "spacing"
        )
    return cast(MetaTensor, Spacing(pixdim=spacing, padding_mode="border", dtype=None)(image))


def _as_float32(pixels: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        values = pixels.astype("float32", order="C")
    if pixels.dtype == np.float64 and np.isinf(values).sum() > np.isinf(pixels).sum():
        raise ImageRefusedError("has values beyond 3.4e38, the most that 32 bits hold: store it in another unit")
    return values


class LoadShownImaged(MapTransform):
    """Load images with the values that a viewer shows, see ``read_image``; in the place of MONAI's ``LoadImaged``.

    Use it where data come from clinics: MONAI's readers hand out palette indices, inverted radiographs, rows and
    columns of turned photographs, and volumes in whichever frame each was stored.

    Args:
        keys: of paths, replaced by MetaTensors [C, *spatial], float32.
        spacing: see ``read_image``.
        allow_missing_keys: do not raise an error if a key is missing.
    """

    def __init__(
        self, keys: KeysCollection, spacing: Sequence[float] | None = None, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.spacing = spacing

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Load what the keys name.

        Raises:
            ImageRefusedError: as ``read_image``.
        """
        loaded = dict(data)
        for key in self.key_iterator(loaded):
            loaded[key] = read_image(loaded[key], spacing=self.spacing)
        return loaded
