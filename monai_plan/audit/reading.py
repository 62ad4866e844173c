"""Images from disk, of any release and of the real data, in one size and one range."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.transforms import Compose, Resized
from torch import Tensor

from monai_plan.data import (
    CheckedDataset,
    inspect_datalist,
    read_datalist,
    write_datalist,
)
from monai_plan.data.datalist import DATALIST_NAME
from monai_plan.data.header import ImageHeader
from monai_plan.data.intensity import LoadNamedImaged, ScaleByFiled, scaling_by_file
from monai_plan.data.reader import image_kind
from monai_plan.utils import DataError, files_below, read_json

__all__ = ["ReadImages", "read_real", "read_released"]

SECTIONS = ("training", "test")
TEXTS = (".json", ".html", ".md", ".txt", ".csv", ".tsv", ".yaml", ".yml", ".log")  # beside a release: no pictures


@dataclass(frozen=True, eq=False)
class ReadImages:
    """Images of a section of a data list, or of a folder.

    Attributes:
        images: [N, C, *spatial] in [-1, 1].
        subjects: of each its patient; of a released one its group.
        has_subjects: whether they were named; if not, each is its own.
        keys: the path of each, as the data list has it, or below the folder.
        labels: [N], int64, or None where there are none.
        label_names: the name of each class.
        name: of the data set.
        files: the absolute path of each.
        digests: of the pixels of each as they were read: equal for equal pictures.
        skipped: files that could not be read, by the path below the folder of a release; empty for one that lies
            elsewhere, and for real ones.
        unlisted: image files in the folder of a release that its data list does not name.
        unread: suffixes of further files in the folder of a release, of no kind that is read, one for each file.
        depths: how values are stored, such as "8 bits"; several where files differ.
    """

    images: Tensor
    subjects: list[str]
    has_subjects: bool
    keys: list[str]
    labels: Tensor | None
    label_names: dict[int, str]
    name: str
    files: Sequence[str] = ()
    digests: Sequence[str] = ()
    skipped: Sequence[str] = ()
    unlisted: Sequence[str] = ()
    unread: Sequence[str] = ()
    depths: Sequence[str] = ()


def read_real(
    datalist_file: str | os.PathLike[str],
    *,
    work_dir: str | os.PathLike[str],
    img_size: Sequence[int] | int | None = None,
    skip_bad_images: bool = False,
) -> tuple[ReadImages, ReadImages]:
    """The members and the held-out patients: the sections ``training`` and ``test`` of a data list.

    Patients who share a picture count as one, and a held-out picture that a member has as well is left out.

    Args:
        datalist_file: the data list, or the folder that holds it (``datalist.json``).
        work_dir: private folder for a copy of the list.
        img_size: elements of each axis; None chooses a size that fits the files, see ``inspect_datalist``.
        skip_bad_images: leave out what cannot be read, instead of ending with an error.

    Raises:
        DataError: as ``CheckedDataset``; if there is no section ``test``.
    """
    datalist_file = Path(datalist_file)
    if datalist_file.is_dir():
        datalist_file = datalist_file / DATALIST_NAME
    datalist = read_datalist(datalist_file)
    if not datalist.sections.get("test"):
        raise DataError(
            f'{datalist_file} has no section "test": an audit needs patients who did not take part, or nothing says '
            "which likeness is chance. Put images of other patients there."
        )
    items = {section: datalist.sections[section] for section in SECTIONS}
    listed = _listed(Path(work_dir) / "real.json", items, has_subjects=datalist.has_subjects)
    facts = inspect_datalist(listed)
    size = (img_size,) * facts.spatial_dims if isinstance(img_size, int) else tuple(img_size or facts.img_size)
    read: list[ReadImages] = []
    for section in SECTIONS:
        known = read[0].digests if read else ()
        checked = _checked(listed, section, size, facts.img_channels, skip_bad_images, merge=True, known=known)
        read.append(_as_read(checked, listed, items[section], datalist.labels, name=_name(datalist_file)))
    return read[0], read[1]


def read_released(
    path: str | os.PathLike[str],
    *,
    like: ReadImages,
    work_dir: str | os.PathLike[str],
    skip_bad_images: bool = False,
) -> ReadImages:
    """A release that any tool made, brought to the size and the channels of the real images.

    Args:
        path: a data list, a folder with one (``datalist.json``), or a folder of images without.
        like: the real images.
        work_dir: private folder for a copy of the list.
        skip_bad_images: leave out what cannot be read, instead of ending with an error.

    Raises:
        DataError: if there is no image, or one cannot be read.
    """
    path = Path(path)
    named = path if path.is_file() else path / DATALIST_NAME
    folder = path.parent if path.is_file() else path
    below = [os.path.abspath(file) for file in files_below(folder)] if folder.is_dir() else []
    images = [file for file in below if image_kind(file)]
    if named.is_file():
        datalist = read_datalist(named)
        items, labels, has_subjects = datalist.sections["training"], datalist.labels, datalist.has_subjects
        name = _name(named)
    else:
        keys = [Path(file).relative_to(folder.absolute()).as_posix() for file in images]
        items = [{"image": file, "key": key, "subject": key} for file, key in zip(images, keys, strict=True)]
        labels, has_subjects, name = {}, False, folder.resolve().name
    if not items:
        raise DataError(f"{path} holds neither {DATALIST_NAME} nor images: give the folder of a release.")
    listed = _listed(Path(work_dir) / "released.json", {"training": items}, has_subjects=has_subjects)
    size, channels = tuple(like.images.shape[2:]), like.images.shape[1]
    checked = _checked(listed, "training", size, channels, skip_bad_images)
    taken = {item["image"] for item in items}
    unread = sorted({*below} - {*images} - taken - {file for file in below if file.lower().endswith(TEXTS)})
    return _as_read(
        checked,
        listed,
        items,
        labels,
        name=name,
        folder=folder,
        unlisted=sorted(set(images) - taken),
        unread=[Path(file).suffix.lower() for file in unread],
    )


def _listed(file: Path, sections: dict[str, list[dict[str, Any]]], *, has_subjects: bool) -> Path:
    """A data list of the same images without classes: an audit needs none, and a release may lack some."""
    plain = {
        section: [
            {"image": item["image"], "label": 0, **({"subject": item["subject"]} if has_subjects else {})}
            for item in items
        ]
        for section, items in sections.items()
    }
    return write_datalist(file, labels={0: "any"}, sections=plain, name=file.stem)


def _checked(
    listed: Path,
    section: str,
    size: tuple[int, ...],
    channels: int,
    skip_bad_images: bool,
    *,
    merge: bool = False,
    known: Sequence[str] = (),
) -> CheckedDataset:
    return CheckedDataset(
        datalist_file=listed,
        section=section,
        transform=Compose(
            [
                LoadNamedImaged("image"),
                Resized("image", spatial_size=size, mode="area"),
                ScaleByFiled("image", scaling_by_file(listed)),
            ]
        ),
        img_size=size,
        img_channels=channels,
        num_classes=1,
        skip_bad_images=skip_bad_images,
        merge_duplicates=merge,
        known=known,
        progress=True,
    )


def _as_read(
    checked: CheckedDataset,
    listed: Path,
    items: Sequence[dict[str, Any]],
    label_names: dict[int, str],
    *,
    name: str,
    folder: Path | None = None,
    unlisted: Sequence[str] = (),
    unread: Sequence[str] = (),
) -> ReadImages:
    """What was read, by the names and classes of the data list that it came from."""
    place = {item["image"]: item for item in items}

    def found(key: str) -> dict[str, Any]:
        return place[os.path.normpath(listed.absolute().parent / key)]

    kept, headers = [found(key) for key in checked.keys], inspect_datalist(listed).headers
    labels = torch.tensor([item["label"] for item in kept]) if label_names else None
    return ReadImages(
        images=checked.images[:],
        subjects=checked.subjects if checked.has_subjects else [item["subject"] for item in kept],
        has_subjects=checked.has_subjects,
        keys=[item["key"] for item in kept],
        labels=labels,
        label_names=label_names,
        name=name,
        files=[item["image"] for item in kept],
        digests=checked.digests,
        skipped=[_below(found(key)["image"], folder) for key, _ in checked.skipped],
        unlisted=unlisted,
        unread=unread,
        depths=sorted({_depth(headers[item["image"]]) for item in kept}),
    )


def _below(file: str, folder: Path | None) -> str:
    """The path below a folder, or nothing: what lies elsewhere may name a person or a machine."""
    base = None if folder is None else folder.absolute()
    return Path(file).relative_to(base).as_posix() if base is not None and Path(file).is_relative_to(base) else ""


def _depth(header: ImageHeader) -> str:
    return "real numbers" if header.bits is None else f"{header.bits} bits"


def _name(datalist_file: str | os.PathLike[str]) -> str:
    """The data set's name, or its folder's."""
    return str(read_json(datalist_file).get("name") or Path(datalist_file).absolute().parent.name)
