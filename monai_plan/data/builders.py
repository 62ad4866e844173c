"""Data lists from what people have: a folder a class, a CSV, Shenzhen, APTOS, a MedMNIST file."""

from __future__ import annotations

import csv
import logging
import os
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monai_plan.data.datalist import DATALIST_NAME, split_by_subject, write_datalist
from monai_plan.data.writers import IMAGES_FOLDER, image_suffix, replaced_dataset, write_image
from monai_plan.utils import ConfigError, DataError, seeded_generator

__all__ = [
    "datalist_from_aptos",
    "datalist_from_csv",
    "datalist_from_folders",
    "datalist_from_medmnist",
    "datalist_from_shenzhen",
]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".nii", ".nii.gz", ".dcm")
SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "test", "testing"}
SHENZHEN_LABELS = {0: "normal", 1: "tuberculosis"}
APTOS_LABELS = {0: "no retinopathy", 1: "mild", 2: "moderate", 3: "severe", 4: "proliferative"}

logger = logging.getLogger(__name__)


def datalist_from_folders(
    root: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str],
    subject_pattern: str | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> Path:
    """Make a data list from a folder a class.

    Args:
        root: holds one folder a class, named as the class; the classes are numbered in sorted order. Folders below
            are searched too, files that are no images are left out.
        output: the data list to write.
        subject_pattern: regular expression searched in the file name; its first group, or the whole match if it has
            none, is the subject. Without it every image is its own subject.
        test_fraction: share of the images in test, in (0, 1).
        seed: seed of the split, which is by subject and stratified by class.

    Returns:
        The path of the data list.

    Raises:
        ConfigError: if ``subject_pattern`` is no regular expression or ``test_fraction`` is out of range.
        DataError: if ``root`` has no class folders with images, or a name does not match ``subject_pattern``.
    """
    root = _existing_folder(root)
    try:
        pattern = re.compile(subject_pattern) if subject_pattern is not None else None
    except re.error as error:
        raise ConfigError(f"subject_pattern {subject_pattern!r} is no regular expression: {error}.") from error
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(folders) < 1:
        raise DataError(f"{root} holds no folders: put the images of each class into a folder named as the class.")
    if all(folder.name.lower() in SPLIT_NAMES for folder in folders):
        raise DataError(
            f"{root} holds the folders of a split ({', '.join(folder.name for folder in folders)}), not of classes: "
            f"give one of them, such as {folders[0]}, or a CSV."
        )
    items: list[dict[str, Any]] = []
    for label, folder in enumerate(folders):
        files = _image_files(folder)
        if not files:
            raise DataError(f"{folder} holds no images ({', '.join(IMAGE_SUFFIXES)}): fill it or remove it.")
        for file in files:
            item: dict[str, Any] = {"image": str(file), "label": label}
            if pattern is not None:
                match = pattern.search(file.name)
                if match is None or not (match.group(1) if pattern.groups else match.group()):
                    raise DataError(
                        f"{file} has no subject: its name does not match subject_pattern {subject_pattern!r}. Rename "
                        "the file or mend the pattern."
                    )
                item["subject"] = match.group(1) if pattern.groups else match.group()
            items.append(item)
    return _split_and_write(
        items,
        output=output,
        labels={label: folder.name for label, folder in enumerate(folders)},
        name=root.name,
        description="Made from a folder a class.",
        test_fraction=test_fraction,
        seed=seed,
    )


