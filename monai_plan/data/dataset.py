"""The images of a data list, loaded, transformed and checked once, before any training."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from monai.transforms import Compose, Randomizable
from torch import Tensor
from torch.utils.data import Dataset

from monai_plan.data.datalist import Datalist, read_datalist
from monai_plan.data.facts import check_classes, check_files
from monai_plan.data.intensity import ScaleShownd
from monai_plan.data.loading import clear_cache, load_images
from monai_plan.utils import ConfigError, DataError, digest

logger = logging.getLogger(__name__)


class CheckedDataset(Dataset):
    """A section of a data list in memory, every image checked at construction.

    An item is a new dict with ``image`` (plain float32 tensor [C, *spatial] in [-1, 1], without MetaTensor, metadata
    or absolute path), ``label`` (int), ``subject`` (str), ``key`` (image path as in the data list) and ``identity``
    (int, the position of the subject in sorted order). It serves as ``data`` of ``monai.data.Dataset`` with random
    transforms on top.

    Images are read on all cores. Grey pictures stored as RGB become grey where ``img_channels`` is 1, and grey ones are
    repeated where it is 3.

    Args:
        datalist_file: the data list, see ``read_datalist``.
        section: the section of it to load.
        transform: deterministic MONAI transforms on the key ``image``, applied once: load, channel first, resize,
            scale to [-1, 1].
        img_size: pixels of each spatial axis after the transform.
        img_channels: channels after the transform.
        num_classes: labels are 0 ... num_classes - 1, and each must occur.
        skip_bad_images: leave bad images out with a warning each, instead of raising an error.
        merge_duplicates: count subjects who share an image (the same pixels as read) as one.
        known: digests of images that another section has; with ``merge_duplicates`` these are left out.
        cache_dir: folder in which the images are kept, as they are after the transform, until the data list, a file, or
            the transform changes. A transform that cannot be pickled is not kept.
        progress: show a progress bar.

    Attributes:
        images: [N, C, *spatial], float32 to whoever indexes or splits them, in memory 8 or 16 bits where these say the
            same, see ``HeldImages``.
        labels: [N], int64.
        subjects: N subjects.
        keys: N image paths, as in the data list.
        identities: [N], int64, in 0 ... num_subjects - 1.
        num_subjects: number of different subjects.
        has_subjects: whether the data list names subjects; if not, every image counts as one.
        label_names: the name of every class, by its number.
        skipped: (key, reason) of every image left out.
        shown_affines: [N, 4, 4], of every image after the transform; the identity where the transform keeps none.
        affines: [N, 4, 4], of every image as read.
        digests: of the pixels of every image as read, before resizing and scaling: equal for equal pictures.
        intensity: how the transform scales, see ``choose_scaling``; None if ``ScaleShownd`` is not in it.

    Raises:
        ConfigError: if the transform is random, or ``img_size``, ``img_channels`` or ``num_classes`` is not positive.
        DataError: if the section is missing or empty, a class has no image, or an image is missing, unreadable, of
            another size or channel count, outside [-1, 1], not finite, or of a label outside the classes.
    """

    def __init__(
        self,
        *,
        datalist_file: str | os.PathLike[str],
        section: str = "training",
        transform: Callable[[dict[str, Any]], Any],
        img_size: Sequence[int],
        img_channels: int,
        num_classes: int,
        skip_bad_images: bool = False,
        merge_duplicates: bool = False,
        known: Sequence[str] = (),
        cache_dir: str | os.PathLike[str] | None = None,
        progress: bool = False,
    ) -> None:
        shape = _checked_shape(img_size, img_channels, num_classes)
        steps = transform.flatten().transforms if isinstance(transform, Compose) else [transform]
        _check_deterministic(steps)
        if cache_dir is not None:
            clear_cache(cache_dir, [datalist_file])
        datalist = read_datalist(datalist_file)
        items = _section(datalist, section, num_classes)
        loaded = load_images(
            items,
            transform,
            shape=shape,
            num_classes=num_classes,
            cache_file=None if cache_dir is None else Path(cache_dir) / f"{section}.pt",
            keep_bad=skip_bad_images,
            desc=f"reading {section}" if progress else None,
        )
        if loaded.bad and not skip_bad_images:
            _raise_bad(loaded.bad, items, datalist.path)
        self.skipped: list[tuple[str, str]] = [(items[index]["key"], reason) for index, reason, _ in loaded.bad]
        for key, reason in self.skipped:
            logger.warning("Left out %s: it %s", key, reason)
        self.images, self.digests, affines = loaded.images, loaded.digests, loaded.affines
        self.affines = affines[:, 0]
        self.shown_affines = affines[:, 1]
        kept = [items[index] for index in loaded.kept]
        if merge_duplicates:
            kept = self._merge_duplicates(kept, known)
        self.intensity = next((step.scaling for step in steps if isinstance(step, ScaleShownd)), None)
        self._name(kept, datalist)
        _check_no_class_is_empty(self.labels, num_classes, section, datalist)

    def _name(self, items: Sequence[dict[str, Any]], datalist: Datalist) -> None:
        """Labels, subjects and keys of the images that were kept."""
        self.labels = torch.tensor([item["label"] for item in items], dtype=torch.long)
        self.subjects: list[str] = [item["subject"] for item in items]
        self.keys: list[str] = [item["key"] for item in items]
        names = sorted(set(self.subjects))
        index = {name: number for number, name in enumerate(names)}
        self.identities = torch.tensor([index[subject] for subject in self.subjects], dtype=torch.long)
        self.num_subjects = len(names)
        self.has_subjects = datalist.has_subjects
        self.label_names = datalist.labels

    def _merge_duplicates(self, items: list[dict[str, Any]], known: Sequence[str]) -> list[dict[str, Any]]:
        """Leave out what another section has, and give subjects who share an image the name of the first of them."""
        apart = [index for index, found in enumerate(self.digests) if found not in set(known)]
        if len(apart) < len(items):
            logger.warning("left out %d images that another section has", len(items) - len(apart))
            self.images, self.affines = self.images.subset(apart), self.affines[apart]
            self.shown_affines = self.shown_affines[apart]
            self.digests, items = [self.digests[index] for index in apart], [items[index] for index in apart]
        joined = join_subjects(self.digests, [item["subject"] for item in items])
        return [item | {"subject": joined[item["subject"]]} for item in items]

    @property
    def patients_affines(self) -> Tensor:
        """[P, 4, 4], ``shown_affines`` of the first image of each patient."""
        first = {subject: index for index, subject in reversed(list(enumerate(self.subjects)))}
        return self.shown_affines[sorted(first.values())]

    @cached_property
    def made_of(self) -> str:
        """64 hexadecimal digits, equal for the same pictures of the same classes and patients in the same order."""
        return digest(self.digests, self.labels, self.subjects)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            "image": self.images[index],
            "label": int(self.labels[index]),
            "subject": self.subjects[index],
            "key": self.keys[index],
            "identity": int(self.identities[index]),
        }


def join_subjects(digests: Sequence[str], subjects: Sequence[str]) -> dict[str, str]:
    """The name of every subject once those who share an image count as one: the first of them in sorted order."""
    joined = {subject: subject for subject in subjects}

    def root(subject: str) -> str:
        while joined[subject] != subject:
            subject = joined[subject]
        return subject

    first: dict[str, str] = {}
    for picture, subject in zip(digests, subjects, strict=True):
        one, other = sorted((root(first.setdefault(picture, subject)), root(subject)))
        joined[other] = one
    return {subject: root(subject) for subject in joined}


def _checked_shape(img_size: Sequence[int], img_channels: int, num_classes: int) -> tuple[int, ...]:
    """[C, *spatial]."""
    if isinstance(img_size, int):
        raise ConfigError(
            f"img_size is {img_size}, but a list of as many numbers as axes is needed: [{img_size}, ...]."
        )
    shape = (int(img_channels), *map(int, img_size))
    if min(shape) < 1 or num_classes < 1:
        raise ConfigError(
            f"img_channels is {img_channels}, img_size {tuple(img_size)} and num_classes {num_classes}, but all must "
            "be positive."
        )
    return shape


def _section(datalist: Datalist, name: str, num_classes: int) -> list[dict[str, Any]]:
    """The items of a section, after what can be checked before a file is opened."""
    items = datalist.sections.get(name)
    if not items:
        raise DataError(
            f'{datalist.path} has no images in the section "{name}": add some, or choose one of '
            f"{sorted(name for name, entries in datalist.sections.items() if entries)}."
        )
    if name == "training":
        check_classes(datalist, num_classes)
    check_files(items, datalist)
    return items


def _check_no_class_is_empty(labels: Tensor, num_classes: int, section: str, datalist: Datalist) -> None:
    empty = [label for label in range(num_classes) if not (labels == label).any()]
    if empty:
        named = ", ".join(f"{label} ({datalist.labels.get(label, 'not named in the data list')})" for label in empty)
        raise DataError(
            f'{datalist.path} has no usable image of class {named} in the section "{section}": add images of it or '
            f"lower num_classes, which is {num_classes}."
        )


def _check_deterministic(steps: Sequence[Any]) -> None:
    for step in steps:
        if isinstance(step, Randomizable):
            raise ConfigError(
                f"{type(step).__name__} is random, but the images are transformed once, before training: move it to "
                "the random transforms of the training."
            )


def _raise_bad(bad: Sequence[tuple[int, str, str]], items: Sequence[dict[str, Any]], path: Path) -> None:
    """One sentence on the first bad image; where most are bad alike, the configuration is to blame and not they."""
    index, reason, mend = bad[0]
    alike = sum(other == mend for _, _, other in bad)
    if mend and alike > max(len(items) / 2, 1):
        many = "all" if alike == len(items) else f"{alike} of"
        remedy = f"{many} {len(items)} images are bad, so mend {mend} rather than the images."
    elif reason.startswith("does not exist"):
        missing = sum(text.startswith("does not exist") for _, text, _ in bad)
        count = f"{missing} of {len(items)} images are missing. Copy them" if missing > 1 else "copy it"
        remedy = f"{count} there, or leave such images out with --skip-bad-images."
    else:
        more = f" ({len(bad) - 1} more images are bad.)" if len(bad) > 1 else ""
        remedy = f"mend or remove it, or leave such images out with --skip-bad-images.{more}"
    raise DataError(f"{items[index]['key']}, listed in {path}, {reason}: {remedy}")
