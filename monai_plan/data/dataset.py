"""The images of a data list, loaded, transformed and checked once, before any training."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms import Compose, Randomizable
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from monai_plan.data.datalist import read_datalist
from monai_plan.utils import ConfigError, DataError

__all__ = ["CheckedDataset"]

RANGE_TOLERANCE = 1e-3

logger = logging.getLogger(__name__)


class CheckedDataset(Dataset):
    """A section of a data list in memory, every image checked at construction.

    An item is a new dict with ``image`` (plain float32 tensor [C, *spatial] in [-1, 1], without MetaTensor, metadata
    or absolute path), ``label`` (int), ``subject`` (str), ``key`` (image path as in the data list) and ``identity``
    (int, the position of the subject in sorted order). It serves as ``data`` of ``monai.data.Dataset`` with random
    transforms on top.

    Args:
        datalist_file: the data list, see ``read_datalist``.
        section: the section of it to load.
        transform: deterministic MONAI transforms on the key ``image``, applied once: load, channel first, resize,
            scale to [-1, 1].
        img_size: pixels of each spatial axis after the transform.
        img_channels: channels after the transform.
        num_classes: labels are 0 ... num_classes - 1, and each must occur.
        skip_bad_images: leave bad images out with a warning each, instead of raising an error.
        progress: show a progress bar.

    Attributes:
        images: [N, C, *spatial], float32.
        labels: [N], int64.
        subjects: N subjects.
        keys: N image paths, as in the data list.
        identities: [N], int64, in 0 ... num_subjects - 1.
        num_subjects: number of different subjects.
        has_subjects: whether the data list names subjects; if not, every image counts as one.
        label_names: the name of every class, by its number.
        skipped: (key, reason) of every image left out.
        affine: 4 x 4 affine of the first image after the transform, as lists; None if the transform keeps none.

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
        progress: bool = False,
    ) -> None:
        shape = (int(img_channels), *map(int, img_size))
        if min(shape) < 1 or num_classes < 1:
            raise ConfigError(
                f"img_channels is {img_channels}, img_size {tuple(img_size)} and num_classes {num_classes}, but all "
                "must be positive."
            )
        _check_deterministic(transform)
        datalist = read_datalist(datalist_file)
        items = datalist.sections.get(section)
        if not items:
            raise DataError(
                f'{datalist.path} has no images in the section "{section}": add some, or choose one of '
                f"{sorted(name for name, entries in datalist.sections.items() if entries)}."
            )
        self.skipped: list[tuple[str, str]] = []
        self.affine: list[list[float]] | None = None
        images = torch.empty(len(items), *shape)
        kept: list[dict[str, Any]] = []
        for item in tqdm(items, desc=f"checking {section}", disable=not progress):
            try:
                image = _load(item, transform, shape=shape, num_classes=num_classes)
            except _BadImageError as error:
                self.skipped.append((item["key"], str(error)))
                continue
            if not kept and isinstance(image, MetaTensor):
                self.affine = image.affine.tolist()
            images[len(kept)] = image.as_tensor() if isinstance(image, MetaTensor) else image
            kept.append(item)
        if self.skipped and not skip_bad_images:
            _raise_bad(self.skipped, datalist.path, total=len(items))
        for key, reason in self.skipped:
            logger.warning("Left out %s: it %s", key, reason)

        self.images = images[: len(kept)]
        self.labels = torch.tensor([item["label"] for item in kept], dtype=torch.long)
        self.subjects: list[str] = [item["subject"] for item in kept]
        self.keys: list[str] = [item["key"] for item in kept]
        names = sorted(set(self.subjects))
        index = {name: number for number, name in enumerate(names)}
        self.identities = torch.tensor([index[subject] for subject in self.subjects], dtype=torch.long)
        self.num_subjects = len(names)
        self.has_subjects = datalist.has_subjects
        self.label_names = datalist.labels
        empty = [label for label in range(num_classes) if not (self.labels == label).any()]
        if empty:
            named = ", ".join(
                f"{label} ({datalist.labels.get(label, 'not named in the data list')})" for label in empty
            )
            raise DataError(
                f'{datalist.path} has no usable image of class {named} in the section "{section}": add images of it or '
                f"lower num_classes, which is {num_classes}."
            )

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            "image": self.images[index].clone(),
            "label": int(self.labels[index]),
            "subject": self.subjects[index],
            "key": self.keys[index],
            "identity": int(self.identities[index]),
        }


