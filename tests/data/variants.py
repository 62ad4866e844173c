"""Files of every format and variant that clinics have, written here, with the values that a viewer shows.

``VARIANTS`` is what the tests of the reader go through, and the table in docs/own_data.md.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

ROWS, COLUMNS, SLICES = 10, 14, 6


def picture(seed: int = 0, rows: int = ROWS, columns: int = COLUMNS) -> np.ndarray:
    """[rows, columns], uint8: no two quarter turns or mirror images of it are alike."""
    ramp = np.linspace(150, 20, columns)[None].repeat(rows, 0)
    ramp[: rows // 3, : columns // 4] = 250
    return (ramp + np.random.default_rng(seed).integers(0, 5, ramp.shape)).astype(np.uint8)


def volume() -> np.ndarray:
    """[X, Y, Z], float32, in the RAS frame."""
    return np.stack([picture(z).T.astype(np.float32) + 10 * z for z in range(SLICES)], axis=-1)


def rgb(grey: np.ndarray) -> np.ndarray:
    return np.stack([grey, grey // 2, grey // 4], axis=-1)


def shown(rows: np.ndarray) -> np.ndarray:
    """Rows [Y, X] or [Y, X, C] as the reader gives them: [C, X, Y]."""
    return (rows[..., None] if rows.ndim == 2 else rows).transpose(2, 1, 0).astype(np.float32)


@dataclass(frozen=True)
class Variant:
    """One kind of file: what writes it, and what is read of it, or the text of its refusal."""

    format: str
    name: str
    write: Callable[[Path], Path]  # into a folder
    values: np.ndarray | None = None
    refusal: str = ""
    tolerance: float = 0.0
    at_best: np.ndarray | None = None  # what some versions of Pillow read of a file that is refused with others

    @property
    def id(self) -> str:
        return f"{self.format}, {self.name}"


# ---- pictures --------------------------------------------------------------------------------------------------------


def write_png16(path: Path, rows: np.ndarray) -> Path:
    """16 bits per channel, which Pillow does not write in colour: rows [Y, X, 1, 2, 3 or 4]."""
    height, width, channels = rows.shape
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    )
    return path


def write_tiff(path: Path, rows: np.ndarray, *, photometric: int, orientation: int = 1, big: bool = False) -> Path:
    """An uncompressed TIFF of one strip, in either byte order."""
    order = ">" if big else "<"
    height, width = rows.shape[:2]
    channels = rows.shape[2] if rows.ndim == 3 else 1
    bits = rows.dtype.itemsize * 8
    data = rows.astype(rows.dtype.newbyteorder(order)).tobytes()
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 274: orientation, 277: channels, 278: height}
    tags |= {273: 0, 279: len(data)}
    end = 8 + 2 + 12 * len(tags) + 4
    tags[273] = end + 8
    out = (b"MM\0*" if big else b"II*\0") + struct.pack(order + "IH", 8, len(tags))
    for tag, value in sorted(tags.items()):
        if tag == 258 and channels > 2:
            out += struct.pack(order + "HHII", tag, 3, channels, end)
        elif tag in (256, 257, 273, 278, 279):
            out += struct.pack(order + "HHII", tag, 4, 1, value)
        else:
            out += struct.pack(order + "HHIHH", tag, 3, 1, value, 0)
    path.write_bytes(out + struct.pack(order + "I4H", 0, *[bits] * 4) + data)
    return path


def saved(name: str, image: Callable[[], Image.Image], **options: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        image().save(folder / name, **options)
        return folder / name

    return write


def palette(grey: np.ndarray, colours: Callable[[int], tuple[int, int, int]]) -> Image.Image:
    values, places = np.unique(grey, return_inverse=True)
    image = Image.frombytes("P", grey.shape[::-1], places.reshape(grey.shape).astype(np.uint8).tobytes())
    image.putpalette([part for value in values for part in colours(int(value))])
    return image


def turned(rows: np.ndarray, orientation: int) -> np.ndarray:
    """What must be stored for ``rows`` to be shown with this EXIF orientation."""
    return {
        2: rows[:, ::-1], 3: rows[::-1, ::-1], 4: rows[::-1], 5: rows.swapaxes(0, 1), 6: np.rot90(rows),
        7: rows[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(rows, -1),
    }[orientation]  # fmt: skip


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x112] = orientation
    return tags


def with_alpha(rows: np.ndarray, alpha: int) -> Image.Image:
    return Image.fromarray(np.concatenate([rows, np.full((*rows.shape[:2], 1), alpha, np.uint8)], axis=-1))


GREY, DEEP = picture(), picture().astype(np.uint16) * 257 + 3
COLOUR, BITS = rgb(GREY), (GREY > 100)
DEEP_COLOUR = np.stack([DEEP, DEEP // 2, DEEP // 5], axis=-1)

PICTURES = [
    Variant("PNG", "8-bit grey", saved("a.png", lambda: Image.fromarray(GREY)), shown(GREY)),
    Variant("PNG", "16-bit grey", saved("a.png", lambda: Image.fromarray(DEEP)), shown(DEEP)),
    Variant("PNG", "1 bit", saved("a.png", lambda: Image.fromarray(BITS)), shown(BITS * 255)),
    Variant("PNG", "RGB", saved("a.png", lambda: Image.fromarray(COLOUR)), shown(COLOUR)),
    Variant("PNG", "16-bit RGB", lambda f: write_png16(f / "a.png", DEEP_COLOUR), shown(DEEP_COLOUR)),
    Variant("PNG", "grey palette", saved("a.png", lambda: palette(GREY, lambda v: (v, v, v))), shown(GREY)),
    Variant("PNG", "colour palette", saved("a.png", lambda: palette(GREY, lambda v: (v, v // 2, v // 4))),
            shown(COLOUR)),
    Variant("PNG", "opaque RGBA", saved("a.png", lambda: with_alpha(COLOUR, 255)), shown(COLOUR)),
    Variant("PNG", "transparent", saved("a.png", lambda: with_alpha(COLOUR, 90)), refusal="transparent in places"),
    Variant("PNG", "EXIF turned", saved("a.png", lambda: Image.fromarray(turned(GREY, 6)), exif=exif(6)), shown(GREY)),
    Variant("PNG", "animated", saved("a.png", lambda: Image.fromarray(GREY), save_all=True,
            append_images=[Image.fromarray(GREY[::-1])]), refusal="holds 2 frames"),
    Variant("PNG", "16-bit grey with alpha", lambda f: write_png16(f / "a.png", DEEP_COLOUR[..., :2]),
            refusal="16 bits in each of several channels"),
    Variant("PNG", "no suffix", lambda f: saved("a", lambda: Image.fromarray(GREY), format="PNG")(f), shown(GREY)),
    *[
        Variant("JPEG", f"EXIF {o}", saved("a.jpg", lambda o=o: Image.fromarray(turned(GREY, o).copy()), quality=100,
                exif=exif(o)), shown(GREY), tolerance=4)
        for o in range(2, 9)
    ],
    Variant("JPEG", "grey", saved("a.jpg", lambda: Image.fromarray(GREY), quality=100), shown(GREY), tolerance=4),
    Variant("JPEG", "RGB", saved("a.jpg", lambda: Image.fromarray(COLOUR), quality=100, subsampling=0), shown(COLOUR),
            tolerance=8),
    Variant("JPEG", "CMYK", saved("a.jpg", lambda: Image.fromarray(COLOUR).convert("CMYK")), refusal="mode CMYK"),
    Variant("BMP", "grey", saved("a.bmp", lambda: Image.fromarray(GREY)), shown(GREY)),
    Variant("BMP", "RGB", saved("a.bmp", lambda: Image.fromarray(COLOUR)), shown(COLOUR)),
    Variant("GIF", "one frame", saved("a.gif", lambda: Image.fromarray(GREY)), shown(GREY)),
    Variant("TIFF", "8-bit grey", lambda f: write_tiff(f / "a.tif", GREY, photometric=1), shown(GREY)),
    Variant("TIFF", "16-bit grey", lambda f: write_tiff(f / "a.tif", DEEP, photometric=1), shown(DEEP)),
    Variant("TIFF", "16-bit grey, big-endian", lambda f: write_tiff(f / "a.tif", DEEP, photometric=1, big=True),
            shown(DEEP)),
    Variant("TIFF", "16-bit RGB", lambda f: write_tiff(f / "a.tif", DEEP_COLOUR, photometric=2), shown(DEEP_COLOUR)),
    Variant("TIFF", "white is zero, 8 bits", lambda f: write_tiff(f / "a.tif", 255 - GREY, photometric=0), shown(GREY)),
    Variant("TIFF", "white is zero, 16 bits", lambda f: write_tiff(f / "a.tif", np.uint16(65535) - DEEP, photometric=0),
            shown(DEEP)),
    Variant("TIFF", "32-bit float", saved("a.tif", lambda: Image.fromarray(GREY.astype(np.float32) / 7)),
            shown(GREY.astype(np.float32) / 7)),
    *[
        Variant("TIFF", f"orientation {o}", lambda f, o=o: write_tiff(
                f / "a.tif", turned(DEEP, o).copy(), photometric=1, orientation=o), shown(DEEP))
        for o in (3, 5, 6, 8)
    ],
    Variant("TIFF", "compressed", saved("a.tiff", lambda: Image.fromarray(DEEP), compression="tiff_lzw"), shown(DEEP)),
    Variant("TIFF", "several pages", saved("a.tif", lambda: Image.fromarray(GREY), save_all=True,
            append_images=[Image.fromarray(GREY)]), refusal="holds 2 frames"),
    Variant("JPEG 2000", "16-bit grey", saved("a.jp2", lambda: Image.fromarray(DEEP)), shown(DEEP)),
    Variant("WebP", "RGB", saved("a.webp", lambda: Image.fromarray(COLOUR), lossless=True), shown(COLOUR)),
]  # fmt: skip

# ---- NIfTI -----------------------------------------------------------------------------------------------------------

RAS = np.diag([2.0, 3.0, 4.0, 1.0])


def nifti(values: np.ndarray, affine: np.ndarray = RAS, name: str = "a.nii.gz") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        nibabel.save(nibabel.Nifti1Image(values, affine), folder / name)
        return folder / name

    return write


def in_frame(codes: str) -> tuple[np.ndarray, np.ndarray]:
    """The volume as it is stored in another frame, and its affine."""
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(codes)
    )
    values = nibabel.orientations.apply_orientation(volume(), turn)
    return values, RAS @ nibabel.orientations.inv_ornt_aff(turn, volume().shape)


def rescaled(folder: Path) -> Path:
    image = nibabel.Nifti1Image(volume().astype(np.int16), RAS)
    image.header.set_slope_inter(0.5, -20)
    nibabel.save(image, folder / "a.nii")
    return folder / "a.nii"


def without_direction(folder: Path) -> Path:
    """A header whose rows of the affine are zero, which nibabel does not write."""
    path = nifti(volume(), name="a.nii")(folder)
    content = bytearray(path.read_bytes())
    content[280:328] = bytes(48)
    path.write_bytes(content)
    return path


COLOURED = np.zeros(volume().shape, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
for _channel, _factor in zip("RGB", (1, 2, 4), strict=True):
    COLOURED[_channel] = volume().astype(np.uint8) // _factor

VOLUMES = [
    Variant("NIfTI", "RAS", nifti(volume()), volume()[None]),
    *[Variant("NIfTI", codes, nifti(*in_frame(codes)), volume()[None]) for codes in ("LPS", "LAS", "ASR", "SPL")],
    Variant("NIfTI", "rescaled int16", rescaled, (volume().astype(np.int16) * np.float32(0.5) - 20)[None]),
    Variant("NIfTI", "uint8", nifti(volume().astype(np.uint8)), volume()[None].astype(np.uint8).astype(np.float32)),
    Variant("NIfTI", "two axes", nifti(volume()[..., 0], name="a.nii"), volume()[None, ..., 0]),
    Variant("NIfTI", "one slice", nifti(volume()[..., :1]), volume()[None, ..., 0]),
    Variant("NIfTI", "trailing axis of 1", nifti(volume()[..., None]), volume()[None]),
    Variant("NIfTI", "4D", nifti(np.stack([volume()] * 3, -1)), refusal="4 axes, 14 x 10 x 6 x 3"),
    Variant("NIfTI", "RGB", nifti(COLOURED), np.stack([COLOURED[c] for c in "RGB"]).astype(np.float32)),
    Variant("NIfTI", "complex", nifti(volume().astype(np.complex64)), refusal="complex values"),
    Variant("NIfTI", "no direction", without_direction, refusal="affine without inverse"),
    Variant("MGH", "RAS", lambda f: (nibabel.save(nibabel.MGHImage(volume(), RAS), f / "a.mgz"), f / "a.mgz")[1],
            volume()[None]),
]  # fmt: skip

# ---- DICOM -----------------------------------------------------------------------------------------------------------


def dicom(path: Path, stored: np.ndarray, photometric: str = "MONOCHROME2", *, bits: int = 0, **tags: Any) -> Path:
    """Stored values [rows, columns], [rows, columns, 3], or [frames, rows, columns] with ``NumberOfFrames``."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.Modality, dataset.PatientID, dataset.InstanceNumber = "DX", "p", 1
    colour = stored.ndim > 2 and stored.shape[-1] == 3
    dataset.Rows, dataset.Columns = stored.shape[-3:-1] if colour else stored.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3 if colour else 1, photometric
    if colour:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = stored.dtype.itemsize * 8
    dataset.BitsStored = bits or dataset.BitsAllocated
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, int(stored.dtype.kind == "i")
    for name, value in tags.items():
        setattr(dataset, name, value)
    if stored.dtype.kind != "f":
        dataset.PixelData = stored.tobytes()
        dataset["PixelData"].VR = "OB" if stored.dtype.itemsize == 1 else "OW"
    else:
        dataset.FloatPixelData = stored.tobytes()
        del dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation
    syntax = tags.get("compressed_by")
    if syntax is not None:
        del dataset.compressed_by
        dataset.compress(syntax, generate_instance_uid=False)
    dataset.save_as(path, enforce_file_format=True)
    return path


