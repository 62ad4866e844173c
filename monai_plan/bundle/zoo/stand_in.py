"""A few artificial images that fit a bundle, so that its configs can be built and tried without anybody's data."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch.nn import functional

from monai_plan.data import write_datalist, write_image
from monai_plan.data.datalist import DATALIST_NAME
from monai_plan.data.writers import image_suffix
from monai_plan.utils import read_json, seeded_generator

__all__ = ["stand_in_data"]

SIZE = 16
IMAGES = 32  # at least, to train with: as many as the largest batch of the configs


def stand_in_data(bundle: str | os.PathLike[str], folder: str | os.PathLike[str]) -> Path:
    """Write a data set of noise with the classes, channels and axes of a bundle.

    Args:
        bundle: a folder with ``configs/metadata.json`` and ``configs/inference.json``.
        folder: gets ``images/`` and ``datalist.json``.

    Returns:
        The data list.

    Raises:
        DataError: if one of the two files is missing or no JSON.
    """
    configs, folder = Path(bundle) / "configs", Path(folder)
    shown = read_json(configs / "metadata.json")["network_data_format"]["outputs"]["pred"]
    classes = range(read_json(configs / "inference.json")["num_classes"])
    dims = len(shown["spatial_shape"])
    (folder / "images").mkdir(parents=True, exist_ok=True)
    sections: dict[str, list[dict[str, object]]] = {"training": [], "test": []}
    training = -(-IMAGES // len(classes)) * len(classes)
    for number in range(training + len(classes)):
        label, section = number % len(classes), "training" if number < training else "test"
        noise = torch.rand(1, shown["num_channels"], *[4] * dims, generator=seeded_generator(0, "stand-in", number))
        name = f"images/{number:03d}{image_suffix(dims)}"
        write_image(folder / name, functional.interpolate(noise, size=[SIZE] * dims)[0])
        sections[section].append({"image": name, "label": label, "subject": f"nobody_{number}"})
    labels = {label: f"class {label}" for label in classes}
    return write_datalist(folder / DATALIST_NAME, labels=labels, sections=sections, name="stand-in")
