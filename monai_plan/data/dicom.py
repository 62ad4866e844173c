"""DICOM with the values that a viewer shows: one image, a volume of frames, or a folder that holds one series."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from monai_plan.data.header import ImageHeader, ImageRefusedError, ras_size, to_ras
from monai_plan.utils import first_line

GREY, PALETTE = ("MONOCHROME1", "MONOCHROME2"), "PALETTE COLOR"
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
SPACING_TOLERANCE = 0.02  # of the distance of two slices


class _NoImageError(ImageRefusedError):
    """A DICOM object that is no image: a report, a directory of files."""


def is_dicom(path: str | os.PathLike[str]) -> bool:
    """Whether a file has the mark of DICOM, which its name need not say."""
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def dicom_header(path: str | os.PathLike[str]) -> ImageHeader:
    """What the file, or the folder of one series, says of its image."""
    if os.path.isdir(path):
        slices = _series(path)
        header = _header(slices[0])
        if len(slices) == 1:
            return header
        first = _plane(slices[0], slices[0], slices[0])
        size = (*header.size[:2], len(slices))
        return replace(header, size=size if first is None else ras_size(size, first))
    return _header(_read(path, pixels=False))


def dicom_pixels(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """The image [1 or 3, X, Y] or the volume [1 or 3, X, Y, Z] and its affine [4, 4], voxel to RAS+ millimetres.

    X runs along the columns of a 2D image, from left to right; a volume whose place is known is brought to RAS.
    """
    if not os.path.isdir(path):
        dataset = _read(path)
        pixels = _shown(dataset)
        if pixels.ndim == 3:
            return pixels, np.diag([*_spacing(dataset), 1.0, 1.0])
        return _placed(pixels, _frame_planes(dataset), "frames")
    slices = _series(path)
    if len(slices) == 1:
        return dicom_pixels(slices[0].filename)
    images = [_shown(_read(dataset.filename)) for dataset in slices]
    shapes = sorted({image.shape for image in images})
    if len(shapes) > 1 or len(shapes[0]) > 3:
        raise ImageRefusedError(f"is a series of slices of different shapes, {shapes[0]} and {shapes[-1]}: split it")
    return _placed(np.stack(images, axis=-1), [_plane(dataset, dataset, dataset) for dataset in slices], "slices")


def _read(path: str | os.PathLike[str], *, pixels: bool = True) -> Any:
    try:
        import pydicom
    except ImportError as error:
        raise ImageRefusedError(
            "is DICOM, which needs pydicom: pip install 'monai_plan[dicom]' (the path of a checkout in its place)"
        ) from error
    try:
        dataset = pydicom.dcmread(path, force=True, stop_before_pixels=not pixels)
    except Exception as error:  # pydicom raises what it likes on a damaged file
        raise ImageRefusedError(f"cannot be read as DICOM: {first_line(error)}") from error
    if "Rows" not in dataset or "Columns" not in dataset:
        if not (dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID")):
            raise ImageRefusedError(
                "is damaged or no DICOM, for it has neither Rows (0028,0010) nor SOPClassUID: leave it out"
            )
        kind = f"a {dataset.Modality} object" if dataset.get("Modality") else "DICOM"
        raise _NoImageError(f"is {kind} without an image, for it has no Rows (0028,0010): leave it out")
    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    return dataset


def _header(dataset: Any) -> ImageHeader:
    photometric = dataset.get("PhotometricInterpretation", "MONOCHROME2")
    if photometric not in (*GREY, *COLOUR, PALETTE):
        raise ImageRefusedError(
            f"has the PhotometricInterpretation (0028,0004) {photometric!r}, of which no right value is known: convert "
            "it to MONOCHROME2 or RGB"
        )
    if dataset.get("Modality") == "RTDOSE":
        raise ImageRefusedError("is a dose (RTDOSE), which no viewer shows as an image: write it as NIfTI")
    _check_bits(dataset)
    frames = int(dataset.get("NumberOfFrames") or 1)
    size = (int(dataset.Columns), int(dataset.Rows), *([frames] if frames > 1 else []))
    film = 0
    if frames > 1:
        first = _frame_planes(dataset)[0]
        film = frames if first is None else 0
        size = size if first is None else ras_size(size, first)
    low_high = _value_range(dataset)
    bits = None if low_high is None else _bits(dataset)
    return ImageHeader(
        1 if photometric in GREY else 3, size, bits, low_high, str(dataset.get("Modality", "")), frames=film
    )


def _check_bits(dataset: Any) -> None:
    bits, high = dataset.get("BitsStored"), dataset.get("HighBit")
    if bits is not None and high is not None and high != bits - 1:
        raise ImageRefusedError(
            f"has HighBit (0028,0102) {high} with {bits} bits stored, a way of storing that was given up and that "
            "readers take for another: convert it"
        )
    for frame in range(int(dataset.get("NumberOfFrames") or 1)):
        slope, intercept = _rescale(dataset, frame)
        if slope == 0.0 or not np.isfinite([slope, intercept]).all():
            raise ImageRefusedError(
                f"has RescaleSlope (0028,1053) {slope:g} and RescaleIntercept (0028,1052) {intercept:g}, which leave "
                "no picture: mend its header"
            )


def _bits(dataset: Any) -> int:
    if dataset.get("PhotometricInterpretation") == PALETTE:
        return 8
    stored = int(dataset.BitsStored)
    return 8 if stored == 1 else stored


def _value_range(dataset: Any) -> tuple[float, float] | None:
    """The values that the file can hold, after rescaling; None for floating point."""
    if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset or "BitsStored" not in dataset:
        return None
    bits = _bits(dataset)
    if dataset.get("PhotometricInterpretation") not in GREY:
        return 0.0, 2.0**bits - 1
    if dataset.get("ModalityLUTSequence"):
        return 0.0, 2.0 ** int(dataset.ModalityLUTSequence[0].LUTDescriptor[2]) - 1
    signed = int(dataset.get("PixelRepresentation", 0))
    low, high = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)
    slope, intercept = _rescale(dataset, 0)
    ends = sorted((low * slope + intercept, high * slope + intercept))
    return ends[0], ends[1]


def _groups(dataset: Any, frame: int) -> list[Any]:
    """Where a multi-frame file says something of a frame: of it, of all, and the file itself."""
    own, shared = dataset.get("PerFrameFunctionalGroupsSequence"), dataset.get("SharedFunctionalGroupsSequence")
    return [*([own[frame]] if own and frame < len(own) else []), *([shared[0]] if shared else []), dataset]


def _rescale(dataset: Any, frame: int) -> tuple[float, float]:
    for group in _groups(dataset, frame):
        inner = group.get("PixelValueTransformationSequence")
        place = inner[0] if inner else group
        if place.get("RescaleSlope") is not None:
            return float(place.RescaleSlope), float(place.get("RescaleIntercept") or 0)
        if place.get("RescaleIntercept") is not None:
            return 1.0, float(place.RescaleIntercept)
    return 1.0, 0.0


def _shown(dataset: Any) -> np.ndarray:
    """The pixels as a viewer shows them, [C, X, Y] or [C, X, Y, F]."""
    header = _header(dataset)
    stored = _decoded(dataset)
    if header.channels == 3:
        rows = stored[None] if len(header.size) == 2 else stored  # [F, Y, X, 3]
    else:
        rows = (stored[None] if len(header.size) == 2 else stored)[..., None]
        rows = _as_shown_grey(dataset, rows, header)
    pixels = rows.transpose(3, 2, 1, 0)
    return pixels[..., 0] if len(header.size) == 2 else pixels


def _decoded(dataset: Any) -> np.ndarray:
    """The stored values; colour as RGB, palettes applied."""
    from pydicom.pixels import apply_color_lut, pixel_array

    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise ImageRefusedError("has no PixelData (7FE0,0010): it is an object without an image, or was cut")
    try:
        stored = pixel_array(dataset)
        _check_shape(dataset, stored.shape)
        if dataset.get("PhotometricInterpretation") == PALETTE:
            colours = apply_color_lut(stored, dataset)
            return colours >> 8 if colours.max() > 255 else colours  # entries of 16 bits, of which screens show 8
        return stored
    except ImageRefusedError:
        raise
    except Exception as error:  # pydicom and its plug-ins raise what they like
        syntax = dataset.file_meta.TransferSyntaxUID
        packages = "pip install pylibjpeg pylibjpeg-openjpeg python-gdcm"
        remedy = f": {packages}" if syntax.is_compressed and "missing" in str(error).lower() else ""
        raise ImageRefusedError(
            f"has pixels of the transfer syntax {syntax.name} that cannot be decoded ({first_line(error)}){remedy}"
        ) from error


def _check_shape(dataset: Any, found: tuple[int, ...]) -> None:
    """Whether the pixels are what the header says: pydicom hands out what is there."""
    frames, colour = int(dataset.get("NumberOfFrames") or 1), dataset.get("PhotometricInterpretation") in COLOUR
    said = (*([frames] if frames > 1 else []), int(dataset.Rows), int(dataset.Columns), *([3] if colour else []))
    if found != said:
        raise ImageRefusedError(
            f"has pixels of the shape {' x '.join(map(str, found))} where its header says {' x '.join(map(str, said))} "
            "(NumberOfFrames, Rows, Columns, PhotometricInterpretation): mend the header"
        )


def _as_shown_grey(dataset: Any, rows: np.ndarray, header: ImageHeader) -> np.ndarray:
    """Modality LUT or rescaling, inversion and padding, of [F, Y, X, 1]."""
    from pydicom.pixels import apply_modality_lut

    padding = _padding(dataset, rows)
    if int(dataset.get("BitsStored", 8)) == 1:
        rows = rows * np.uint8(255)
    elif dataset.get("ModalityLUTSequence"):
        rows = apply_modality_lut(rows, dataset)
    else:
        scales = [_rescale(dataset, frame) for frame in range(len(rows))]
        if any(scale != (1.0, 0.0) for scale in scales):
            slopes, intercepts = (np.reshape(part, (-1, 1, 1, 1)) for part in zip(*scales, strict=True))
            rows = (rows * slopes + intercepts).astype(np.float32)
    shape = str(dataset.get("PresentationLUTShape", ""))
    if dataset.get("PhotometricInterpretation") == "MONOCHROME1" or shape == "INVERSE":
        if header.value_range is None:
            raise ImageRefusedError("is MONOCHROME1 of floating point, which has no end to be turned at: turn it first")
        rows = np.float32(sum(header.value_range)) - rows.astype(np.float32)
    if padding is not None and padding.any() and not padding.all():
        rows = np.where(padding, rows[~padding].min(), rows)
    return rows


def _padding(dataset: Any, rows: np.ndarray) -> np.ndarray | None:
    """Where the stored values say that there is no image, which viewers show as black."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return None
    ends = np.array([value, dataset.get("PixelPaddingRangeLimit", value)])
    if rows.dtype.kind in "iu":  # many files say it without a sign where their pixels have one
        ends = ends.astype(rows.dtype)
    return (rows >= ends.min()) & (rows <= ends.max())


