"""The three things that leave: the data set, a classifier trained on it, the generator."""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from monai.bundle import ConfigWorkflow

from monai_plan import __version__
from monai_plan.bundle.gate.audited import Audited
from monai_plan.bundle.gate.card import classifier_card, data_card, generator_card
from monai_plan.bundle.names import TEMPLATE, bundle_path
from monai_plan.data.writers import image_suffix
from monai_plan.networks import StyleGAN2Generator, load_generator
from monai_plan.progress import hushed
from monai_plan.release import load_paths, select
from monai_plan.tensor_file import load_tensors
from monai_plan.utils import DataError, file_digest, read_json, write_json, write_tensors, write_text

__all__ = ["write_classifier", "write_data", "write_generator"]

_TEMPLATES = Path(__file__).parent / "templates"
_AUDIT = ("audit.html", "audit.json")
_READERS = {2: "PILReader", 3: "NibabelReader"}
_FILES = {2: [".png", ".jpg", ".jpeg"], 3: [".nii", ".nii.gz"]}
_SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
_VERSION = "1.0.0"


def write_data(audited: Audited, folder: Path, *, name: str, authors: str) -> None:
    """All files of the release as they were audited, and a card with what the audit found."""
    release = audited.release.folder
    for file in audited.files:
        if file != "dataset_card.md":  # its text is in the card
            shutil.copyfile(release / file, _made(folder / file))
    write_text(folder / "README.md", data_card((release / "dataset_card.md").read_text("utf-8"), audited, authors))


def write_classifier(audited: Audited, folder: Path, *, name: str, authors: str) -> None:
    """A bundle of plain MONAI, its network trained by its own ``train.json`` on the synthetic images alone.

    It starts from random weights, and no checkpoint is read: there is no place where others' weights could come in.
    """
    release = audited.release
    network = _resnet(audited)
    dims = len(release.img_size)
    common = {"network_def": network, "img_size": list(release.img_size), "reader": _READERS[dims]}
    settings = {
        "epochs": _epochs(audited),
        "batch_size": _number(audited, "evaluation_batch_size", whole=True),
        "lr": _number(audited, "evaluation_lr"),
    }
    train = {**_template("classifier_train"), **common, **settings}
    inference = {**_template("classifier_inference"), **common, "files": _FILES[dims], "scaling": _scaling(audited)}
    if audited.recorded("evaluate", "shape_by") == "cropping":
        *steps, _, scaled = inference["preprocessing"]["transforms"]
        cropped = {"_target_": "ResizeWithPadOrCropd", "keys": "image", "spatial_size": "@img_size", "value": -1.0}
        inference["preprocessing"]["transforms"] = [*steps, scaled, cropped]
    if release.img_channels == 1:
        inference["to_channels"] = "$lambda image: image.mean(0, keepdim=True)"
    evaluate = {**_template("classifier_evaluate"), "num_classes": len(release.label_names)}
    for file, config in (("train", train), ("inference", inference), ("evaluate", evaluate)):
        _write_config(folder / "configs" / f"{file}.json", config)
    names = {str(label): release.label_names[label] for label in sorted(release.label_names)}
    made_of = {"models/model.pt": f"the {len(release)} synthetic images of the data set {release.digest[:12]} alone"}
    metadata = _metadata(
        audited,
        name=name,
        authors=authors,
        task=f"Classification into {len(names)} classes, trained on synthetic images alone",
        description="A residual network that was trained on a synthetic data set and never saw a patient's image.",
        needs=("pytorch-ignite", "nibabel") if dims == 3 else ("pytorch-ignite", "pillow"),
        inputs=_image(audited, [-1, 1]),
        outputs=_tensor("probabilities", len(names), [], [], channel_def=names),
        provenance={},
    )
    write_json(folder / "configs" / "metadata.json", metadata)  # which MONAI wants to see when it trains
    _train(folder, release.folder)
    metadata["provenance"] = _provenance(folder, made_of)
    write_json(folder / "configs" / "metadata.json", metadata)
    _write_common(audited, folder, classifier_card(audited, name=name, authors=authors, scaling=inference["scaling"]))


