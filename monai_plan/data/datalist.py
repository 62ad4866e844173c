"""Data lists in MONAI's Decathlon form, and the rules that a private data set must keep.

A file holds ``{"labels": {"0": name, ...}, "training": [{"image", "label", "subject"}, ...], "test": [...]}``. Image
paths are relative to the file. ``subject`` is the patient: whatever counts privacy counts subjects.
"""

from __future__ import annotations

import os
import re
import reprlib
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from monai_plan.data.tables import LOOK_LATIN, is_missing
from monai_plan.utils import ConfigError, DataError, read_json, seeded_generator, write_json

DATALIST_NAME = "datalist.json"


@dataclass(frozen=True)
class Datalist:
    """A data list as it was read and checked.

    Attributes:
        path: the file.
        labels: the name of every class, by its number.
        sections: ``training``, and where present ``test`` and others. An item is a dict with ``image`` (absolute
            path), ``label`` (int), ``subject`` (str) and ``key`` (the image's path as the file has it).
        has_subjects: whether the file names subjects. If not, every image is its own subject (its key), and any
            count of patients is a count of images.
    """

    path: Path
    labels: dict[int, str]
    sections: dict[str, list[dict[str, Any]]]
    has_subjects: bool


def read_datalist(path: str | os.PathLike[str]) -> Datalist:
    """Read and check a data list. No image is opened.

    Args:
        path: a JSON file in Decathlon form.

    Raises:
        DataError: if the file is missing or no JSON, an item lacks ``image`` or ``label``, a label is no integer, an
            image occurs twice, only some items have a ``subject``, or a subject is in both ``training`` and ``test``.
    """
    path = Path(path).absolute()
    content = read_json(path, what="a data list")
    for key, kind, remedy in (
        ("labels", dict, 'the names of the classes, such as {"0": "normal", "1": "lesion"}'),
        ("training", list, 'the training images, such as [{"image": "a.png", "label": 0, "subject": "p1"}]'),
    ):
        if not isinstance(content, dict) or not isinstance(content.get(key), kind):
            raise DataError(f'{path} has no "{key}": add {remedy}.')
    labels = _label_names(content["labels"], path)
    sections: dict[str, list[dict[str, Any]]] = {}
    seen: dict[str, str] = {}
    with_subject = Counter[bool]()
    for name, entries in content.items():
        if not isinstance(entries, list) or not (name in ("training", "validation", "test") or _has_images(entries)):
            continue
        sections[name] = []
        for number, entry in enumerate(entries):
            item = _checked_item(entry, where=f'{path}, "{name}" item {number}', folder=path.parent)
            if item["image"] in seen:
                raise DataError(
                    f'{path} lists {item["key"]} twice, in "{seen[item["image"]]}" and in "{name}": keep it once.'
                )
            seen[item["image"]] = name
            with_subject["subject" in item] += 1
            item.setdefault("subject", item["key"])
            sections[name].append(item)
    if len(with_subject) == 2:
        raise DataError(
            f'{path} names a "subject" for {with_subject[True]} images and none for {with_subject[False]}: name it '
            "for all, or for none if every image is of another patient."
        )
    check_split(sections["training"], sections.get("test", ()))
    return Datalist(path=path, labels=labels, sections=sections, has_subjects=with_subject[True] > 0)