class _BadImageError(Exception):
    """Says what is wrong with one image, as the predicate of a sentence."""


def _check_deterministic(transform: Callable[[dict[str, Any]], Any]) -> None:
    steps = transform.flatten().transforms if isinstance(transform, Compose) else [transform]
    for step in steps:
        if isinstance(step, Randomizable):
            raise ConfigError(
                f"{type(step).__name__} is random, but the images are transformed once, before training: move it to "
                "the random transforms of the training."
            )


def _load(
    item: dict[str, Any], transform: Callable[[dict[str, Any]], Any], *, shape: tuple[int, ...], num_classes: int
) -> Tensor:
    if not 0 <= item["label"] < num_classes:
        raise _BadImageError(f"has the label {item['label']}, but labels run from 0 to {num_classes - 1}")
    if not Path(item["image"]).exists():
        raise _BadImageError(f"does not exist ({item['image']})")
    try:
        # The pixels are checked as loaded too: scaling with clipping would turn an infinite one into a 1.
        if isinstance(transform, Compose) and len(transform.transforms) > 1:
            result = transform({"image": item["image"]}, end=1)
            _check_finite(result["image"])
            result = transform(result, start=1)
        else:
            result = transform({"image": item["image"]})
        image = result["image"]
    except _BadImageError:
        raise
    except Exception as error:  # readers raise what they like on a damaged file, MONAI wraps it
        raise _BadImageError(f"cannot be read and transformed: {_root_cause(error)}") from error
    if not isinstance(image, Tensor):
        raise _BadImageError(f"is a {type(image).__name__} after the transform, but a tensor is needed")
    _check_finite(image)
    if image.ndim == len(shape) and image.shape[0] != shape[0]:
        raise _BadImageError(f"has {image.shape[0]} channels after the transform, but img_channels is {shape[0]}")
    if tuple(image.shape) != shape:
        raise _BadImageError(
            f"has the shape {tuple(image.shape)} after the transform, but img_channels and img_size make {shape}"
        )
    low, high = float(image.min()), float(image.max())
    if low < -1.0 - RANGE_TOLERANCE or high > 1.0 + RANGE_TOLERANCE:
        raise _BadImageError(
            f"has values from {low:.4g} to {high:.4g} after the transform, but they must lie in [-1, 1] "
            "(add ScaleIntensityd or ScaleIntensityRanged)"
        )
    return image.float()


def _check_finite(image: Any) -> None:
    if isinstance(image, Tensor) and image.is_floating_point():
        bad = image.numel() - int(image.isfinite().sum())
        if bad:
            raise _BadImageError(f"has {bad} of {image.numel()} pixels that are NaN or infinite")


def _root_cause(error: BaseException) -> str:
    """What went wrong below MONAI's wrappers, as one line."""
    while error.__cause__ is not None and str(error).startswith("applying transform"):
        error = error.__cause__
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    # With a named reader LoadImage prints the tracebacks of all readers into its message: the first is the named one's.
    starts = [number for number, line in enumerate(lines) if line.startswith("Traceback")]
    if starts:
        lines = [line for line in lines[starts[0] + 1 :] if not line.startswith(" ")] or lines
    return lines[0].strip().rstrip(".")


def _raise_bad(skipped: list[tuple[str, str]], path: Path, *, total: int) -> None:
    key, reason = skipped[0]
    if len(skipped) == total > 1:
        remedy = f"all {total} images are bad, so mend the transform, img_size or img_channels rather than the images."
    else:
        more = f" ({len(skipped) - 1} more images are bad.)" if len(skipped) > 1 else ""
        remedy = f"mend or remove it, or leave such images out with --skip-bad-images.{more}"
    raise DataError(f"{key}, listed in {path}, {reason}: {remedy}")
