"""NIfTI and the other formats of nibabel: one volume, or one slice, in the RAS frame."""

from __future__ import annotations

import os
from typing import Any

import nibabel
import numpy as np

from monai_plan.data.header import ImageHeader, ImageRefusedError, ras_size, to_ras

RGB = ("R", "G", "B")
MILLIMETRES = {1: 1e3, 3: 1e-3}  # by NIfTI's codes of a metre and of a micrometre; 2, or none, are millimetres


def volume_header(path: str | os.PathLike[str]) -> ImageHeader:
    """What the file says of its volume; of a single slice the size has two axes."""
    return _header(nibabel.load(path))


def _header(image: Any) -> ImageHeader:
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (2, 3):
        raise ImageRefusedError(
            f"has {len(shape)} axes, {' x '.join(map(str, shape))}: a series in time or of several contrasts; write "
            "the volume that is meant to a file of its own"
        )
    stored = image.get_data_dtype()
    if stored.kind == "c":
        raise ImageRefusedError("has complex values: write their magnitude")
    if stored.names is not None and stored.names[:3] != RGB:
        raise ImageRefusedError(f"has values of the parts {', '.join(stored.names)}: write it as grey or RGB")
    _check_directions(image)
    channels = 3 if stored.names is not None else 1
    size = shape
    if len(shape) == 3:
        size = ras_size(shape, _affine(image))
        size = tuple(n for n in size if n > 1) if sum(n > 1 for n in size) == 2 else size
    slope, intercept = getattr(image.dataobj, "slope", 1.0), getattr(image.dataobj, "inter", 0.0)
    eight = stored.names is not None or (stored == np.uint8 and (slope, intercept) == (1.0, 0.0))
    sided = len(shape) == 2 or _is_sided(image)
    return ImageHeader(channels, size, 8 if eight else None, (0.0, 255.0) if eight else None, sided=sided)


def _is_sided(image: Any) -> bool:
    """Whether a header says where left and right are: ANALYZE has no place for it, NIfTI's can be empty."""
    if hasattr(image, "get_qform"):
        return bool(image.header["sform_code"] or image.header["qform_code"])
    return not isinstance(image, nibabel.AnalyzeImage)


def volume_pixels(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """[C, X, Y] or [C, X, Y, Z], rescaled, in the type that is stored, and the affine [4, 4], voxel to RAS+ mm."""
    image: Any = nibabel.load(path)
    header = _header(image)
    values = np.asanyarray(image.dataobj)
    shape = [*values.shape[:3], *[1] * (3 - values.ndim)]
    if values.dtype.names is not None:
        if "A" in values.dtype.names and (values["A"] != 255).any():
            raise ImageRefusedError("is transparent in places, which every viewer fills as it likes: flatten it")
        values = np.stack([values[name] for name in RGB])
    pixels, affine = to_ras(values.reshape(header.channels, *shape), _affine(image))
    if len(header.size) == 2:
        flat = [axis for axis in range(3) if pixels.shape[axis + 1] == 1][-1]
        pixels = pixels.squeeze(flat + 1)
        kept = [axis for axis in range(3) if axis != flat]
        affine = affine[:, [*kept, flat, 3]]
    return pixels, affine


def _check_directions(image: Any) -> None:
    """Whether the two directions that a NIfTI header can hold agree on which side is which."""
    if not hasattr(image, "get_qform"):
        return
    affines = [
        affine for affine in (image.get_sform(coded=True)[0], image.get_qform(coded=True)[0]) if affine is not None
    ]
    if len(affines) == 2 and all(np.isfinite(affine).all() for affine in affines):
        sform, qform = ("".join(map(str, nibabel.aff2axcodes(affine))) for affine in affines)
        if sform != qform:
            raise ImageRefusedError(
                f"has a header of two minds on what is left and right: its sform says {sform}, its qform {qform}, and "
                "viewers follow one or the other: make them agree"
            )


def _affine(image: Any) -> np.ndarray:
    """[4, 4], voxel to RAS+ millimetres, whatever unit the header names."""
    if image.affine is None:
        return np.eye(4)
    affine = np.array(image.affine, dtype=float)
    if isinstance(image, nibabel.Nifti1Pair):
        affine[:3] *= MILLIMETRES.get(int(image.header["xyzt_units"]) & 7, 1.0)
    return affine