def grey_dicom(stored: np.ndarray, photometric: str = "MONOCHROME2", **tags: Any) -> Callable[[Path], Path]:
    return lambda folder: dicom(folder / "a.dcm", stored, photometric, **tags)


def lut_item(entries: np.ndarray, first: int = 0) -> Dataset:
    item = Dataset()
    item.LUTDescriptor = [len(entries), first, 16]
    item.LUTData = entries.astype(np.uint16).tobytes()
    item["LUTData"].VR = "OW"
    return item


def palette_tags() -> dict[str, Any]:
    tags: dict[str, Any] = {}
    for name, factor in (("Red", 1), ("Green", 2), ("Blue", 4)):
        entries = np.arange(256, dtype=np.uint16) // factor * 257
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        tags[f"{name}PaletteColorLookupTableData"] = entries.tobytes()
    return tags


def ybr(colours: np.ndarray) -> np.ndarray:
    r, g, b = np.moveaxis(colours.astype(float), -1, 0)
    y = 0.299 * r + 0.587 * g + 0.114 * b
    return np.stack([y, 128 + (b - y) / 1.772, 128 + (r - y) / 1.402], axis=-1).round().clip(0, 255).astype(np.uint8)


def jpeg(path: Path, grey: np.ndarray) -> Path:
    """Baseline JPEG in a DICOM file."""
    import io

    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "JPEG", quality=100)
    dataset = pydicom.dcmread(dicom(path, grey))
    dataset.PixelData = pydicom.encaps.encapsulate([buffer.getvalue()])
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEGBaseline8Bit
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path, enforce_file_format=True)
    return path