# ---- where slices lie ------------------------------------------------------------------------------------------------


def _spacing(dataset: Any) -> tuple[float, float]:
    """Millimetres along X and Y of one image; 1 where nothing is said."""
    down, right = dataset.get("PixelSpacing") or dataset.get("ImagerPixelSpacing") or (1.0, 1.0)
    return float(right), float(down)


def _plane(position: Any, orientation: Any, measures: Any) -> np.ndarray | None:
    """A slice's affine [4, 4] in DICOM's LPS+ millimetres, its third axis of length 1; None if no place is said."""
    if position.get("ImagePositionPatient") is None or orientation.get("ImageOrientationPatient") is None:
        return None
    right, down = np.reshape(np.asarray(orientation.ImageOrientationPatient, dtype=float), (2, 3))
    x, y = _spacing(measures)
    affine = np.eye(4)
    affine[:3] = np.stack([right * x, down * y, np.cross(right, down), position.ImagePositionPatient], axis=1)
    return affine


def _frame_planes(dataset: Any) -> list[np.ndarray | None] | list[None]:
    """Of every frame of a multi-frame file."""
    planes = []
    for frame in range(int(dataset.get("NumberOfFrames") or 1)):
        found: dict[str, Any] = {}
        for name in ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence"):
            found[name] = next((group[name][0] for group in _groups(dataset, frame) if group.get(name)), {})
        planes.append(_plane(*found.values()))
    return planes


