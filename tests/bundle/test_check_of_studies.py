"""A study as it comes from a hospital, its data list by a builder, and the check with no more than two folders."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_plan.__main__ import main

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from variants import dicom

BUNDLE = Path(__file__).parents[2] / "bundles" / "chest_xray_plan"
CLASSES = ("normal", "tb")


def grey(number: int) -> np.ndarray:
    """Of 30 x 40 pixels, smooth, no two alike."""
    coarse = np.random.default_rng(number).integers(0, 256, (6, 8)).astype(np.uint8)
    return np.array(Image.fromarray(coarse).resize((40, 30), Image.Resampling.BICUBIC))


def csv(root: Path) -> list[str]:
    """A table of Excel: semicolons, a mark in front, patients with two pictures, numbers as classes."""
    lines = ["Datei;Befund;Patient"]
    for number in range(60):
        Image.fromarray(grey(number)).save(root / f"{number:03d}.png")
        lines.append(f"{number:03d}.png;{number // 2 % 2}.0;{number // 2 + 1000}")
    (root / "table.csv").write_text("\r\n".join(lines), encoding="utf-8-sig")
    columns = ["--image_column", "Datei", "--label_column", "Befund", "--subject_column", "Patient"]
    return ["csv", str(root / "table.csv"), "--image_root", str(root), *columns]


def folders(root: Path) -> list[str]:
    """Of several formats, one picture turned, one of 16 bits that hold 8, and files that are no pictures."""
    for number in range(30):
        folder = root / CLASSES[number % 2] / f"site{number // 15}"
        folder.mkdir(parents=True, exist_ok=True)
        array, suffix = grey(number), (".png", ".jpg", ".bmp", ".tif")[number % 4]
        Image.fromarray(array).save(folder / f"p{number:03d}_a{suffix}")
        (folder / "Thumbs.db").write_bytes(b"no picture")
    return ["folders", str(root), "--subject_pattern", "^[^_]+"]


def dicom_study(root: Path) -> list[str]:
    """Radiographs of 12 bits without suffixes, half of them MONOCHROME1, with a report among them."""
    for number in range(30):
        folder = root / CLASSES[number % 2]
        folder.mkdir(exist_ok=True)
        stored, photometric = grey(number).astype(np.uint16) * 16, "MONOCHROME2"
        if number % 4 > 1:
            stored, photometric = np.uint16(4095) - stored, "MONOCHROME1"
        dicom(folder / f"1.2.{number}", stored, photometric, bits=12, PatientID=f"pat{number}", Modality="DX")
    return ["folders", str(root)]


@pytest.mark.usefixtures("clean_logging")
@pytest.mark.parametrize("study", [csv, folders, dicom_study], ids=lambda study: study.__name__)
def test_the_check_passes(study, tmp_path, capsys):
    root, out = tmp_path / "study", tmp_path / "out"
    root.mkdir()
    assert main(["datalist", *study(root), "--output", str(root / "datalist.json")]) == 0
    run = ["run", str(BUNDLE), "--dataset_dir", str(root), "--output_dir", str(out), "--only", "check"]
    assert main(run) == 0, capsys.readouterr().err
    found = json.loads((out / "private" / "data.json").read_text())
    assert found["training"]["images"] + found["test"]["images"] == (60 if study is csv else 30)
    assert found["training"]["has_subjects"]
    assert found["training"]["left_out"] == found["duplicates"] == found["near_duplicates"] == []
    assert found["training"]["constant"] == found["training"]["saturated"] == []
    expected = "range 0 to 4095, for 12 of 12 bits are used" if study is dicom_study else "range 0 to 255, for all"
    assert found["intensity"].startswith(expected)
    assert found["training"]["range_used"] > 0.5