def datalist_from_csv(
    csv_file: str | os.PathLike[str],
    *,
    image_root: str | os.PathLike[str],
    output: str | os.PathLike[str],
    image_column: str = "image",
    label_column: str = "label",
    subject_column: str | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> Path:
    """Make a data list from a CSV with a row an image.

    Args:
        csv_file: UTF-8, comma-separated, with a header line.
        image_root: the folder to which the paths in ``image_column`` are relative.
        output: the data list to write.
        image_column: the column of image paths.
        label_column: the column of classes, whole numbers or text. The classes are numbered from 0 in their order, by
            value or by alphabet; the text is kept as their name.
        subject_column: the column of patients. Without it every image is its own subject.
        test_fraction: share of the images in test, in (0, 1).
        seed: seed of the split, which is by subject and stratified by class.

    Returns:
        The path of the data list.

    Raises:
        ConfigError: if ``test_fraction`` is out of range.
        DataError: if the file or a column is missing, a cell is empty, or an image does not exist.
    """
    image_root = _existing_folder(image_root)
    columns = [image_column, label_column, *([subject_column] if subject_column is not None else [])]
    rows = _read_csv(csv_file, columns)
    numbers = _number_classes({row[label_column] for row in rows})
    items = [
        {"image": str(image_root / row[image_column]), "label": numbers[row[label_column]]}
        | ({"subject": row[subject_column]} if subject_column is not None else {})
        for row in rows
    ]
    missing = [item["image"] for item in items if not os.path.exists(str(item["image"]))]
    if missing:
        raise DataError(
            f"{missing[0]}, named in {csv_file}, does not exist ({len(missing)} of {len(items)} images are missing): "
            "check image_root and the column of images."
        )
    return _split_and_write(
        items,
        output=output,
        labels={number: text for text, number in numbers.items()},
        name=Path(csv_file).stem,
        description=f"Made from {Path(csv_file).name}.",
        test_fraction=test_fraction,
        seed=seed,
    )


def datalist_from_shenzhen(
    root: str | os.PathLike[str], *, output: str | os.PathLike[str], test_fraction: float = 0.2, seed: int = 0
) -> Path:
    """Make a data list from the Shenzhen Hospital chest radiographs (normal, tuberculosis).

    Args:
        root: holds, at any depth, files ``CHNCXR_0001_0.png``: number of the patient, one image each, and class.
        output: the data list to write.
        test_fraction: share of the images in test, in (0, 1).
        seed: seed of the split, stratified by class.

    Returns:
        The path of the data list.

    Raises:
        ConfigError: if ``test_fraction`` is out of range.
        DataError: if there are no such files.
    """
    root = _existing_folder(root)
    items: list[dict[str, Any]] = []
    for file in _image_files(root):
        match = re.fullmatch(r"(CHNCXR_\d+)_([01])\.png", file.name)
        if match is not None:
            items.append({"image": str(file), "label": int(match[2]), "subject": match[1]})
    if not items:
        raise DataError(f"{root} holds no files named like CHNCXR_0001_0.png: give the folder of Shenzhen's images.")
    return _split_and_write(
        items,
        output=output,
        labels=SHENZHEN_LABELS,
        name="shenzhen",
        description="Shenzhen Hospital chest radiographs: normal (0) and tuberculosis (1), one image a patient.",
        test_fraction=test_fraction,
        seed=seed,
    )


def datalist_from_aptos(
    root: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str],
    max_per_class: int | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> Path:
    """Make a data list from APTOS 2019 (fundus photographs, five grades of diabetic retinopathy).

    APTOS names no patients: every image is its own subject, although some patients have several.

    Args:
        root: holds ``train.csv`` (``id_code``, ``diagnosis``) and the images ``id_code.png``, in ``train_images/`` or
            beside it.
        output: the data list to write.
        max_per_class: if given, at most this many images of each grade, drawn by ``seed``: 190 makes the 950
            balanced images of the paper.
        test_fraction: share of the images in test, in (0, 1).
        seed: seed of the draw and of the split, stratified by class.

    Returns:
        The path of the data list.

    Raises:
        ConfigError: if ``max_per_class`` or ``test_fraction`` is out of range.
        DataError: if ``train.csv`` or an image is missing, or a diagnosis is no grade from 0 to 4.
    """
    root = _existing_folder(root)
    if max_per_class is not None and max_per_class < 2:
        raise ConfigError(f"max_per_class is {max_per_class}, but training and test need one image of a class each.")
    folder = root / "train_images" if (root / "train_images").is_dir() else root
    by_grade: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in _read_csv(root / "train.csv", ["id_code", "diagnosis"]):
        image, diagnosis = folder / f"{row['id_code']}.png", row["diagnosis"]
        if diagnosis not in map(str, APTOS_LABELS):
            raise DataError(f"{root / 'train.csv'} has the diagnosis {diagnosis!r} for {row['id_code']}, not 0 to 4.")
        if not image.exists():
            raise DataError(f"{image}, named in {root / 'train.csv'}, does not exist: unpack the images there.")
        by_grade[int(diagnosis)].append({"image": str(image), "label": int(diagnosis)})
    items: list[dict[str, Any]] = []
    for grade, of_grade in sorted(by_grade.items()):
        order = torch.randperm(len(of_grade), generator=seeded_generator(seed, "grade", grade))
        items += [of_grade[index] for index in sorted(order[:max_per_class].tolist())]
    return _split_and_write(
        items,
        output=output,
        labels=APTOS_LABELS,
        name="aptos",
        description="APTOS 2019 fundus photographs, graded for diabetic retinopathy. No patients are named.",
        test_fraction=test_fraction,
        seed=seed,
    )


def datalist_from_medmnist(npz_file: str | os.PathLike[str], *, output_dir: str | os.PathLike[str]) -> Path:
    """Write a MedMNIST file as images and a data list; its own split is kept, with ``val`` joined to ``train``.

    MedMNIST names no patients: every image is its own subject.

    Args:
        npz_file: arrays ``train_images``, ``train_labels``, ``val_...``, ``test_...``: uint8 images [N, Y, X],
            [N, Y, X, 3] or, in the 3D sets, [N, X, Y, Z], and one label an image [N, 1] or [N].
        output_dir: the folder to write ``images/`` (PNG or NIfTI) and ``datalist.json`` to.

    Returns:
        The path of the data list.

    Raises:
        DataError: if the file is missing or damaged, an array is missing, of another shape or type, the set has
            several labels an image, or ``output_dir`` holds another data set.
    """
    arrays = _read_medmnist(Path(npz_file))
    sections: dict[str, list[dict[str, Any]]] = {"training": [], "test": []}
    labels: set[int] = set()
    with replaced_dataset(output_dir, pattern=r"(training|test)_\d{6}\.(png|nii\.gz)") as folder:
        for split, section in (("train", "training"), ("val", "training"), ("test", "test")):
            images, classes = arrays[split]
            volumes = images.ndim == 4 and images.shape[-1] != 3
            for image, label in zip(images, classes.tolist(), strict=True):
                name = f"{IMAGES_FOLDER}/{section}_{len(sections[section]):06d}{image_suffix(3 if volumes else 2)}"
                pixels = torch.from_numpy(image)
                if not volumes:  # rows [Y, X] or [Y, X, C] to [C, X, Y]
                    pixels = pixels.reshape(*image.shape[:2], -1).permute(2, 1, 0)
                write_image(folder / name, (pixels[None] if volumes else pixels) / 255.0)
                sections[section].append({"image": name, "label": int(label)})
                labels.add(int(label))
        write_datalist(
            folder / DATALIST_NAME,
            labels={label: f"class {label}" for label in range(max(labels) + 1)},
            sections=sections,
            name=Path(npz_file).stem,
            description="Made from a MedMNIST file. No patients are named.",
        )
    return Path(output_dir) / DATALIST_NAME


def _read_medmnist(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    if not path.is_file():
        raise DataError(f"{path} does not exist: give the .npz file of a MedMNIST set.")
    arrays: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            for split in ("train", "val", "test"):
                arrays[split] = (file[f"{split}_images"], file[f"{split}_labels"])
    except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as a MedMNIST file: {error}. Get it again.") from error
    for split, (images, classes) in arrays.items():
        if images.dtype != np.uint8 or images.ndim not in (3, 4):
            raise DataError(
                f"{path} has {split}_images of type {images.dtype} and shape {images.shape}, but uint8 [N, Y, X], "
                "[N, Y, X, 3] or [N, X, Y, Z] is needed."
            )
        if classes.size != len(images) or classes.dtype.kind not in "iu":
            raise DataError(
                f"{path} has {split}_labels of type {classes.dtype} and shape {classes.shape}, but one whole number "
                "an image is needed: sets with several labels an image are not supported."
            )
        arrays[split] = (images, classes.reshape(-1))
    if not len(arrays["train"][0]):
        raise DataError(f"{path} has no training images.")
    return arrays


def _existing_folder(path: str | os.PathLike[str]) -> Path:
    folder = Path(path).absolute()
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder: give the folder that holds the images.")
    return folder


def _image_files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    images = [file for file in files if file.name.lower().endswith(IMAGE_SUFFIXES)]
    if len(images) < len(files):
        logger.info("%s: %d files that are no images were left out.", folder, len(files) - len(images))
    return images


def _read_csv(path: str | os.PathLike[str], columns: Sequence[str]) -> list[dict[str, str]]:
    """The named columns of every row, stripped; none may be empty."""
    rows: list[dict[str, str]] = []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            absent = [column for column in columns if column not in (reader.fieldnames or [])]
            if absent:
                raise DataError(
                    f"{path} has no column {absent[0]!r}, only {list(reader.fieldnames or [])}: name the right column."
                )
            for row in reader:
                cells = {column: (row[column] or "").strip() for column in columns}
                empty = [column for column, cell in cells.items() if not cell]
                if empty:
                    raise DataError(f"{path}, line {reader.line_num}, has no {empty[0]!r}: fill it or drop the line.")
                rows.append(cells)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist: give the path of a CSV with the columns {list(columns)}.") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a CSV in UTF-8: {error}.") from error
    if not rows:
        raise DataError(f"{path} has no rows: add a line an image.")
    return rows


def _number_classes(texts: Iterable[str]) -> dict[str, int]:
    texts = set(texts)
    whole = all(re.fullmatch(r"[+-]?\d+", text) for text in texts)
    ordered = sorted(texts, key=lambda text: (int(text), text)) if whole else sorted(texts)
    return {text: number for number, text in enumerate(ordered)}


def _split_and_write(
    items: list[dict[str, Any]],
    *,
    output: str | os.PathLike[str],
    labels: Mapping[int, str],
    name: str,
    description: str,
    test_fraction: float,
    seed: int,
) -> Path:
    training, test = split_by_subject(items, test_fraction=test_fraction, seed=seed)
    if "subject" not in items[0]:
        logger.warning(
            "%s names no patients: every image counts as a patient of its own, and images of one patient may lie on "
            "both sides of the split.",
            name,
        )
    return write_datalist(
        output, labels=labels, sections={"training": training, "test": test}, name=name, description=description
    )