def _label_names(labels: Mapping[str, Any], path: Path) -> dict[int, str]:
    """The names of the classes, each number and name told apart by everybody who reads them."""
    names: dict[int, str] = {}
    seen: dict[str, str] = {}
    for number, name in labels.items():
        if not re.fullmatch("0|[1-9][0-9]{0,8}", number):
            raise DataError(f'{path} has "labels" that are no whole numbers ({number!r}): use "0", "1", ...')
        if not isinstance(name, str) or not name.strip():
            raise DataError(f'{path} has the name {reprlib.repr(name)} of class {number} in "labels": use a text.')
        visible = "".join(c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")
        look = " ".join(visible.casefold().translate(LOOK_LATIN).split())
        if look in seen:
            raise DataError(f'{path} has "labels" that look alike, {seen[look]!r} and {name!r}: rename one of them.')
        names[int(number)] = seen[look] = name
    return names


def _has_images(entries: list[Any]) -> bool:
    return bool(entries) and all(isinstance(entry, dict) and "image" in entry for entry in entries)


def _checked_item(entry: Any, *, where: str, folder: Path) -> dict[str, Any]:
    for key in ("image", "label"):
        if not isinstance(entry, dict) or key not in entry:
            raise DataError(
                f'{where} has no "{key}": write it as {{"image": "a.png", "label": 0, "subject": "p1"}}, and leave '
                "unlabelled images out."
            )
    image, label = entry["image"], entry["label"]
    if not isinstance(image, str) or not image:
        raise DataError(f"{where} has the image {image!r}: give the path of one file, relative to the data list.")
    if isinstance(label, bool) or not isinstance(label, int):
        raise DataError(f"{where} ({image}) has the label {label!r}: labels are whole numbers from 0.")
    item = {"image": os.path.normpath(folder / image), "label": label, "key": image}
    if not is_missing(entry.get("subject")):
        item["subject"] = str(entry["subject"])
    return item


def write_datalist(
    path: str | os.PathLike[str],
    *,
    labels: Mapping[int, str],
    sections: Mapping[str, Sequence[Mapping[str, Any]]],
    name: str,
    description: str = "",
) -> Path:
    """Write a data list in Decathlon form, whole or not at all.

    Args:
        path: the file, by convention ``datalist.json``.
        labels: the name of every class, by its number.
        sections: items by section (``training``, ``test``, ...), each with ``image``, ``label`` and, where the
            patient is known, ``subject``. An absolute image path is made relative to the file, a relative one is
            taken as relative to the file already. Empty sections are left out, ``training`` excepted.
        name: name of the data set.
        description: what it is and where it comes from.

    Returns:
        The path.

    Raises:
        DataError: if ``path`` is a folder.
    """
    path = Path(path).absolute()
    if path.is_dir():
        raise DataError(f"{path} is a folder: give the file to write, such as {path / DATALIST_NAME}.")
    content: dict[str, Any] = {"name": name, "description": description}
    content["labels"] = {str(number): text for number, text in sorted(labels.items())}
    for section, items in sections.items():
        if items or section == "training":
            content[section] = [_entry(item, path.parent) for item in items]
    write_json(path, content)
    return path


def _entry(item: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    image = str(item["image"])
    if os.path.isabs(image):
        image = Path(os.path.relpath(image, folder)).as_posix()
    return {"image": image, "label": int(item["label"])} | ({"subject": item["subject"]} if "subject" in item else {})


def check_split(training: Iterable[Mapping[str, Any]], test: Iterable[Mapping[str, Any]]) -> None:
    """Check that no subject is on both sides of a split.

    Args:
        training: items with ``subject`` and ``key``, as in ``Datalist.sections``.
        test: likewise.

    Raises:
        DataError: naming the subject and one of its files on each side.
    """
    known = {item["subject"]: item["key"] for item in training}
    shared = {item["subject"]: item["key"] for item in test if item["subject"] in known}
    if shared:
        subject, key = next(iter(shared.items()))
        more = f" ({len(shared)} subjects are)" if len(shared) > 1 else ""
        raise DataError(
            f'Subject {subject} is in both "training" ({known[subject]}) and "test" ({key}){more}: move all images of '
            "a subject to one side, for a test on known patients proves nothing."
        )


def split_by_subject(
    items: Sequence[Mapping[str, Any]], *, test_fraction: float, seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Split images into training and test by whole subjects, each class as near to ``test_fraction`` as they allow.

    Args:
        items: with ``image`` and ``label``; one without ``subject`` is its own subject.
        test_fraction: wanted share of the images of each class in test, in (0, 1).
        seed: seed of the draw.

    Returns:
        The items of training and of test, each in the given order.

    Raises:
        ConfigError: if ``test_fraction`` is not in (0, 1).
        DataError: if a class has no split that leaves an image of it on both sides.
    """
    if not 0.0 < test_fraction < 1.0:
        raise ConfigError(f"test_fraction is {test_fraction}, but must lie between 0 and 1, both excluded.")
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    subjects = [str(item.get("subject", item["image"])) for item in items]
    for subject, item in zip(subjects, items, strict=True):
        counts[subject][item["label"]] += 1
    # Subjects with images of several classes can lead a greedy draw into a dead end: another order may not.
    for attempt in range(10):
        test = _draw_test_subjects(counts, test_fraction, seeded_generator(seed, "split", attempt))
        empty = _class_on_one_side(counts, test)
        if empty is None:
            pairs = list(zip(subjects, items, strict=True))
            return [dict(i) for s, i in pairs if s not in test], [dict(i) for s, i in pairs if s in test]
    having = sum(empty in of_subject for of_subject in counts.values())
    raise DataError(
        f"Class {empty} has images of {having} subject(s) and cannot be on both sides of a split by subject: add "
        "subjects of this class or leave it out."
    )


def _draw_test_subjects(
    counts: Mapping[str, Mapping[int, int]], test_fraction: float, generator: torch.Generator
) -> set[str]:
    names = sorted(counts)
    order = [names[i] for i in torch.randperm(len(names), generator=generator).tolist()]
    totals = sum((Counter(of_subject) for of_subject in counts.values()), Counter[int]())
    decided: set[str] = set()
    test: set[str] = set()
    for label, total in sorted(totals.items(), key=lambda pair: (pair[1], pair[0])):  # the rarest class chooses first
        members = [subject for subject in order if label in counts[subject]]
        free = [subject for subject in members if subject not in decided]
        missing = test_fraction * total - sum(counts[subject][label] for subject in members if subject in test)
        training = len(members) - sum(subject in test for subject in members)
        if not any(subject in test for subject in members) and free and training > 1:
            first = next(
                (subject for subject in free if counts[subject][label] <= 2 * missing),
                min(free, key=lambda subject: counts[subject][label]),
            )
            free = [first, *(subject for subject in free if subject != first)]
            missing = max(missing, counts[first][label] / 2)
        for subject in free:
            size = counts[subject][label]
            if size <= 2 * missing and training > 1:  # it brings the class nearer to its share
                test.add(subject)
                missing -= size
                training -= 1
        decided.update(members)
    return test


def _class_on_one_side(counts: Mapping[str, Mapping[int, int]], test: set[str]) -> int | None:
    for label in sorted({label for of_subject in counts.values() for label in of_subject}):
        sides = {subject in test for subject, of_subject in counts.items() if label in of_subject}
        if len(sides) < 2:
            return label
    return None