STORED = volume().astype(np.uint16).transpose(2, 1, 0)  # [slices, rows, columns], the lowest slice first
IN_RAS = volume()[:, ::-1][::-1].copy()[None]  # a patient on the back, feet first in the stack: see ``plane``


def plane(number: int, apart: float = 4.0) -> dict[str, Any]:
    """The place of an axial slice whose rows run to the patient's left and whose columns run to the back (LPS)."""
    return {
        "ImagePositionPatient": [0.0, 0.0, apart * number],
        "ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        "PixelSpacing": [3.0, 2.0],
    }


def series(
    folder: Path, *, order: list[int] | None = None, apart: float = 4.0, drop: int | None = None, **tags: Any
) -> Path:
    """A folder with the slices of one series, numbered against their places."""
    place = folder / "series"
    place.mkdir()
    uid = generate_uid()
    for number in order or range(SLICES):
        if number != drop:
            dicom(place / f"{SLICES - number:03d}.dcm", STORED[number], SeriesInstanceUID=uid,
                  InstanceNumber=SLICES - number, **({**plane(number, apart), **tags}))  # fmt: skip
    return place


def enhanced(folder: Path, *, order: list[int]) -> Path:
    """A multi-frame file whose frames say where they lie and how they are rescaled, in any order."""
    frames, shared = [], Dataset()
    for number in order:
        frame, position, scale = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = plane(number)["ImagePositionPatient"]
        scale.RescaleSlope, scale.RescaleIntercept = 2.0, float(number)
        frame.PlanePositionSequence, frame.PixelValueTransformationSequence = [position], [scale]
        frames.append(frame)
    orientation, measures = Dataset(), Dataset()
    orientation.ImageOrientationPatient = plane(0)["ImageOrientationPatient"]
    measures.PixelSpacing = plane(0)["PixelSpacing"]
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    return dicom(folder / "a.dcm", STORED[order], NumberOfFrames=len(order), PerFrameFunctionalGroupsSequence=frames,
                 SharedFunctionalGroupsSequence=[shared])  # fmt: skip


