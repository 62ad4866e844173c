"""Networks in files: a generator with its architecture, a classifier with the number of its classes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from monai_plan.networks.decoder import LatentDecoder, decoder_class
from monai_plan.utils import ArtifactError, ConfigError, first_line, load_artifact, save_artifact


def save_generator(
    generator: LatentDecoder, path: str | os.PathLike[str], *, made_by: Mapping[str, Any] | None = None
) -> None:
    """Save a generator's class, architecture and weights, whole or not at all.

    Args:
        generator: the network, usually the exponential moving average of the trained one.
        path, made_by: see ``save_artifact``.

    Raises:
        ConfigError: if the class is not registered, or the architecture is missing or not plain.
    """
    name = type(generator).__name__
    decoder_class(name)
    try:
        json.dumps(generator.architecture)
    except (AttributeError, TypeError) as error:
        raise ConfigError(
            f"This {name} cannot be saved: its architecture must hold the arguments of its constructor by name, as "
            f"plain values ({error})."
        ) from error
    weights = {name: value.detach().cpu() for name, value in generator.state_dict().items()}
    data = {"network": name, "architecture": generator.architecture, "state_dict": weights}
    save_artifact(path, kind="generator", data=data, made_by=made_by)


def load_generator(path: str | os.PathLike[str]) -> LatentDecoder:
    """The generator that ``save_generator`` wrote, on the CPU, in eval mode and without gradients.

    Raises:
        ArtifactError: if the file is missing, damaged, no generator, of a class that is not registered, or its weights
            do not fit its architecture.
    """
    data = load_artifact(path, kind="generator")
    try:
        network = decoder_class(data["network"])
    except ConfigError as error:
        raise ArtifactError(f"{path} cannot be loaded: {error}") from error
    try:
        generator = network(**data["architecture"])
        generator.load_state_dict(data["state_dict"])
    except (RuntimeError, TypeError, ConfigError) as error:
        raise ArtifactError(
            f"{path}: the weights do not fit the architecture {data['architecture']} stored beside them "
            f"(monai_plan {data['header']['version']}): {error}"
        ) from error
    return generator.eval().requires_grad_(False)


def save_classifier(network: nn.Module, path: str | os.PathLike[str], *, kind: str, num_outputs: int) -> None:
    """Save a classifier's weights; its architecture is a config's, and stays there.

    Args:
        network: any classifier, [B, C, *spatial] → [B, num_outputs].
        path: see ``save_artifact``.
        kind: "identity_net" or "class_net"; ``load_classifier`` checks it.
        num_outputs: number of classes.
    """
    weights = {name: value.detach().cpu() for name, value in network.state_dict().items()}
    data = {"network": type(network).__name__, "num_outputs": num_outputs, "state_dict": weights}
    save_artifact(path, kind=kind, data=data)


def classifier_outputs(path: str | os.PathLike[str], *, kind: str) -> int:
    """The number of classes of the classifier in a file; for configs that build the network before loading it.

    Raises:
        ArtifactError: as in ``load_classifier``.
    """
    return int(load_artifact(path, kind=kind)["num_outputs"])


def load_classifier(
    network: nn.Module, path: str | os.PathLike[str], *, kind: str, device: torch.device | str = "cpu"
) -> nn.Module:
    """Load weights written by ``save_classifier`` into a network of that architecture.

    Returns:
        ``network`` on ``device``, in eval mode and without gradients.

    Raises:
        ArtifactError: if the file is missing, damaged, of another kind, or belongs to another architecture.
    """
    data = load_artifact(path, kind=kind)
    try:
        network.load_state_dict(data["state_dict"])
    except RuntimeError as error:
        raise ArtifactError(
            f"{path} holds the weights of a {data['network']} with {data['num_outputs']} outputs, which do not fit the "
            f"{type(network).__name__} of the config: use the config that trained it, or train again. "
            f"({first_line(error)})"
        ) from error
    return network.to(device).eval().requires_grad_(False)
