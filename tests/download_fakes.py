"""Folders of official downloads, unpacked, with noise in the place of the images."""

from __future__ import annotations

from pathlib import Path

import torch

from monai_plan.data import write_image
from monai_plan.utils import seeded_generator


def _image(path: Path, channels: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = torch.rand(1, 24, 20, generator=seeded_generator(0, path.name)).expand(channels, -1, -1).clone()
    if channels == 3 and "CHN" not in path.name:
        image[0] = 1 - image[0]
    write_image(path, image)


def fake_shenzhen(folder: Path) -> Path:
    """Unpacked ``ChinaSet_AllFiles.zip``: pictures, some grey stored as RGB, readings as text, and what a Mac
    leaves."""
    root = folder / "ChinaSet_AllFiles"
    for number in range(1, 31):
        label = int(number > 14)
        _image(root / "CXR_png" / f"CHNCXR_{number:04d}_{label}.png", 3 if number % 2 else 1)
        reading = root / "ClinicalReadings" / f"CHNCXR_{number:04d}_{label}.txt"
        reading.parent.mkdir(exist_ok=True)
        reading.write_text("male 45yrs\nnormal\n")
    (root / "CXR_png" / "Thumbs.db").write_bytes(b"\0")
    (root / "NLM-ChinaCXRSet-ReadMe.docx").write_bytes(b"PK")
    return root


def fake_aptos(folder: Path) -> Path:
    """Unpacked ``aptos2019-blindness-detection.zip``."""
    root = folder / "aptos2019"
    rows = ["id_code,diagnosis"]
    for number in range(60):
        rows.append(f"{number:012x},{number % 5}")
        _image(root / "train_images" / f"{number:012x}.png", 3)
    (root / "train.csv").write_text("\n".join(rows) + "\n")
    (root / "test.csv").write_text("id_code\nffff\n")
    (root / "test_images").mkdir()
    return root
