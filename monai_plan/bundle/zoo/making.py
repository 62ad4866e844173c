"""Bundles from one template: the configs of ``chest_xray_plan`` with other values of some ids, and documents.

Each is a whole folder that stands alone, as MONAI's commands and the model zoo need it, and nobody edits its files:
what all bundles have is changed in ``chest_xray_plan/configs``, what one bundle has in its recipe, and all are written
again.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import torch

from monai_plan.bundle.names import TEMPLATE, bundle_path, check_name
from monai_plan.bundle.zoo.metadata import make_metadata
from monai_plan.gan import gan_defaults
from monai_plan.networks import load_generator
from monai_plan.utils import ConfigError, file_digest, write_tensors, write_text

__all__ = ["BundleRecipe", "write_bundle"]
_TEXTS = Path(__file__).with_name("templates")
_NO_ID = {"metadata.json", "stages.json"}


@dataclass(frozen=True, kw_only=True)
class BundleRecipe:
    """What one bundle has that others have not.

    Attributes:
        name: of the folder, see ``check_name``.
        title, task, description, data_source, data_type, modality, authors: see ``make_metadata``.
        classes: their names, in order.
        ids: config id → value, in every config that has the id.
        about, data, performance: paragraphs of the README, in Markdown.
        data_license: text of ``docs/data_license.txt``.
        weights_of: what weights were made of, in a sentence; None: the bundle has none.
    """

    name: str
    title: str
    task: str
    description: str
    data_source: str
    data_type: str
    modality: str
    authors: str
    classes: tuple[str, ...]
    about: str
    data: str
    performance: str
    data_license: str
    ids: Mapping[str, Any] = field(default_factory=dict)
    weights_of: str | None = None


def write_bundle(
    recipe: BundleRecipe,
    folder: str | os.PathLike[str],
    *,
    versions: Mapping[str, str],
    weights: str | os.PathLike[str] | None = None,
) -> Path:
    """Write a whole bundle.

    Args:
        recipe: what it is.
        folder: gets the folder ``recipe.name``.
        versions: package → version, to be pinned, see ``make_metadata``.
        weights: the generator, as ``save_generator`` wrote it or as the state dict of a bundle; needed if and only if
            the recipe says what they were made of.

    Returns:
        The bundle's folder. One that was there is replaced whole.

    Raises:
        ConfigError: if the name is none for a bundle, an id is in no config, or weights are missing or superfluous.
    """
    check_name(recipe.name)
    if (weights is None) != (recipe.weights_of is None):
        raise ConfigError(
            f"bundle {recipe.name}: weights are given if and only if the recipe says what they were made of."
        )
    target = Path(folder).absolute() / recipe.name
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".bundle") as temporary:
        made = Path(temporary) / recipe.name
        _write(recipe, made, versions, weights)
        if target.exists():
            shutil.move(target, Path(temporary) / "replaced")
        shutil.move(made, target)
    return target


def _write(
    recipe: BundleRecipe, folder: Path, versions: Mapping[str, str], weights: str | os.PathLike[str] | None
) -> None:
    template = bundle_path(TEMPLATE)
    configs = _configs(recipe, template / "configs")
    for name, config in configs.items():
        _write_json(folder / "configs" / name, config)
    write_text(folder / "configs" / "logging.conf", (template / "configs" / "logging.conf").read_text("utf-8"))
    write_text(folder / "LICENSE", (template / "LICENSE").read_text("utf-8"))
    ids = configs["inference.json"]
    size = {key: ids[key] for key in ("spatial_dims", "img_size", "img_channels")}
    defaults = gan_defaults(**size, autoencoder=ids["autoencoder"])
    z_dim = recipe.ids.get("z_dim", defaults.z_dim)
    provenance = None
    if weights is not None:
        write_tensors(folder / "models" / "model.pt", _state_dict(weights))
        provenance = {"sha256": file_digest(folder / "models" / "model.pt"), "made_of": recipe.weights_of}
    metadata = make_metadata(
        title=recipe.title, task=recipe.task, description=recipe.description, data_source=recipe.data_source,
        data_type=recipe.data_type, modality=recipe.modality, authors=recipe.authors, z_dim=z_dim,
        classes=recipe.classes, img_size=ids["img_size"], img_channels=ids["img_channels"],
        versions=versions, weights=provenance,
    )  # fmt: skip
    _write_json(folder / "configs" / "metadata.json", metadata)
    _write_documents(recipe, folder, configs, metadata, aided=defaults.objective == "aided")


def _configs(recipe: BundleRecipe, folder: Path) -> dict[str, dict[str, Any]]:
    """The template's configs by their file names, with the recipe's values of ids."""
    ids = {"num_classes": len(recipe.classes), **recipe.ids} if recipe.ids else {}
    configs = {
        file.name: json.loads(file.read_text("utf-8"))
        for file in sorted(folder.glob("*.json"))
        if file.name != "metadata.json"
    }
    known = set().union(*(config.keys() for name, config in configs.items() if name not in _NO_ID))
    if unknown := sorted(ids.keys() - known):
        raise ConfigError(f"bundle {recipe.name}: no config of the template {TEMPLATE} has the id {unknown[0]!r}.")
    for name, config in configs.items():
        if name not in _NO_ID:
            config.update({id: value for id, value in ids.items() if id in config})
    return configs


def _state_dict(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The plain state dict of a generator's file, or of a bundle's ``models/model.pt``."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    if all(isinstance(value, torch.Tensor) for value in content.values()):
        return dict(content)
    return dict(load_generator(path).state_dict())


def _write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=4, ensure_ascii=False) + "\n")


def _write_documents(
    recipe: BundleRecipe,
    folder: Path,
    configs: Mapping[str, Mapping[str, Any]],
    metadata: Mapping[str, Any],
    *,
    aided: bool,
) -> None:
    """The README, the data's licence and the unit test."""
    ids = configs["inference.json"]
    weights = None
    if recipe.weights_of:
        kilobytes = round((folder / "models" / "model.pt").stat().st_size / 1000)
        weights = {"kilobytes": kilobytes, "made_of": recipe.weights_of}
    facts = {
        "name": recipe.name,
        "about": recipe.about.strip(),
        "data": recipe.data.strip(),
        "performance": recipe.performance.strip(),
        "size": " × ".join(map(str, ids["img_size"])),
        "colour": "RGB" if ids["img_channels"] == 3 else "grey",
        "aided": aided,
        "monai_plan_version": metadata["monai_plan_version"],
        "weights": weights,
        "latent": metadata["network_data_format"]["inputs"]["image"]["num_channels"],
        "num_classes": len(recipe.classes),
        "stages": ", ".join(f"`{stage['name']}`" for stage in configs["stages.json"]["stages"]),
        "small_size": [16] * ids["spatial_dims"],
        "checkpoint": f"{recipe.name}/models/model.pt" if weights else "OUT/private/train/checkpoint.pt",
        "export_options": "" if weights else " --key_in_ckpt ema --generator_file OUT/private/model.pt",
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEXTS), undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    texts = {
        "docs/README.md": "README.md.j2",
        f"ci/unit_tests/test_{recipe.name}.py": "test_bundle.py.j2",
    }
    for path, text in texts.items():
        write_text(folder / path, environment.get_template(text).render(facts))
    write_text(folder / "docs" / "data_license.txt", recipe.data_license.strip() + "\n")
