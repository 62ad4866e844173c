"""Data lists from what people have: one folder per class, a CSV, Shenzhen, APTOS, a MedMNIST file."""

from __future__ import annotations

import logging
import os
import re
import zipfile
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monai_plan.data.datalist import DATALIST_NAME, split_by_subject, write_datalist
from monai_plan.data.dicom import dicom_images
from monai_plan.data.reader import image_kind
from monai_plan.data.tables import SHORTENED, is_missing, number_classes, plain_number, read_table, unify
from monai_plan.data.writers import IMAGES_FOLDER, image_suffix, replaced_dataset, write_image
from monai_plan.utils import ConfigError, DataError, seeded_generator

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
    look_alikes: str = "refuse",
) -> Path:
    """Make a data list from one folder per class.

    Args:
        root: holds one folder per class, named as the class; the classes are numbered in sorted order. Folders below
            are searched too, linked ones included. What is no image is left out, and its number is logged. A folder
            with the slices of one DICOM series is one image.
        output: the data list to write.
        subject_pattern: regular expression searched in the file name; its first group, or the whole match if it has
            none, is the subject. Without it every image is its own subject, but for DICOM, which names its patients.
        test_fraction: share of the images in test, in (0, 1).
        seed: seed of the split, which is by subject and stratified by class.
        look_alikes: what becomes of subjects or classes that differ only in case, spaces, ``.0`` or leading zeros:
            "refuse", "merge" or "keep".

    Returns:
        The path of the data list.

    Raises:
        ConfigError: if ``subject_pattern`` is no regular expression or ``test_fraction`` is out of range.
        DataError: if ``root`` has no class folders with images, an image is in two of them, a name does not match
            ``subject_pattern``, or there are look-alikes.
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
    names = unify([folder.name for folder in folders], what="classes", remedy=look_alikes)
    numbers = number_classes(names)
    left_out = Counter(file.suffix.lower() or "without suffix" for file in root.iterdir() if _is_stray(file, output))
    items: list[dict[str, Any]] = []
    patients: list[str] = []
    classes: dict[str, str] = {}
    for name, folder in zip(names, folders, strict=True):
        images = _images_of_class(folder, left_out)
        for image in images:
            other = classes.setdefault(os.path.realpath(image), name)
            if other != name:
                raise DataError(f"{image} is in two classes, {other} and {name}, by a link: leave it in one.")
            items.append({"image": str(image), "label": numbers[name]})
        patients += images.values()
    if pattern is not None:
        patients = [_matched(pattern, Path(item["image"])) for item in items]
    if not any(is_missing(patient) for patient in patients):
        for item, patient in zip(items, unify(patients, what="patients", remedy=look_alikes), strict=True):
            item["subject"] = patient
        if pattern is None:
            logger.warning("%s: patients are told apart by PatientID (0010,0020) of the DICOM files", root)
    _say_left_out(root, left_out)
    return _split_and_write(
        items,
        output=output,
        labels={number: name for name, number in numbers.items()},
        name=root.name,
        description="Made from one folder per class.",
        test_fraction=test_fraction,
        seed=seed,
    )


def _is_stray(file: Path, output: str | os.PathLike[str]) -> bool:
    """Whether a file lies beside the folders of the classes and is not the data list itself."""
    return file.is_file() and not file.name.startswith(".") and file.absolute() != Path(output).absolute()


def _images_of_class(folder: Path, left_out: Counter[str]) -> dict[Path, str]:
    """The images below a folder with their patients, who are empty where the file names none."""
    files, others = _image_files(folder)
    left_out.update(others)
    dicom = [file for file in files if image_kind(file) == "dicom"]
    images = dict.fromkeys(sorted(set(files) - set(dicom)), "")
    if dicom:
        found, without = dicom_images(dicom)
        images |= found
        left_out.update(without)
    if not images:
        raise DataError(f"{folder} holds no images: fill it or remove it.")
    return dict(sorted(images.items()))


def _matched(pattern: re.Pattern[str], file: Path) -> str:
    match = pattern.search(file.name)
    subject = match and (match.group(1) if pattern.groups else match.group())
    if not subject:
        raise DataError(
            f"{file} has no subject: its name does not match subject_pattern {pattern.pattern!r}. Rename the file or "
            "mend the pattern."
        )
    return subject


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
    look_alikes: str = "refuse",
) -> Path:
    """Make a data list from a CSV with one row per image.

    Args:
        csv_file: with a header line; commas, semicolons, tabs or bars between the cells; UTF-8, UTF-16 or cp1252.
        image_root: the folder to which the paths in ``image_column`` are relative.
        output: the data list to write.
        image_column: the column of image paths.
        label_column: the column of classes, numbers or text. The classes are numbered from 0 in their order, by value
            or by alphabet; the text is kept as their name, and ``0.0`` is ``0``.
        subject_column: the column of patients. Without it every image is its own subject.
        test_fraction: share of the images in test, in (0, 1).
        seed: seed of the split, which is by subject and stratified by class.
        look_alikes: what becomes of subjects or classes that differ only in case, spaces, ``.0`` or leading zeros:
            "refuse", "merge" or "keep".

    Returns:
        The path of the data list.

    Raises:
        ConfigError: if ``test_fraction`` is out of range.
        DataError: if the file or a column is missing, a cell says nothing ("nan", "NA", "None" or empty), an image
            does not exist, or there are look-alikes.
    """
    image_root = _existing_folder(image_root)
    columns = [image_column, label_column, *([subject_column] if subject_column is not None else [])]
    rows = read_table(csv_file, columns)
    classes = unify([plain_number(row[label_column]) for row in rows], what="classes", remedy=look_alikes)
    numbers = number_classes(classes)
    items: list[dict[str, Any]] = [
        {"image": str(image_root / row[image_column]), "label": numbers[name]}
        for row, name in zip(rows, classes, strict=True)
    ]
    if subject_column is not None:
        shortened = [row[subject_column] for row in rows if SHORTENED.fullmatch(row[subject_column])]
        if shortened:
            raise DataError(
                f"{csv_file} has {len(shortened)} patients such as {shortened[0]!r}, a long number that a spreadsheet "
                "shortened, so that several patients may have become one: export that column as text."
            )
        subjects = unify([row[subject_column] for row in rows], what="patients", remedy=look_alikes)
        items = [item | {"subject": subject} for item, subject in zip(items, subjects, strict=True)]
    missing = [item["image"] for item in items if not os.path.exists(item["image"])]
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
    for file in _image_files(root)[0]:
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
    for row in read_table(root / "train.csv", ["id_code", "diagnosis"]):
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


def _image_files(folder: Path) -> tuple[list[Path], Counter[str]]:
    """The images below a folder, linked folders included, and how many files of which suffix are none."""
    images: list[Path] = []
    left_out: Counter[str] = Counter()
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link to a folder above, or to one that was seen
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            file = Path(place, name)
            if name.startswith("."):
                left_out["hidden"] += 1
            elif file.suffix.lower() == ".hdr" and {file.stem + ".img", file.stem + ".IMG"} & set(names):
                continue  # the first half of a volume of two files
            elif image_kind(file) is not None:
                images.append(file)
            else:
                left_out[file.suffix.lower() or "without suffix"] += 1
    return sorted(images), left_out


def _say_left_out(folder: Path, left_out: Counter[str]) -> None:
    if left_out:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(left_out.items()))
        logger.warning("%s: left out what is no image: %s", folder, kinds)


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
