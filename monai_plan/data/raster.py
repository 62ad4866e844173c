"""Pictures that Pillow reads (PNG, JPEG, TIFF, BMP, ...), with the values that a viewer shows."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from monai_plan.data.header import ImageHeader, ImageRefusedError

ORIENTATION = 0x112  # of EXIF and TIFF; from 5 on rows and columns change places
KIND, BITS, PHOTOMETRIC, DESCRIPTION, SAMPLES, PLANES = 254, 258, 262, 270, 277, 284  # tags of TIFF
COLOUR_MAP, EXTRA_SAMPLES, SAMPLE_FORMAT, DEPTH = 320, 338, 339, 32997
THUMBNAIL, WHITE_IS_ZERO, PALETTE, UNSIGNED, SIGNED, APART = 1, 0, 3, 1, 2, 2  # values of them
CODE_STREAM = b"\xff\x4f\xff\x51"  # of JPEG 2000; 42 bytes further are the bits of the first channel
CHANNELS = {"1": 1, "L": 1, "P": 1, "I;16": 1, "I;16B": 1, "I;16L": 1, "I": 1, "F": 1, "LA": 1, "RGB": 3, "RGBA": 3}
CHANNELS |= {"YCbCr": 3, "PA": 3}
TRANSPARENT = "is transparent in places, which every viewer fills as it likes: flatten it"


def raster_header(path: str | os.PathLike[str]) -> ImageHeader:
    """What the file says of its picture."""
    with _opened(path) as image:
        return _header(image)


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """Through a file: given a path, Pillow maps a plain TIFF into memory and mixes up one that lies on its side."""
    with open(path, "rb") as file:
        try:
            image = Image.open(file)
        except UnidentifiedImageError as error:
            raise ImageRefusedError(
                "is damaged, no picture or of a kind that Pillow does not know (cannot identify image file): write it "
                "as PNG with 8 or 16 bits"
            ) from error
        with image:
            yield image


def _header(image: Image.Image) -> ImageHeader:
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise ImageRefusedError(
            f"holds {frames} frames, of which a reader would take the first: write each one that is an image to a file "
            "of its own, or the stack as a NIfTI volume"
        )
    if image.mode not in CHANNELS:
        raise ImageRefusedError(f"has the colour mode {image.mode}: convert it to RGB or grey")
    signed = _check_tiff(image)
    channels = CHANNELS[image.mode]
    if image.mode == "P" and not _is_grey(image):
        channels = 3
    bits: int | None = 16 if _is_deep(image) or image.mode.startswith("I;16") else 8
    if image.mode == "F" or (image.mode == "I" and (bits == 8 or signed)):
        bits = None
    bits = _jpeg_2000_bits(image) or bits
    size = image.size
    # A TIFF's size is right already, and to ask a PNG without EXIF would decode the pixels.
    asked = image.format != "TIFF" and (image.format != "PNG" or "exif" in image.info)
    if asked and image.getexif().get(ORIENTATION, 1) >= 5:
        size = size[::-1]
    return ImageHeader(channels, size, bits, None if bits is None else (0.0, 2.0**bits - 1))


def _check_tiff(image: Image.Image) -> bool:
    """Whether the values of a TIFF have a sign.

    Raises:
        ImageRefusedError: for what Pillow would read as something else.
    """
    tags: Any = getattr(image, "tag_v2", {})
    bits, samples = tags.get(BITS, (1,)), tags.get(SAMPLES, 1)
    signed = set(tags.get(SAMPLE_FORMAT, (UNSIGNED,))) == {SIGNED}
    if tags.get(KIND, 0) & THUMBNAIL:
        raise ImageRefusedError("is a TIFF that shows its thumbnail first, as raw photographs do: export the picture")
    frames = _described_frames(image, tags)
    if frames > 1:
        raise ImageRefusedError(
            f"is a TIFF of {frames} frames in one, of which a reader would take the first: write each one that is an "
            "image to a file of its own, or the stack as a NIfTI volume"
        )
    if samples == 2 and set(tags.get(EXTRA_SAMPLES, (0,))) == {0}:
        raise ImageRefusedError("is a TIFF of 2 channels, of which a reader would take the first: choose one")
    if tags.get(PHOTOMETRIC) == PALETTE and max(tags.get(COLOUR_MAP, (256,))) < 256:
        raise ImageRefusedError("is a TIFF whose palette has 8 bits where 16 are the rule: write it as PNG")
    if any(
        tile[0] == "libtiff" and re.search("BS?F?$", tile[3][0]) and max(bits) > 8
        for tile in getattr(image, "tile", ())
    ):
        raise ImageRefusedError(
            "is a compressed TIFF in big-endian order, whose bytes Pillow mixes up: write it as PNG"
        )
    if signed and max(bits) <= 8:
        raise ImageRefusedError("is a TIFF of 8-bit values with a sign: write it with 16 bits, or without the sign")
    if samples > 4:
        raise ImageRefusedError(f"is a TIFF of {samples} channels, of which a reader would take three: choose them")
    if samples > 1 and max(bits) > 8 and tags.get(PLANES) == APART:
        raise ImageRefusedError("is a TIFF of 16 bits whose channels lie in planes of their own: write it as RGB PNG")
    return signed


def _described_frames(image: Image.Image, tags: Any) -> int:
    """Frames that lie behind one directory of a TIFF, as its tags or ImageJ's or tifffile's text say."""
    text = str(tags.get(DESCRIPTION, ""))
    of_image_j = re.search(r"^ImageJ=.*^images=(\d+)", text, re.DOTALL | re.MULTILINE)
    if of_image_j is not None:
        return int(of_image_j[1])
    try:
        shape = json.loads(text)["shape"]
        return math.prod(map(int, shape)) // (image.width * image.height * tags.get(SAMPLES, 1))
    except (ValueError, TypeError, KeyError):  # any other text
        return int(tags.get(DEPTH, 1))


def _jpeg_2000_bits(image: Image.Image) -> int | None:
    """Bits per channel of JPEG 2000, from the head of its code stream; None for other files.

    Pillow keeps 8 of them in colour, and in grey moves more than 8 to the upper end of 16.
    """
    if image.format != "JPEG2000":
        return None
    file: BinaryIO = cast(Any, image).fp
    place = file.tell()
    file.seek(0)
    content = file.read(4096)
    if CODE_STREAM not in content[:-42]:  # profiles and notes before it have any length
        content += file.read()
    file.seek(place)
    start = content.find(CODE_STREAM)
    if not 0 <= start < len(content) - 42:
        raise ImageRefusedError("is JPEG 2000 whose code stream does not say its bits: write it as PNG")
    bits = (content[start + 42] & 0x7F) + 1
    if content[start + 42] & 0x80 or bits < 8:
        raise ImageRefusedError(f"is JPEG 2000 with {bits} bits or with a sign: write it as PNG with 8 or 16 bits")
    if bits > 8 and CHANNELS[image.mode] > 1:
        raise ImageRefusedError(f"is JPEG 2000 with {bits} bits in each of several channels: write it as RGB PNG")
    return bits


def _is_grey(image: Image.Image) -> bool:
    palette = np.array(image.getpalette("RGB")).reshape(-1, 3)
    return bool((palette == palette[:, :1]).all())


def _is_deep(image: Image.Image) -> bool:
    """Whether the file has 16 bits per channel, of which Pillow keeps 8 where there is more than one channel."""
    modes = [str(tile[3]) for tile in getattr(image, "tile", ())]
    return any((";16" in mode or ";12" in mode) and "BGR;16" not in mode for mode in modes)  # that is 5 + 6 + 5


def raster_pixels(path: str | os.PathLike[str]) -> np.ndarray:
    """The picture as a viewer shows it: [1 or 3, X, Y], uint8, uint16, int32 or float32; X runs from left to right."""
    with _opened(path) as image:
        header = _header(image)
        inverted = getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO
        unsigned = set(getattr(image, "tag_v2", {}).get(SAMPLE_FORMAT, (UNSIGNED,))) == {UNSIGNED}
        deep_colour = header.bits == 16 and header.channels == 3
        of_jpeg_2000 = image.format == "JPEG2000"
        transparent = _transparent_colour(image)
        low = _low_bytes(path, image) if deep_colour else None
        upright = _upright(image)
        rows = np.asarray(_shown(upright))
        if low is not None:
            rows = rows.astype(np.uint16) * 256 + low
    if rows.dtype == np.int32 and unsigned and rows.min() < 0:  # Pillow has no unsigned 32 bits
        rows = rows.view(np.uint32)
    if rows.dtype == np.bool_:
        rows = rows.astype(np.uint8) * np.uint8(255)
    if rows.dtype.kind == "u":
        rows = rows.astype(rows.dtype.newbyteorder("="), copy=False)
        if of_jpeg_2000 and rows.dtype.itemsize == 2:
            rows = rows >> (16 - (header.bits or 16))
        if inverted and rows.dtype.itemsize == 2:  # Pillow inverts 8 bits
            rows = np.uint16(65535) - rows
    elif inverted:
        raise ImageRefusedError("is a TIFF whose white is zero, of numbers without an end: write it as MinIsBlack")
    if transparent is not None and (rows.reshape(*rows.shape[:2], -1) == transparent).all(-1).any():
        raise ImageRefusedError(TRANSPARENT)
    return rows[None].swapaxes(1, 2) if rows.ndim == 2 else rows.transpose(2, 1, 0)


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    return ImageOps.exif_transpose(image) if image.getexif().get(ORIENTATION, 1) != 1 else image


def _shown(image: Image.Image) -> Image.Image:
    """Grey or RGB, palettes applied; transparency only where nothing is transparent."""
    if image.mode in ("LA", "RGBA", "PA") or (image.mode == "P" and "transparency" in image.info):
        alpha = image.convert("RGBA").getchannel("A")
        if alpha.getextrema() != (255, 255):
            raise ImageRefusedError(TRANSPARENT)
    if image.mode == "P":
        return image.convert("L" if _is_grey(image) else "RGB")
    return image.convert({"LA": "L", "RGBA": "RGB", "PA": "RGB", "YCbCr": "RGB"}.get(image.mode, image.mode))


def _transparent_colour(image: Image.Image) -> np.ndarray | None:
    """The value or colour of a PNG that counts as transparent, [1 or 3], for Pillow looks for it in 8 bits alone.

    Before the pixels are loaded; of palettes see ``_shown``.
    """
    colour = image.info.get("transparency")
    if image.mode == "P" or not isinstance(colour, int | tuple):
        return None
    stored = next((str(tile[3]) for tile in getattr(image, "tile", ())), "")
    return np.atleast_1d(colour) * {"L;2": 85, "L;4": 17}.get(stored, 1)


def _low_bytes(path: str | os.PathLike[str], image: Image.Image) -> np.ndarray:
    """The lower 8 of 16 bits per channel, [Y, X, 3]: Pillow keeps the upper ones, and the lower if it is told lies."""
    swap = {"RGB;16B": "RGB;16L", "RGB;16L": "RGB;16B", "RGBA;16B": "RGBA;16L", "RGBA;16L": "RGBA;16B"}
    swapped: list[Any] = []
    with _opened(path) as opened:
        again: Any = opened  # Pillow types the class above that of a file
        for tile in again.tile:
            rawmode, *others = [tile[3]] if isinstance(tile[3], str) else tile[3]
            if image.mode not in ("RGB", "RGBA") or rawmode not in swap:
                raise ImageRefusedError("has 16 bits in each of several channels: write it as RGB PNG, or with 8 bits")
            lied = (swap[rawmode], *others) if others else swap[rawmode]
            swapped.append(type(tile)(*tile[:3], lied) if hasattr(tile, "_fields") else (*tile[:3], lied))
        again.tile = swapped
        return np.asarray(_upright(again))[..., :3]