def _placed(pixels: np.ndarray, planes: Any, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Sort slices [C, X, Y, S] along their normal, check that they are one volume, and bring it to RAS."""
    if all(plane is None for plane in planes):
        return pixels, np.eye(4)
    if any(plane is None for plane in planes):
        raise ImageRefusedError(f"has {what} without ImagePositionPatient (0020,0032) beside others that have it")
    normal = planes[0][:3, 2]
    if any(not np.allclose(plane[:3, :3], planes[0][:3, :3], atol=1e-3) for plane in planes):
        raise ImageRefusedError(f"has {what} of several orientations or spacings, and is no single volume: split it")
    heights = np.array([plane[:3, 3] @ normal for plane in planes])
    order = np.argsort(heights, kind="stable")
    steps = np.diff(heights[order])
    usual = float(np.median(steps))
    if (steps < SPACING_TOLERANCE * max(usual, 1e-3)).any():
        raise ImageRefusedError(f"has several {what} at one place (times, echoes or two series): split it")
    if np.abs(steps - usual).max() > max(SPACING_TOLERANCE * usual, 0.01):
        at = int(np.abs(steps - usual).argmax())
        raise ImageRefusedError(
            f"has {what} {steps[at]:.4g} mm apart where others are {usual:.4g} mm: some are missing, or it is no even "
            "stack"
        )
    affine = planes[order[0]].copy()
    affine[:3, 2] = (planes[order[-1]][:3, 3] - planes[order[0]][:3, 3]) / (len(planes) - 1)
    return to_ras(pixels[..., order], np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)


def _series(folder: str | os.PathLike[str]) -> list[Any]:
    """The headers of the slices of the one series in a folder, by InstanceNumber."""
    slices = []
    for file in sorted(Path(folder).iterdir()):
        named = file.name.lower().endswith(DICOM_SUFFIXES)
        if file.name.startswith(".") or not file.is_file() or not (named or is_dicom(file)):
            continue
        try:
            slices.append(_read(file, pixels=False))
        except _NoImageError:  # a report lies with many series
            continue
        except ImageRefusedError as error:
            raise ImageRefusedError(f"is a folder whose {file.name} {error}") from error
    if not slices:
        raise ImageRefusedError("is a folder without DICOM images: give one file, or the folder of a series")
    series = {str(dataset.get("SeriesInstanceUID", "")) for dataset in slices}
    if len(series) > 1:
        raise ImageRefusedError(f"is a folder of {len(series)} series: give each a folder of its own")
    return sorted(slices, key=lambda dataset: int(dataset.get("InstanceNumber") or 0))


def dicom_images(files: list[Path]) -> tuple[dict[Path, str], Counter[str]]:
    """What of some DICOM files is an image: single files, and the folder of a series of slices in its files' place.

    Args:
        files: DICOM, of any folders.

    Returns:
        PatientID (empty if there is none) by path, and how many files of which kind are left out: without an image
        (reports, DICOMDIR, ...) or damaged.

    Raises:
        ImageRefusedError: if a folder holds slices of several series, naming it, or pydicom is not installed.
    """
    images: dict[Path, str] = {}
    slices: dict[Path, dict[str, list[tuple[Path, str]]]] = defaultdict(lambda: defaultdict(list))
    left_out: Counter[str] = Counter()
    for file in files:
        try:
            dataset = _read(file, pixels=False)
        except _NoImageError:
            left_out["DICOM without an image"] += 1
            continue
        except ImageRefusedError as error:
            if isinstance(error.__cause__, ImportError):
                raise ImageRefusedError(f"{file} {error}") from error
            left_out["damaged DICOM"] += 1
            continue
        patient = str(dataset.get("PatientID") or "")
        if dataset.get("ImagePositionPatient") is None or int(dataset.get("NumberOfFrames") or 1) > 1:
            images[file] = patient
        else:
            slices[file.parent][str(dataset.get("SeriesInstanceUID", ""))].append((file, patient))
    for folder, series in slices.items():
        if all(len(members) == 1 for members in series.values()):
            images.update(member for members in series.values() for member in members)
        elif len(series) > 1 or any(file.parent == folder for file in images):
            raise ImageRefusedError(f"{folder} holds slices of {len(series)} series: give each a folder of its own")
        else:
            images[folder] = next(iter(series.values()))[0][1]
    return images, left_out