def without_pixels(folder: Path) -> Path:
    dataset = pydicom.dcmread(dicom(folder / "a.dcm", GREY))
    del dataset.PixelData
    dataset.save_as(folder / "a.dcm")
    return folder / "a.dcm"


TWELVE = (GREY.astype(np.uint16) * 16 + 3).astype(np.uint16)
LARGE = picture(rows=48, columns=64).astype(np.uint16) * 16 + 3  # the encoder wants some room
SIGNED = GREY.astype(np.int16) * 8 - 1000
PADDED = np.where(np.arange(COLUMNS) > COLUMNS - 3, np.int16(-2000), SIGNED)
LUT = (np.arange(256) * 7 % 4096).astype(np.uint16)

DICOMS = [
    Variant("DICOM", "8-bit grey", grey_dicom(GREY), shown(GREY)),
    Variant("DICOM", "12 of 16 bits", grey_dicom(TWELVE, bits=12), shown(TWELVE)),
    Variant("DICOM", "MONOCHROME1", grey_dicom(np.uint16(4095) - TWELVE, "MONOCHROME1", bits=12), shown(TWELVE)),
    Variant("DICOM", "PresentationLUTShape INVERSE",
            grey_dicom(np.uint16(4095) - TWELVE, bits=12, PresentationLUTShape="INVERSE"), shown(TWELVE)),
    Variant("DICOM", "MONOCHROME1 with INVERSE",
            grey_dicom(np.uint16(4095) - TWELVE, "MONOCHROME1", bits=12, PresentationLUTShape="INVERSE"),
            shown(TWELVE)),
    Variant("DICOM", "rescale slope and intercept", grey_dicom(SIGNED, RescaleSlope=0.5, RescaleIntercept=-24),
            shown(SIGNED * 0.5 - 24)),
    Variant("DICOM", "MONOCHROME1, rescaled",
            grey_dicom(np.uint16(4095) - TWELVE, "MONOCHROME1", bits=12, RescaleSlope=2, RescaleIntercept=-100),
            shown(TWELVE * 2.0 - 100)),
    Variant("DICOM", "modality LUT", grey_dicom(GREY, ModalityLUTSequence=[lut_item(LUT)]), shown(LUT[GREY])),
    Variant("DICOM", "pixel padding", grey_dicom(PADDED, PixelPaddingValue=-2000),
            shown(np.where(PADDED == -2000, PADDED[PADDED > -2000].min(), PADDED))),
    Variant("DICOM", "RGB", grey_dicom(COLOUR, "RGB"), shown(COLOUR)),
    Variant("DICOM", "RGB by planes",
            lambda f: _by_planes(dicom(f / "a.dcm", COLOUR, "RGB", PlanarConfiguration=1)), shown(COLOUR)),
    Variant("DICOM", "YBR_FULL", grey_dicom(ybr(COLOUR), "YBR_FULL"), shown(COLOUR), tolerance=2),
    Variant("DICOM", "PALETTE COLOR", grey_dicom(GREY, "PALETTE COLOR", **palette_tags()), shown(COLOUR)),
    Variant("DICOM", "HSV", grey_dicom(COLOUR, "HSV"), refusal=r"PhotometricInterpretation \(0028,0004\) 'HSV'"),
    Variant("DICOM", "floating point", grey_dicom(GREY.astype(np.float32) / 7), shown(GREY.astype(np.float32) / 7)),
    Variant("DICOM", "JPEG", lambda f: jpeg(f / "a.dcm", GREY), shown(GREY), tolerance=4),
    Variant("DICOM", "JPEG 2000", grey_dicom(LARGE, bits=12, compressed_by=pydicom.uid.JPEG2000Lossless),
            shown(LARGE)),
    Variant("DICOM", "RLE", grey_dicom(TWELVE, bits=12, compressed_by=pydicom.uid.RLELossless), shown(TWELVE)),
    Variant("DICOM", "no suffix", lambda f: dicom(f / "1.2.840.55", GREY), shown(GREY)),
    Variant("DICOM", "without pixels", without_pixels, refusal=r"no PixelData \(7FE0,0010\)"),
    Variant("DICOM", "dose", grey_dicom(GREY, Modality="RTDOSE"), refusal="is a dose"),
    Variant("DICOM", "frames without a place", grey_dicom(STORED, NumberOfFrames=SLICES),
            STORED.transpose(2, 1, 0)[None].astype(np.float32)),
    Variant("DICOM", "frames with places, in disorder", lambda f: enhanced(f, order=[3, 0, 5, 1, 4, 2]),
            IN_RAS * 2 + np.arange(SLICES, dtype=np.float32)),
    Variant("DICOM", "folder of a series", series, IN_RAS),
    Variant("DICOM", "series with a slice missing", lambda f: series(f, drop=2),
            refusal="8 mm apart where others are 4 mm"),
    Variant("DICOM", "series with slices at one place", lambda f: series(f, apart=0.0), refusal="slices at one place"),
    Variant("DICOM", "folder of two series", lambda f: dicom(series(f) / "b.dcm", STORED[0],
            SeriesInstanceUID=generate_uid()).parent, refusal="folder of 2 series"),
]  # fmt: skip


def _by_planes(path: Path) -> Path:
    dataset = pydicom.dcmread(path)
    dataset.PixelData = COLOUR.transpose(2, 0, 1).tobytes()
    dataset.save_as(path)
    return path


OTHERS = [
    Variant("others", "text file", lambda f: ((f / "a.txt").write_text("no image"), f / "a.txt")[1],
            refusal="nor the mark of an image"),
]  # fmt: skip

VARIANTS = [*PICTURES, *VOLUMES, *DICOMS, *OTHERS]
