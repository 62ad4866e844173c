"""A bundle for one's own data: classes, channels and size are read from it, and nothing else of it is kept."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_plan.bundle.names import bundles, check_name
from monai_plan.bundle.zoo.making import BundleRecipe, write_bundle
from monai_plan.bundle.zoo.metadata import installed_versions
from monai_plan.data import inspect_datalist, read_datalist
from monai_plan.data.datalist import DATALIST_NAME
from monai_plan.networks.layers import full_size, start_shape
from monai_plan.utils import ConfigError, DataError

__all__ = ["new_bundle"]

_ABOUT = """From a private set of {images} of {count} classes ({classes}) to a synthetic one, by points of the latent
space of a generative network that no network takes for a patient, chosen or on a privacy-preserving walk (PLAN [1]),
with a report of attacks on the result."""
_DATA = """A MONAI data list `datalist.json` with `image`, `label` and `subject` (the patient), in the sections
`training` and `test`; say here where it is from, and who may have it. Images are resized to {size} and scaled to [−1,
1]."""
_PERFORMANCE = """Not yet measured: put the table of `OUT/release/evaluation.md` here, and the verdict of
`OUT/release/audit.html`."""
_LICENSE = """This bundle ships no data and no weights trained on data.

It is run on images that the user brings. Their licence, terms of use and the consent of the patients are the user's to
observe, also for networks and synthetic images that are made from them."""


def new_bundle(
    name: str,
    dataset_dir: str | os.PathLike[str],
    *,
    output_dir: str | os.PathLike[str] = ".",
    img_size: Sequence[int] | None = None,
    authors: str = "not named",
) -> Path:
    """Write a complete bundle for a data set, in the model zoo's form, for MONAI's commands and ``run_bundle``.

    Args:
        name: of the bundle and its folder, see ``check_name``.
        dataset_dir: holds ``datalist.json``. Its classes and their names, the number of axes, the channels and a
            fitting size become ids of the bundle; no path, file name or patient does.
        output_dir: gets the folder ``name``.
        img_size: elements of each axis; by default a fitting one, of at most 64 (48 in 3D), see ``inspect_datalist``.
        authors: who makes the bundle, for its metadata.

    Returns:
        The bundle's folder.

    Raises:
        ConfigError: if the name is none for a bundle, is that of one that comes with monai_plan, or is taken, or the
            network cannot make images of ``img_size``.
        DataError: if the data list is missing or breaks a rule.
    """
    check_name(name)
    folder = Path(output_dir).absolute() / name
    if name in bundles():
        raise ConfigError(f"{name} is a bundle that comes with monai_plan: choose another name.")
    if folder.exists():
        raise ConfigError(f"{folder} exists: choose another name or another output_dir, or delete it.")
    datalist = Path(dataset_dir) / DATALIST_NAME
    if not datalist.is_file():
        raise DataError(f"{datalist} does not exist: make it by monai-plan datalist, see monai-plan datalist --help.")
    facts = inspect_datalist(datalist)
    labels = read_datalist(datalist).labels
    classes = _class_names(datalist, [labels[label] for label in sorted(labels)])
    size = full_size(facts.img_size if img_size is None else tuple(img_size), facts.spatial_dims)
    start_shape(size)  # refuses what the network would refuse
    recipe = _recipe(name, authors, classes, size, facts.img_channels)
    return write_bundle(recipe, output_dir, versions=installed_versions())


def _class_names(datalist: Path, given: Sequence[str]) -> tuple[str, ...]:
    """The names as the bundle has them, each still one class's own."""
    names = [_plain(name) for name in given]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise DataError(
                f'{datalist} names classes {given[names.index(name)]!r} and {given[number]!r} in "labels", which would '
                f"both be {name!r} in a bundle, where few signs may stand: rename one of them in words."
            )
    return tuple(names)


def _plain(name: str) -> str:
    """The name of a class as it may stand in JSON, Markdown and a config of MONAI, which reads some signs as its
    own."""
    return " ".join(re.sub(r"[^\w .,()+-]", " ", name).split()).strip("-") or "unnamed"


def _recipe(name: str, authors: str, classes: tuple[str, ...], size: tuple[int, ...], channels: int) -> BundleRecipe:
    images = ("colour images" if channels == 3 else "grey images") if len(size) == 2 else "volumes"
    listed, shown = ", ".join(classes), " × ".join(map(str, size))
    ids: dict[str, Any] = {
        "spatial_dims": len(size),
        "img_size": list(size),
        "img_channels": channels,
        "release_name": f"{name}_synthetic",
        "output_ext": ".png" if len(size) == 2 else ".nii.gz",
    }
    return BundleRecipe(
        name=name,
        title=name.replace("_", " ").capitalize(),
        task=(
            f"A synthetic data set of {len(classes)} classes of {images} by privacy-preserving points of a latent space"
        ),
        description=(
            f"Trains a StyleGAN2 on a private set of {images} ({listed}), chooses images that it draws, or walks in "
            f"its "
            "latent space, away from every patient, and writes a synthetic data set with a report of attacks on it."
        ),
        data_source="the user's own; see docs/README.md",
        data_type="PNG, JPEG, TIFF, DICOM or NIfTI",
        modality="n/a",
        authors=authors,
        classes=classes,
        ids=ids,
        about=_ABOUT.format(images=images, count=len(classes), classes=listed),
        data=_DATA.format(size=shown),
        performance=_PERFORMANCE,
        data_license=_LICENSE,
    )
