"""Releases by an attacker: each is refused in one sentence, before anything outside is opened or much is decoded."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from monai_plan.release import SyntheticBank, SyntheticDataset, read_release, write_synthetic
from monai_plan.utils import DataError

READERS = (read_release, SyntheticBank, SyntheticDataset)


def make(folder: Path, *shape: int) -> Path:
    write_synthetic(
        folder,
        images=torch.rand(3, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1,
        labels=[0, 1, 0],
        label_names={0: "normal", 1: "lesion"},
        groups=[0, 1, 2],
        name="synthetic",
        description="A test.",
    )
    return folder


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return make(tmp_path / "release", 1, 8, 10)


def edit(release: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads((release / "datalist.json").read_text())
    change(content)
    (release / "datalist.json").write_text(json.dumps(content))


def refused(release: Path, message: str) -> None:
    for reader in READERS:
        with pytest.raises(DataError, match=message) as error:
            reader(release)
        assert "\n" not in str(error.value)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, content: bytes, *, bits: int = 8, colour: int = 0) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


@pytest.mark.parametrize("way", ["absolute", "dots", "file link", "folder link", "zero byte", "loop", "list link"])
def test_nothing_outside_the_folder_is_opened(release: Path, tmp_path: Path, way: str) -> None:
    outside = make(tmp_path / "patients", 1, 8, 10)
    secret, image = outside / "images/000001.png", release / "images/000001.png"
    if way in ("absolute", "dots", "zero byte"):
        paths = {"absolute": str(secret), "dots": "images/../../patients/images/000001.png", "zero byte": "a\0.png"}
        edit(release, lambda content: content["training"][1].update(image=paths[way]))
    elif way == "folder link":
        (release / "more").symlink_to(outside / "images")
        edit(release, lambda content: content["training"][1].update(image="more/000001.png"))
    elif way == "list link":
        os.replace(release / "datalist.json", outside / "other.json")
        (release / "datalist.json").symlink_to(outside / "other.json")
    else:
        image.unlink()
        image.symlink_to(secret if way == "file link" else image)
    refused(release, "leads out of it, and nothing outside is opened" if way != "loop" else "000001.png")


def test_links_that_stay_inside_are_followed(release: Path, tmp_path: Path) -> None:
    os.replace(release / "images", release / "files")
    (release / "images").symlink_to("files")
    (tmp_path / "link").symlink_to(release)
    assert len(read_release(tmp_path / "link")) == 3


FILES = {
    "gif": ("000001.png", lambda file: Image.new("L", (8, 10)).save(file, format="GIF"), "it is no PNG"),
    "eps": ("000001.eps", lambda file: Image.new("L", (8, 10)).save(file), "name ends with neither .png nor .nii"),
    "16 bits": ("000001.png", lambda file: Image.new("I;16", (8, 10)).save(file), "16 bits per value"),
    "palette": ("000001.png", lambda file: Image.new("P", (8, 10)).save(file), "colour type 3"),
    "empty": ("000001.png", lambda file: file.write_bytes(b""), "it is no PNG"),
    "huge": ("000001.png", lambda file: file.write_bytes(png(2**31 - 1, 2**31 - 1, b"")), "promise 1 x 2147483647 x"),
    "no pixel": ("000001.png", lambda file: file.write_bytes(png(0, 10, b"")), "promise 1 x 0 x 10 values"),
    "zip": ("000001.nii.gz", lambda file: file.write_bytes(b"\x1f\x8b"), "name ends with neither"),
    "no volume": ("000001.nii", lambda file: file.write_bytes(bytes(400)), "it is no uncompressed NIfTI-1 file"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_only_png_and_nifti_are_read_and_by_their_content(release: Path, monkeypatch, kind: str) -> None:
    name, write, message = FILES[kind]
    write(release / "images" / name)
    edit(release, lambda content: content["training"][1].update(image=f"images/{name}"))
    monkeypatch.setattr(Image, "open", lambda *args, **options: pytest.fail("a decoder was reached"))
    refused(release, rf"{name} cannot be read \(.*{message}")


def test_a_small_png_does_not_fill_the_memory(tmp_path: Path) -> None:
    """160 kB that would be 12,000 x 12,000 grey values; all three are alike, so none differs from the first."""
    release = make(tmp_path / "release", 1, 8, 10)
    content = png(12_000, 12_000, zlib.compress(bytes(12_001 * 12_000), 9))
    for number in range(3):
        (release / f"images/{number:06d}.png").write_bytes(content)
    assert len(content) < 200_000
    refused(release, "promise 1 x 12000 x 12000 values")


@pytest.mark.parametrize(
    ("offset", "form", "value"),
    [
        (42, "<hhh", (32767, 32767, 32767)),  # the axes
        (42, "<hhh", (-4, 5, 6)),
        (108, "<f", (float("nan"),)),  # where the values begin
        (108, "<f", (3e38,)),
        (108, "<f", (0.0,)),
        (70, "<h", (64,)),  # their type, float64
        (112, "<f", (2.0,)),  # their scale
        (280, "<f", (float("nan"),)),  # the affine
        (40, "<h", (7,)),  # the number of axes
        (40, "<h", (-1,)),
        (344, "<4s", (b"ni1\0",)),  # values in another file
    ],
)
def test_a_nifti_header_that_lies_is_one_sentence(tmp_path: Path, offset: int, form: str, value: tuple) -> None:
    release = make(tmp_path / "release", 1, 4, 5, 6)
    assert read_release(release).stored_image(0).shape == (1, 4, 5, 6)
    for number in range(3):
        file = release / f"images/{number:06d}.nii"
        content = bytearray(file.read_bytes())
        struct.pack_into(form, content, offset, *value)
        file.write_bytes(content)
    refused(release, r"000000\.nii cannot be read \(")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"0": "normal", "00": "lesion"}, "no whole numbers \\('00'\\)"),
        ({"0": "normal", "１": "lesion"}, "no whole numbers"),
        ({"0": "normal", "1": "Normal "}, "look alike, 'normal' and 'Normal '"),
        ({"0": "normal", "1": "nоrmal"}, "look alike"),  # a Cyrillic o
        ({"0": "normal", "1": "nor\u200bmal"}, "look alike"),
        ({"0": "normal", "1": ["lesion"]}, "the name \\['lesion'\\] of class 1"),
        ({"0": "normal"}, "images of class 1, which has no name"),
    ],
)
def test_labels_that_cannot_be_told_apart_are_refused(release: Path, labels: dict[str, Any], message: str) -> None:
    edit(release, lambda content: content.update(labels=labels))
    refused(release, message)


def test_a_data_list_that_is_no_list_is_refused(release: Path) -> None:
    text = (release / "datalist.json").read_text()
    (release / "datalist.json").write_text(text.replace('"labels"', '"labels": {"0": "lesion"}, "labels"', 1))
    refused(release, "the key 'labels' occurs twice")
    (release / "datalist.json").write_text("[" * 200_000)
    refused(release, "it is nested too deeply")
    (release / "datalist.json").unlink()
    os.mkfifo(release / "datalist.json")
    refused(release, "holds no datalist.json")
