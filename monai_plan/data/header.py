"""What every format says of an image before its pixels are read, and the refusal of what has no right value."""

from __future__ import annotations

from dataclasses import dataclass

import nibabel.orientations
import numpy as np

from monai_plan.utils import DataError

LEAST_MM, MOST_MM = 1e-4, 100.0  # of a voxel: microscopes have the least


class ImageRefusedError(DataError):
    """An image that cannot be shown rightly, or not at all. The text is the predicate of a sentence on the file.

    Attributes:
        mend: the config id that may be wrong instead of the image; empty if none.
    """

    def __init__(self, text: str, mend: str = "") -> None:
        super().__init__(text)
        self.mend = mend


@dataclass(frozen=True)
class ImageHeader:
    """What a file says of its image, read without the pixels.

    Attributes:
        channels: 1, or 3 for colour.
        size: elements of each spatial axis, 2 or 3 of them.
        bits: bits that a stored value uses; None where values are real numbers.
        value_range: least and greatest value that the file can hold, after rescaling; None where there is no end.
        modality: of DICOM ("CT", "DX"), else empty.
        frames: frames of a film, whose third axis is no place; 0 where there is none.
        sided: whether a volume says where left and right are.
    """

    channels: int
    size: tuple[int, ...]
    bits: int | None
    value_range: tuple[float, float] | None
    modality: str = ""
    frames: int = 0
    sided: bool = True


def ras_size(size: tuple[int, ...], affine: np.ndarray) -> tuple[int, ...]:
    """The size [X, Y, Z] of a volume once it is turned by ``to_ras``; as it is if its affine has no direction."""
    if not np.isfinite(affine).all():
        return size
    axes = nibabel.orientations.io_orientation(affine)[:, 0]
    return size if np.isnan(axes).any() else tuple(size[list(axes).index(axis)] for axis in range(3))


def to_ras(pixels: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turn and mirror a volume, so that its axes run to the patient's right, front and head as nearly as they can.

    No value is changed.

    Args:
        pixels: [C, X, Y, Z].
        affine: [4, 4], voxel to RAS+ millimetres.

    Returns:
        The volume and its affine.

    Raises:
        ImageRefusedError: if the affine is not finite, has no inverse, or makes voxels of no size that there is.
    """
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) <= 1e-6 * sizes.prod():
        raise ImageRefusedError("has an affine without inverse, so that nobody knows which way is up: mend its header")
    along = sizes[np.array(pixels.shape[1:]) > 1]
    if along.size and not LEAST_MM <= along.min() <= along.max() <= MOST_MM:
        raise ImageRefusedError(
            f"has voxels of {' x '.join(f'{mm:.3g}' for mm in sizes)} mm by its header, but voxels have "
            f"{LEAST_MM:g} to {MOST_MM:g} mm along each axis: mend its spacing or the unit of that"
        )
    turn = nibabel.orientations.io_orientation(affine)
    turned = nibabel.orientations.apply_orientation(np.moveaxis(pixels, 0, -1), turn)  # it takes leading axes
    return np.moveaxis(turned, -1, 0), affine @ nibabel.orientations.inv_ornt_aff(turn, pixels.shape[1:])
