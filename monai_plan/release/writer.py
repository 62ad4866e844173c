"""The writer of a release: images, numbered, with their data list."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from monai_plan.data.datalist import DATALIST_NAME, write_datalist
from monai_plan.data.writers import IMAGES_FOLDER, image_suffix, replaced_dataset, write_image
from monai_plan.release.words import check_words
from monai_plan.utils import ConfigError, DataError

__all__ = ["shared_affine", "shared_spacing", "stamp", "write_synthetic"]

_TIME = 315532800  # 1 January 1980, the first day that every archive format knows


def write_synthetic(
    output_dir: str | os.PathLike[str],
    *,
    images: Tensor,
    labels: Sequence[int] | Tensor,
    label_names: Mapping[int, str],
    groups: Sequence[Hashable],
    affine: Sequence[Sequence[float]] | None = None,
    name: str,
    description: str,
) -> Path:
    """Write synthetic images and the data list that MONAI's ``load_decathlon_datalist(is_segmentation=False)`` reads.

    Everything is built beside ``output_dir`` and moved in at the end: images of an earlier release do not survive,
    and a killed run leaves no half release. Files are numbered and groups renumbered in order of appearance, so that
    no name from the private side can pass: whoever calls this decides what that order tells (``select`` shuffles). All
    files bear one fixed time.

    Args:
        output_dir: the folder of the release; ``images/`` and ``datalist.json`` in it are replaced.
        images: [N, C, *spatial] in [-1, 1] (values outside are clipped), with C 1 or 3 in 2D and 1 in 3D.
        labels: N classes.
        label_names: the name of every class.
        groups: N groups: images of one group are not independent (one walk, one anchor) and stay on one side of a
            later split. Written as ``subject``.
        affine: 4 x 4, voxel to RAS+ millimetres, of volumes; the identity if left out.
        name: name of the data set.
        description: what it is.

    Returns:
        The path of the data list, all images in its section ``training``.

    Raises:
        ConfigError: if the arguments differ in length, a label has no name or one that ``check_words`` refuses, or the
            shape cannot be written.
        DataError: if an image is not finite, or ``output_dir`` holds a data set that was not written here.
    """
    labels = [int(label) for label in labels]
    if not len(images) == len(labels) == len(groups) > 0:
        raise ConfigError(
            f"There are {len(images)} images, {len(labels)} labels and {len(groups)} groups, but as many of each and "
            "at least one are needed."
        )
    unnamed = sorted(set(labels) - set(label_names))
    if unnamed:
        raise ConfigError(f"Label {unnamed[0]} has no name in label_names, which names {sorted(label_names)}.")
    bad = [index for index, image in enumerate(images) if not image.isfinite().all()]
    if bad:
        raise DataError(
            f"Synthetic image {bad[0]} has pixels that are NaN or infinite ({len(bad)} of {len(images)} images do): "
            "the generator that made them is damaged, train it again."
        )
    check_words(release_name=name, label_names=label_names)
    suffix = image_suffix(images.ndim - 2)
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    items = []
    with replaced_dataset(output_dir, pattern=r"\d{6,}\.(png|nii)") as folder:
        for index, (image, label, group) in enumerate(zip(images, labels, groups, strict=True)):
            file = f"{IMAGES_FOLDER}/{index:06d}{suffix}"
            write_image(folder / file, (image + 1.0) / 2.0, affine=affine)
            items.append({"image": file, "label": label, "subject": f"synthetic_{numbers[group]:06d}"})
        write_datalist(
            folder / DATALIST_NAME,
            labels=label_names,
            sections={"training": items},
            name=name,
            description=description,
        )
    stamp(Path(output_dir) / IMAGES_FOLDER, Path(output_dir) / DATALIST_NAME)
    return Path(output_dir) / DATALIST_NAME


def stamp(*paths: str | os.PathLike[str]) -> None:
    """Set the times of files, of folders with all that is in them, and of the folders above: all alike.

    Times of writing would tell of order, of pauses and of the machine's clock.
    """
    for path in map(Path, paths):
        for place in (*path.rglob("*"), path, path.parent):
            os.utime(place, (_TIME, _TIME))


def shared_affine(affines: Tensor) -> list[list[float]]:
    """The geometry of the volumes of most patients: axis directions and spacing, without anybody's origin or tilt.

    The spacing along an axis is that of more than half of the patients, to 0.1 µm; where these differ, so that a
    spacing may be one patient's own, it is the median to two digits.

    Args:
        affines: [P, 4, 4], voxel to RAS+ millimetres, one per patient.
    """
    axes = affines[:, :3, :3].double()
    spacing = [_shared(along) for along in axes.square().sum(1).sqrt().unbind(1)]
    (directions, _), *_ = Counter(map(_directions, axes)).most_common(1)
    shared = torch.zeros(4, 4, dtype=torch.float64)
    shared[3, 3] = 1
    for axis, (row, sign) in enumerate(directions):
        shared[row, axis] = sign * max(spacing[axis], 1e-4)
    return shared.tolist()


def shared_spacing(affines: Tensor) -> list[float]:
    """[3], the voxel size in mm of ``shared_affine``."""
    return torch.tensor(shared_affine(affines))[:3, :3].abs().amax(0).tolist()


def _shared(spacings: Tensor) -> float:
    """One for all patients, [P]."""
    values, counts = ((spacings * 1e4).round() / 1e4).unique(return_counts=True)
    if counts.max() > 1 and len(spacings) < 2 * counts.max():
        return float(values[counts.argmax()])
    return float(f"{spacings.median():.2g}")


def _directions(axes: Tensor) -> tuple[tuple[int, float], ...]:
    """For each axis the row of RAS that it is nearest to, each taken once, and its sign."""
    free, found = list(range(3)), []
    for axis in range(3):
        nearest = max(free, key=lambda row: abs(axes[row, axis].item()))
        free.remove(nearest)
        found.append((nearest, -1.0 if axes[nearest, axis] < 0 else 1.0))
    return tuple(found)