def write_generator(audited: Audited, folder: Path, *, name: str, authors: str) -> None:
    """A bundle with the generator that was audited, its weights alone, and the points whose images were released."""
    generator = load_generator(audited.private("model.pt"))
    if not isinstance(generator, StyleGAN2Generator):
        raise DataError(f"private/model.pt holds a {type(generator).__name__}, and only a StyleGAN2Generator leaves.")
    paths = load_paths(audited.private("paths.pt"))
    points = select(paths, num_images=paths["num_images"])
    write_tensors(_made(folder / "models" / "model.pt"), dict(generator.state_dict()))
    write_tensors(folder / "models" / "points.pt", {"latents": points.latents, "labels": points.labels})
    inference = _template("generator_inference")
    inference["network_def"] = {"_target_": "monai_plan.networks.OneInputGenerator", **generator.architecture}
    inference["output_ext"] = image_suffix(len(generator.img_size))
    _write_config(folder / "configs" / "inference.json", inference)
    made_of = {
        "models/model.pt": "images of patients: it leaves by the explicit decision of those who release it",
        "models/points.pt": "the points of its latent space whose images were checked and audited",
    }
    latent = _tensor("latent", generator.z_dim + generator.num_classes, [], [], kind="tuples")
    write_json(
        folder / "configs" / "metadata.json",
        _metadata(
            audited,
            name=name,
            authors=authors,
            task="Synthesis of images, and the points of its latent space whose images were checked",
            description="A StyleGAN2 that was trained on patients' images: what it makes beyond the points that come "
            "with it was checked by nobody.",
            needs=("pytorch-ignite",),
            more={"monai_plan_version": __version__},
            inputs=latent,
            outputs=_image(audited, [-1, 1]),
            provenance=_provenance(folder, made_of),
        ),
    )
    _write_common(audited, folder, generator_card(audited, name=name, authors=authors))


def _template(name: str) -> dict[str, Any]:
    template: dict[str, Any] = read_json(_TEMPLATES / f"{name}.json")
    return template


def _write_config(path: Path, config: Any) -> None:
    write_text(path, json.dumps(config, indent=4) + "\n")


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _resnet(audited: Audited) -> dict[str, Any]:
    """The config of the classifier whose utility was measured: numbers alone, for a class could load what it likes."""
    layers, channels = (audited.recorded("evaluate", f"classifier_{what}") for what in ("layers", "channels"))
    stride = audited.recorded("evaluate", "classifier_stride")
    numbers = [*layers, *channels, stride]
    if not all(type(number) is int and number > 0 for number in numbers):
        raise DataError(
            "the classifier that was evaluated is described by more than numbers (classifier_layers, "
            f"classifier_channels, classifier_stride: {numbers}), and is not built here: run with plain numbers."
        )
    return {
        "_target_": "ResNet",
        "block": "basic",
        "layers": layers,
        "block_inplanes": channels,
        "spatial_dims": len(audited.release.img_size),
        "n_input_channels": audited.release.img_channels,
        "conv1_t_size": 7 if stride > 1 else 3,
        "conv1_t_stride": stride,
        "no_max_pool": stride == 1,
        "num_classes": len(audited.release.label_names),
    }


def _number(audited: Audited, id: str, *, whole: bool = False) -> Any:
    """A number as it is on record; never an expression, which would run wherever the bundle goes."""
    value = audited.recorded("evaluate", id)
    if type(value) not in ((int,) if whole else (int, float)) or not 0 < value < math.inf:
        kind = "whole number" if whole else "number"
        raise DataError(
            f"{id} of the run is {value!r}, and only a plain {kind} above 0 leaves: run with --{id} and such a number."
        )
    return value


def _epochs(audited: Audited) -> int:
    """As many steps as the classifiers of the report made."""
    epochs = _number(audited, "evaluation_epochs")
    return max(1, round(epochs * audited.audit["num_members"] / len(audited.release)))


