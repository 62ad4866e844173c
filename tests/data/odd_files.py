"""Rare variants, most of them such as once gave wrong values without a word; see ``variants``."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from variants import (
    BITS,
    COLOUR,
    DEEP,
    DEEP_COLOUR,
    GREY,
    IN_RAS,
    LARGE,
    LUT,
    PADDED,
    RAS,
    SLICES,
    STORED,
    TWELVE,
    Variant,
    dicom,
    exif,
    grey_dicom,
    lut_item,
    nifti,
    picture,
    rgb,
    saved,
    series,
    shown,
    turned,
    volume,
    ybr,
)

TWO, FOUR = GREY // 64, GREY // 16
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
TRANSPARENT = "transparent in places"


def packed(rows: np.ndarray, bits: int) -> bytes:
    """Rows of numbers of so many bits, each filled up to whole bytes."""
    if bits in (8, 16):
        return rows.astype(f">u{bits // 8}").tobytes()
    shifts = np.arange(bits - 1, -1, -1)
    return b"".join(np.packbits((row[:, None] >> shifts & 1).ravel()).tobytes() for row in rows)


def png(
    rows: np.ndarray, *, bits: int, colour_type: int = 0, interlaced: bool = False, **chunks: bytes
) -> Callable[[Path], Path]:
    """A PNG of any depth, with further chunks before its pixels."""

    def chunk(kind: str, data: bytes) -> bytes:
        body = kind.encode() + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    def write(folder: Path) -> Path:
        passes = [rows[y::dy, x::dx] for x, y, dx, dy in ADAM7] if interlaced else [rows]
        raw = b"".join(b"\0" + packed(row[None], bits) for part in passes for row in part if row.size)
        header = struct.pack(">IIBBBBB", *rows.shape[1::-1], bits, colour_type, 0, 0, interlaced)
        content = [chunk("IHDR", header), *(chunk(*pair) for pair in chunks.items())]
        content += [chunk("IDAT", zlib.compress(raw)), chunk("IEND", b"")]
        (folder / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(content))
        return folder / "a.png"

    return write


def transparent(*values: Any) -> bytes:
    return struct.pack(f">{len(values)}H", *map(int, values))


def tiff(
    *strips: np.ndarray | bytes, like: np.ndarray, bits: int, tags: Mapping[int, Any], big: bool = False
) -> Callable[[Path], Path]:
    """An uncompressed TIFF of given strips or planes, with any tags, in either byte order."""
    order = ">" if big else "<"

    def write(folder: Path) -> Path:
        data = [
            strip if isinstance(strip, bytes) else strip.astype(strip.dtype.newbyteorder(order)).tobytes()
            for strip in strips
        ]
        entries = {256: like.shape[1], 257: like.shape[0], 258: bits, 259: 1, 262: 1, 277: 1, 278: like.shape[0]}
        entries |= tags
        entries[258] = [bits] * entries[277]
        entries |= {273: [0] * len(data), 279: [len(part) for part in data]}
        blob, start = b"", 8 + 2 + 12 * len(entries) + 4
        places = []
        for part in data:
            places.append(start + len(blob))
            blob += part + b"\0" * (len(part) % 2)
        entries[273] = places
        directory = struct.pack(order + "H", len(entries))
        for tag, value in sorted(entries.items()):
            values = value if isinstance(value, list | bytes) else [value]
            kind, letter = (4, "I") if tag in (273, 279) else (3, "H")
            text = isinstance(values, bytes)
            content = values if text else struct.pack(f"{order}{len(values)}{letter}", *values)
            kind = 2 if text else kind
            if len(content) > 4:
                place = struct.pack(order + "I", start + len(blob))
                blob += content
                content = place
            directory += struct.pack(order + "HHI", tag, kind, len(values)) + content.ljust(4, b"\0")
        (folder / "a.tif").write_bytes(
            (b"MM\0*" if big else b"II*\0") + struct.pack(order + "I", 8) + directory + bytes(4) + blob
        )
        return folder / "a.tif"

    return write


def bmp565(folder: Path) -> Path:
    """Five, six and five bits of red, green and blue in two bytes, as some frame grabbers write."""
    red, green, blue = np.moveaxis(COLOUR.astype(np.uint16), -1, 0)
    rows = (red >> 3 << 11 | green >> 2 << 5 | blue >> 3)[::-1].astype("<u2").tobytes()
    head = struct.pack("<IiiHHIIiiII", 40, *GREY.shape[::-1], 1, 16, 3, len(rows), 0, 0, 0, 0)
    masks = struct.pack("<III", 0xF800, 0x7E0, 0x1F)
    start = 14 + len(head) + len(masks)
    (folder / "a.bmp").write_bytes(b"BM" + struct.pack("<III", start + len(rows), 0, start) + head + masks + rows)
    return folder / "a.bmp"


def with_long_notes(write: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """JPEG 2000 with a box of notes before its code stream, longer than a reader's first look."""

    def written(folder: Path) -> Path:
        path = write(folder)
        content = path.read_bytes()
        place = content.find(b"jp2c") - 4
        path.write_bytes(content[:place] + struct.pack(">I4s", 9008, b"xml ") + b" " * 9000 + content[place:])
        return path

    return written