def _scaling(audited: Audited) -> dict[str, Any]:
    """How images of the kind that the run was given are scaled to [-1, 1], by a transform of MONAI's."""
    text = read_json(audited.output / "private" / "data.json", what="the record of the check")["intensity"]
    match = re.match(r"(range|window|percentiles) (\S+) to (\S+), ", text)
    if match is None:
        raise DataError(f"private/data.json does not say how images are scaled ({text!r}): run the stage check again.")
    ends = {"b_min": -1.0, "b_max": 1.0, "clip": True}
    low, high = float(match[2]), float(match[3])
    if match[1] == "percentiles":
        return {"_target_": "ScaleIntensityRangePercentilesd", "keys": "image", "lower": low, "upper": high, **ends}
    return {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": low, "a_max": high, **ends}


def _train(folder: Path, data: Path) -> None:
    """Train as ``python -m monai.bundle run`` does, and keep the weights alone."""
    config, search_path = str(folder / "configs" / "train.json"), list(sys.path)  # to which ConfigWorkflow adds
    with hushed(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="NvImgCodec")  # a reader that is made for each file, and not used
        workflow = ConfigWorkflow(config, logging_file=False, workflow_type="train")
        paths = {"bundle_root": str(folder), "dataset_dir": str(data)}
        workflow.parser.update(paths)
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    sys.path[:] = search_path
    model = folder / "models" / "model.pt"
    with open(model, "rb") as file:
        weights = load_tensors(file)
    write_tensors(model, weights)


def _provenance(folder: Path, made_of: dict[str, str]) -> dict[str, Any]:
    """What ``verify-bundle`` asks of every file that is no text."""
    return {name: {"sha256": file_digest(folder / name), "made_of": text} for name, text in made_of.items()}


def _image(audited: Audited, value_range: list[int]) -> dict[str, Any]:
    release = audited.release
    channels = {"0": "grey"} if release.img_channels == 1 else {"0": "red", "1": "green", "2": "blue"}
    return _tensor("magnitude", release.img_channels, list(release.img_size), value_range, channel_def=channels)


def _tensor(
    format: str,
    channels: int,
    shape: list[int],
    value_range: list[int],
    *,
    channel_def: dict[str, str] | None = None,
    kind: str = "image",
) -> dict[str, Any]:
    return {
        "type": kind if format != "probabilities" else "probabilities",
        "format": format if format != "probabilities" else "classes",
        "modality": "n/a",
        "num_channels": channels,
        "spatial_shape": shape,
        "dtype": "float32",
        "value_range": value_range,
        "is_patch_data": False,
        "channel_def": channel_def or {"0": "z, standard normal; a one-hot label behind it, if there are classes"},
    }


def _metadata(
    audited: Audited,
    *,
    name: str,
    authors: str,
    task: str,
    description: str,
    needs: tuple[str, ...],
    inputs: dict[str, Any],
    outputs: dict[str, Any],
    provenance: dict[str, Any],
    more: dict[str, str] | None = None,
) -> dict[str, Any]:
    return {
        "schema": _SCHEMA,
        "version": _VERSION,
        "changelog": {_VERSION: "first release"},
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {package: version(package) for package in needs},
        **(more or {}),
        "name": name.replace("_", " "),
        "task": task,
        "description": description,
        "authors": authors,
        "copyright": f"of those who release it: {authors}",
        "data_source": "synthetic images, see docs/README.md",
        "data_type": "PNG" if len(audited.release.img_size) == 2 else "NIfTI",
        "intended_use": "Research. Not fit for diagnosis, and no attack found is no proof of privacy.",
        "references": ["Pennisi et al., MICCAI 2023, arXiv 2307.02984"],
        "provenance": provenance,
        "network_data_format": {"inputs": {"image": inputs}, "outputs": {"pred": outputs}},
    }


def _write_common(audited: Audited, folder: Path, card: str) -> None:
    """Card, licence, logging, and the audit that opened the gate."""
    write_text(folder / "docs" / "README.md", card)
    write_text(
        folder / "docs" / "data_license.txt",
        "The images behind this bundle are synthetic. Whoever releases it says on which terms they and the weights may "
        "be used; nothing is granted here but what LICENSE grants for the configs.\n",
    )
    shutil.copyfile(bundle_path(TEMPLATE) / "LICENSE", folder / "LICENSE")
    shutil.copyfile(_TEMPLATES / "logging.conf", folder / "configs" / "logging.conf")
    (folder / "audit").mkdir()
    for file in _AUDIT:
        shutil.copyfile(audited.release.folder / file, folder / "audit" / file)