SIGNED = (DEEP.astype(np.int32) - 30000).astype(np.int16)
WIDE = DEEP.astype(np.uint32) * 60000
FLOATS = GREY.astype(np.float32) / 7
ENTRIES = [value // part for part in (1, 2, 4) for value in range(256)]  # of a palette: reds, greens, blues
PALETTE = bytes(part for value in range(4) for part in (value * 80, value * 40, value * 10))
RGB_TAGS, PLANES = {262: 2, 277: 3}, {262: 2, 277: 3, 284: 2}


def openjpeg(rows: np.ndarray, **options: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        utils = pytest.importorskip("openjpeg.utils")
        (folder / "a.jp2").write_bytes(utils.encode_array(rows, codec_format=1, **options))
        return folder / "a.jp2"

    return write


PICTURES = [
    *[Variant("PNG", f"{bits} bits", png(rows, bits=bits), shown(rows * step))
      for bits, rows, step in ((2, TWO, 85), (4, FOUR, 17))],
    Variant("PNG", "interlaced", png(GREY, bits=8, interlaced=True), shown(GREY)),
    Variant("PNG", "interlaced, 16-bit RGB", png(DEEP_COLOUR, bits=16, colour_type=2, interlaced=True),
            shown(DEEP_COLOUR)),
    Variant("PNG", "palette of 2 bits, interlaced", png(TWO, bits=2, colour_type=3, interlaced=True, PLTE=PALETTE),
            shown(np.stack([TWO * 80, TWO * 40, TWO * 10], -1))),
    Variant("PNG", "a transparent grey that no pixel has", png(GREY, bits=8, tRNS=transparent(0)), shown(GREY)),
    Variant("PNG", "the same, 16 bits", png(DEEP, bits=16, tRNS=transparent(1)), shown(DEEP)),
    Variant("PNG", "a transparent grey of 2 bits", png(TWO, bits=2, tRNS=transparent(TWO[0, 0])), refusal=TRANSPARENT),
    Variant("PNG", "a transparent grey of 16 bits", png(DEEP, bits=16, tRNS=transparent(DEEP[0, 0])),
            refusal=TRANSPARENT),
    Variant("PNG", "a transparent colour of 16 bits",
            png(DEEP_COLOUR, bits=16, colour_type=2, tRNS=transparent(*DEEP_COLOUR[0, 0])), refusal=TRANSPARENT),
    Variant("JPEG", "progressive", saved("a.jpg", lambda: Image.fromarray(GREY), quality=100, progressive=True),
            shown(GREY), tolerance=4),
    Variant("JPEG", "named .png, EXIF turned", saved("a.png", lambda: Image.fromarray(turned(GREY, 6)), format="JPEG",
            quality=100, exif=exif(6)), shown(GREY), tolerance=4),
    Variant("TIFF", "RGB by planes", tiff(*np.moveaxis(COLOUR, -1, 0), like=GREY, bits=8, tags=PLANES), shown(COLOUR)),
    Variant("TIFF", "RGB by planes, big-endian",
            tiff(*np.moveaxis(COLOUR, -1, 0), like=GREY, bits=8, tags=PLANES, big=True), shown(COLOUR)),
    Variant("TIFF", "16-bit RGB by planes", tiff(*np.moveaxis(DEEP_COLOUR, -1, 0), like=GREY, bits=16, tags=PLANES),
            refusal="planes of their own"),
    Variant("TIFF", "16-bit RGB, big-endian", tiff(DEEP_COLOUR, like=GREY, bits=16, tags=RGB_TAGS, big=True),
            shown(DEEP_COLOUR)),
    Variant("TIFF", "16 bits with a sign", tiff(SIGNED, like=GREY, bits=16, tags={339: 2}), shown(SIGNED)),
    Variant("TIFF", "16 bits with a sign, big-endian", tiff(SIGNED, like=GREY, bits=16, tags={339: 2}, big=True),
            shown(SIGNED)),
    Variant("TIFF", "8 bits with a sign", tiff(GREY, like=GREY, bits=8, tags={339: 2}), refusal="8-bit values with a"),
    Variant("TIFF", "32 bits without a sign", tiff(WIDE, like=GREY, bits=32, tags={339: 1}),
            shown(WIDE.astype(np.float32))),
    Variant("TIFF", "64-bit float", tiff(GREY / 7, like=GREY, bits=64, tags={339: 3}), refusal="does not know"),
    Variant("TIFF", "4 bits, white is zero", tiff(packed(FOUR, 4), like=GREY, bits=4, tags={262: 0}),
            shown((15 - FOUR) * 17)),
    Variant("TIFF", "12 bits", tiff(packed(TWELVE, 12), like=GREY, bits=12, tags={}),
            shown(TWELVE)),
    Variant("TIFF", "1 bit, white is zero", tiff(packed(BITS.astype(np.uint8), 1), like=GREY, bits=1, tags={262: 0}),
            shown(~BITS * 255)),
    Variant("TIFF", "five channels", tiff(np.concatenate([COLOUR, COLOUR[..., :2]], -1), like=GREY, bits=8,
            tags={262: 2, 277: 5, 338: [0, 0]}), refusal="TIFF of 5 channels"),
    Variant("TIFF", "16-bit grey with alpha", tiff(np.stack([DEEP, DEEP], -1), like=GREY, bits=16,
            tags={277: 2, 338: 2}), refusal="does not know"),
    Variant("TIFF", "palette", tiff(GREY, like=GREY, bits=8, tags={262: 3, 320: [257 * e for e in ENTRIES]}),
            shown(COLOUR)),
    Variant("TIFF", "palette of 8-bit entries", tiff(GREY, like=GREY, bits=8, tags={262: 3, 320: ENTRIES}),
            refusal="palette has 8 bits"),
    Variant("TIFF", "32-bit float, compressed", tiff(zlib.compress(FLOATS.tobytes()), like=GREY, bits=32,
            tags={259: 8, 339: 3}), shown(FLOATS)),
    *[Variant("TIFF", f"{name}, compressed, big-endian", tiff(zlib.compress(rows.byteswap().tobytes()), like=GREY,
              bits=8 * rows.itemsize, tags={259: 8, 339: form}, big=True), refusal="compressed TIFF in big-endian",
              at_best=shown(rows))
      for name, rows, form in (("32-bit float", FLOATS, 3), ("16 bits with a sign", SIGNED, 2))],
    Variant("TIFF", "16-bit grey, compressed, big-endian", tiff(zlib.compress(DEEP.byteswap().tobytes()), like=GREY,
            bits=16, tags={259: 8}, big=True), shown(DEEP)),
    Variant("TIFF", "thumbnail first, as raw photographs have", tiff(COLOUR, like=GREY, bits=8,
            tags={**RGB_TAGS, 254: 1}), refusal="shows its thumbnail first"),
    Variant("TIFF", "two channels", tiff(COLOUR[..., :2].copy(), like=GREY, bits=8, tags={277: 2, 338: 0}),
            refusal="TIFF of 2 channels|does not know"),
    *[Variant("TIFF", f"three frames in one, {name}", tiff(np.concatenate([GREY] * 3), like=GREY, bits=8, tags=tags),
              refusal="TIFF of 3 frames in one")
      for name, tags in (("ImageJ", {270: b"ImageJ=1.54f\nimages=3\nslices=3\n\0"}), ("by depth", {32997: 3}),
                         ("by shape", {270: b'{"shape": [3, 10, 14]}\0'}))],
    Variant("TIFF", "a text that says nothing of frames", tiff(GREY, like=GREY, bits=8, tags={270: b"[images=3]\0"}),
            shown(GREY)),
    Variant("BMP", "5, 6 and 5 bits", bmp565, shown(COLOUR), tolerance=8),
    *[Variant("JPEG 2000", f"{name}, long notes", with_long_notes(openjpeg(rows, **options)), shown(rows))
      for name, rows, options in (
          ("12-bit grey", LARGE, {"bits_stored": 12, "photometric_interpretation": 2}),
          ("RGB", rgb((LARGE >> 4).astype(np.uint8)), {"photometric_interpretation": 1}))],
    Variant("JPEG 2000", "4-bit grey", openjpeg((LARGE >> 8).astype(np.uint8), bits_stored=4,
            photometric_interpretation=2), refusal="4 bits or with a sign"),
    Variant("JPEG 2000", "with a sign", openjpeg(LARGE.astype(np.int16) - 900, photometric_interpretation=2),
            refusal="or with a sign"),
    Variant("JPEG 2000", "12-bit grey", openjpeg(LARGE, bits_stored=12, photometric_interpretation=2), shown(LARGE)),
    Variant("JPEG 2000", "16-bit RGB", openjpeg(rgb(LARGE), photometric_interpretation=1),
            refusal=r"JPEG 2000 with 1\d bits"),
]  # fmt: skip


# ---- NIfTI -----------------------------------------------------------------------------------------------------------


def with_forms(qform: np.ndarray, sform_code: int) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        image = nibabel.Nifti1Image(volume(), RAS)
        image.set_sform(RAS, sform_code)
        image.set_qform(qform, 1)
        nibabel.save(image, folder / "a.nii")
        return folder / "a.nii"

    return write


def with_slope(slope: float, intercept: float) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        nibabel.save(nibabel.Nifti1Image(volume().astype(np.int16), RAS), folder / "a.nii")
        content = bytearray((folder / "a.nii").read_bytes())
        content[112:120] = struct.pack("<ff", slope, intercept)
        (folder / "a.nii").write_bytes(content)
        return folder / "a.nii"

    return write


def rgba(folder: Path) -> Path:
    values = np.zeros(volume().shape, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1"), ("A", "u1")])
    values["R"], values["A"] = volume(), 100
    nibabel.save(nibabel.Nifti1Image(values, RAS), folder / "a.nii")
    return folder / "a.nii"


def pair(folder: Path) -> Path:
    nibabel.save(nibabel.Nifti1Pair(volume(), RAS), folder / "a.img")
    return folder / "a.hdr"


MIRRORED = np.diag([-1.0, 1, 1, 1]) @ RAS
TILTED = np.array([[0.995, -0.0998, 0, 0], [0.0998, 0.995, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ RAS

VOLUMES = [
    Variant("NIfTI", "qform a little turned against sform", with_forms(TILTED, 4), volume()[None]),
    Variant("NIfTI", "qform mirrored against sform", with_forms(MIRRORED, 1), refusal="sform says RAS, its qform LAS"),
    Variant("NIfTI", "qform alone", with_forms(RAS, 0), volume()[None]),
    *[Variant("NIfTI", f"scl_slope {slope}", with_slope(slope, 7), volume().astype(np.int16)[None].astype(np.float32))
      for slope in (float("nan"), 0.0)],
    Variant("NIfTI", "RGBA, transparent", rgba, refusal=TRANSPARENT),
    Variant("NIfTI", "header and image apart", pair, volume()[None]),
    Variant("NIfTI", "voxels of half a micrometre", nifti(volume(), np.diag([5e-4, 5e-4, 5e-4, 1])), volume()[None]),
]  # fmt: skip

# ---- DICOM -----------------------------------------------------------------------------------------------------------


def changed(stored: np.ndarray, photometric: str = "MONOCHROME2", *, after: Mapping[str, Any], **tags: Any) -> Any:
    """A DICOM file whose tags are then made others than its pixels need."""

    def write(folder: Path) -> Path:
        path = dicom(folder / "a.dcm", stored, photometric, **tags)
        dataset = pydicom.dcmread(path)
        for name, value in after.items():
            setattr(dataset, name, value)
        dataset.save_as(path)
        return path

    return write


def lossless(syntax: str) -> Callable[[Path], Path]:
    """As most hospitals compress."""

    def write(folder: Path) -> Path:
        gdcm = pytest.importorskip("gdcm")
        reader, writer, change = gdcm.ImageReader(), gdcm.ImageWriter(), gdcm.ImageChangeTransferSyntax()
        reader.SetFileName(str(dicom(folder / "plain.dcm", LARGE, bits=12)))
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFileName(str(folder / "a.dcm"))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        return folder / "a.dcm"

    return write


def padding_without_sign(folder: Path) -> Path:
    """As many scanners write it: the padding of signed pixels as a number without a sign."""
    path = dicom(folder / "a.dcm", PADDED)
    dataset = pydicom.dcmread(path)
    dataset[0x00280120] = pydicom.DataElement(0x00280120, "US", 65536 - 2000)
    dataset.save_as(path)
    return path


def renamed(folder: Path) -> Path:
    """A series of which some slices lost their suffix, as copies from other systems do, beside a Mac's own files."""
    place = series(folder)
    for file, name in zip(sorted(place.iterdir())[-2:], ("IM0001", "IM0002.IMA"), strict=True):
        (place / f"._{file.name}").write_bytes(b"\0\5\26\7" * 50)
        file.rename(place / name)
    return place


def with_report(folder: Path) -> Path:
    place = series(folder)
    dataset = pydicom.dcmread(dicom(place / "report.dcm", GREY, Modality="SR"))
    del dataset.Rows, dataset.Columns, dataset.PixelData
    dataset.save_as(place / "report.dcm")
    return place


def with_broken_slice(folder: Path) -> Path:
    place = series(folder)
    (place / "000.dcm").write_bytes(b"")
    return place


BELOW_ZERO = GREY.astype(np.int16) - 100
WIDE_PICTURE = ybr(rgb(np.repeat(picture(columns=7), 2, axis=1)))  # neighbours share their colour
HALVED = np.stack(
    [WIDE_PICTURE[:, ::2, 0], WIDE_PICTURE[:, 1::2, 0], WIDE_PICTURE[:, ::2, 1], WIDE_PICTURE[:, ::2, 2]], axis=-1
)

DICOMS = [
    *[Variant("DICOM", name, lossless(syntax), shown(LARGE))
      for name, syntax in (("JPEG lossless", "JPEGLosslessProcess14_1"), ("JPEG-LS", "JPEGLSLossless"))],
    Variant("DICOM", "signed, 12 of 16 bits", changed((BELOW_ZERO & 0x0FFF).astype(np.uint16), bits=12,
            after={"PixelRepresentation": 1}), shown(BELOW_ZERO)),
    Variant("DICOM", "other bits above the stored ones",
            changed((BELOW_ZERO & 0x0FFF | 0x5000).astype(np.uint16), bits=12, after={"PixelRepresentation": 1}),
            shown(BELOW_ZERO)),
    Variant("DICOM", "stored in the upper bits", changed(TWELVE << 4, bits=12, after={"HighBit": 15}),
            refusal=r"HighBit \(0028,0102\) 15 with 12"),
    Variant("DICOM", "slope below zero", grey_dicom(TWELVE, bits=12, RescaleSlope=-1, RescaleIntercept=100),
            shown(100.0 - TWELVE)),
    Variant("DICOM", "slope below zero, MONOCHROME1",
            grey_dicom(TWELVE, "MONOCHROME1", bits=12, RescaleSlope=-1, RescaleIntercept=4095), shown(TWELVE)),
    Variant("DICOM", "slope 0", grey_dicom(TWELVE, bits=12, RescaleSlope=0, RescaleIntercept=0),
            refusal=r"RescaleSlope \(0028,1053\) 0"),
    Variant("DICOM", "slope nan", grey_dicom(TWELVE, bits=12, RescaleSlope="nan", RescaleIntercept=0),
            refusal=r"RescaleSlope \(0028,1053\) nan"),
    Variant("DICOM", "pixel padding without its sign", padding_without_sign,
            shown(np.where(PADDED == -2000, PADDED[PADDED > -2000].min(), PADDED))),
    Variant("DICOM", "series of which some slices are named otherwise", renamed, IN_RAS),
    Variant("DICOM", "series beside its report", with_report, IN_RAS),
    Variant("DICOM", "series with an empty file", with_broken_slice, refusal="whose 000.dcm is damaged or no DICOM"),
    Variant("DICOM", "empty slope", changed(TWELVE, bits=12, after={"RescaleSlope": None, "RescaleIntercept": None}),
            shown(TWELVE)),
    Variant("DICOM", "modality LUT that begins at 50", grey_dicom(GREY, ModalityLUTSequence=[lut_item(LUT[50:], 50)]),
            shown(LUT[np.maximum(GREY, 50)])),
    Variant("DICOM", "several windows, not applied", grey_dicom(TWELVE, bits=12, WindowCenter=[100, 200],
            WindowWidth=[50, 60]), shown(TWELVE)),
    Variant("DICOM", "VOI LUT, not applied", grey_dicom(TWELVE, bits=12, VOILUTSequence=[lut_item(LUT)]),
            shown(TWELVE)),
    Variant("DICOM", "16-bit RGB", grey_dicom(DEEP_COLOUR, "RGB"), shown(DEEP_COLOUR)),
    Variant("DICOM", "YBR_FULL_422", changed(WIDE_PICTURE, "YBR_FULL", after={
            "PixelData": HALVED.tobytes(), "PhotometricInterpretation": "YBR_FULL_422"}),
            shown(rgb(np.repeat(picture(columns=7), 2, axis=1))), tolerance=2),
    Variant("DICOM", "colour that says it is grey", changed(COLOUR, "RGB", after={
            "PhotometricInterpretation": "MONOCHROME2"}), refusal="10 x 14 x 3 where its header says 10 x 14"),
    Variant("DICOM", "more frames than it says", grey_dicom(STORED), refusal="6 x 10 x 14 where its header says"),
    Variant("DICOM", "other frames than it says", changed(STORED, NumberOfFrames=SLICES, after={"NumberOfFrames": 2}),
            refusal="6 x 10 x 14 where its header says 2 x"),
    Variant("DICOM", "fewer pixels than it says", changed(GREY, after={"PixelData": GREY.tobytes()[:60]}),
            refusal="less than expected"),
]  # fmt: skip

ODD = [*PICTURES, *VOLUMES, *DICOMS]
