"""Networks in files: a generator with its architecture, a classifier with the number of its classes."""

from __future__ import annotations

import itertools
import json
import os
import reprlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from monai_plan.networks.decoder import LatentDecoder, decoder_class
from monai_plan.utils import ArtifactError, ConfigError, first_line, load_artifact, save_artifact


def save_generator(
    generator: LatentDecoder, path: str | os.PathLike[str], *, made_by: Mapping[str, Any] | None = None
) -> None:
    """Save a generator's class, architecture and weights, whole or not at all.

    The weights stand at the top of the file as well, where ``monai.bundle.load`` looks for them.

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
    save_artifact(path, kind="generator", data=data, made_by=made_by, beside=weights)


def load_generator(path: str | os.PathLike[str], *, fit: Mapping[str, Any] | None = None) -> LatentDecoder:
    """The generator that ``save_generator`` wrote, on the CPU, in eval mode and without gradients.

    Args:
        path: the file.
        fit: ``img_size``, ``img_channels`` and ``num_classes`` of the run, which the generator must have.

    Raises:
        ArtifactError: if the file is missing, damaged, no generator, of a class that is not registered, or its weights
            do not fit its architecture, which is found before a network is built.
        ConfigError: if it does not fit the run.
    """
    data = load_artifact(path, kind="generator")
    try:
        network = decoder_class(data["network"])
    except ConfigError as error:
        raise ArtifactError(f"{path} cannot be loaded: {error}") from error
    try:
        _check_architecture(network, data["architecture"], data["state_dict"])
        generator = network(**data["architecture"])
        generator.load_state_dict(data["state_dict"])
    except Exception as error:  # a constructor raises what it likes on arguments that were never its own
        raise ArtifactError(
            f"{path}: the weights do not fit the architecture {reprlib.repr(data['architecture'])} stored beside them "
            f"(monai_plan {data['header']['version']}): {error}"
        ) from error
    if fit is not None:
        _check_fit(generator, fit, path)
    generator.made_of = data["header"]["made_by"].get("data")
    return generator.eval().requires_grad_(False)


def _check_fit(generator: LatentDecoder, fit: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """A generator that was not made for this run: which id to change."""
    size = list(generator.img_size)
    if size != list(fit["img_size"]):
        raise ConfigError(
            f"{path} makes images of {size}, but img_size is {list(fit['img_size'])}: run with --img_size "
            f'"{size}", or take another network.'
        )
    for id, what in (("img_channels", "channels"), ("num_classes", "classes")):
        made, wanted = getattr(generator, id), fit[id]
        if made != wanted and not (id == "num_classes" and made == 0):
            raise ConfigError(
                f"{path} makes images of {made} {what}, but {id} is {wanted}: run with --{id} {made} on data of as "
                f"many {what}, or take another network."
            )


def is_imported(path: str | os.PathLike[str]) -> bool:
    """Whether a file holds a generator that was imported, which no stage of this run made.

    Raises:
        ArtifactError: if the file is damaged or no generator.
    """
    return "imported" in load_artifact(path, kind="generator")["header"]["made_by"]


def _check_architecture(
    network: type[LatentDecoder], architecture: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> None:
    """Compare what a network would have with what is stored, without memory for it, and no longer than that takes."""
    most = 2 * len(weights) + 100  # a constructor may replace some of its parameters
    registered = itertools.count()

    def count(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        if next(registered) > most:
            raise ConfigError(f"it asks for more than the {len(weights)} tensors that are stored")

    hook = register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"):
            built = {name: list(tensor.shape) for name, tensor in network(**architecture).state_dict().items()}
    finally:
        hook.remove()
    stored = {name: list(tensor.shape) for name, tensor in weights.items()}
    for name in sorted(built.keys() | stored.keys(), key=str):
        if built.get(name) != stored.get(name):
            raise ConfigError(f"{name} has the shape {stored.get(name)} in the file and {built.get(name)} by it")


def save_classifier(
    network: nn.Module,
    path: str | os.PathLike[str],
    *,
    kind: str,
    num_outputs: int,
    made_by: Mapping[str, Any] | None = None,
) -> None:
    """Save a classifier's weights; its architecture is a config's, and stays there.

    Args:
        network: any classifier, [B, C, *spatial] → [B, num_outputs].
        path, made_by: see ``save_artifact``.
        kind: "identity_net" or "class_net"; ``load_classifier`` checks it.
        num_outputs: number of classes.
    """
    weights = {name: value.detach().cpu() for name, value in network.state_dict().items()}
    data = {"network": type(network).__name__, "num_outputs": num_outputs, "state_dict": weights}
    save_artifact(path, kind=kind, data=data, made_by=made_by)


def classifier_outputs(path: str | os.PathLike[str], *, kind: str) -> int:
    """The number of classes of the classifier in a file; for configs that build the network before loading it.

    Raises:
        ArtifactError: as in ``load_classifier``, and if no stored tensor has as many outputs.
    """
    data = load_artifact(path, kind=kind)
    outputs: int = data["num_outputs"]
    if not any(tensor.shape[:1] == (outputs,) for tensor in data["state_dict"].values()):
        raise ArtifactError(f"{path} says {outputs} outputs, but no tensor in it has as many: train it again.")
    return outputs


def load_classifier(
    network: nn.Module, path: str | os.PathLike[str], *, kind: str, device: torch.device | str = "cpu"
) -> nn.Module:
    """Load weights written by ``save_classifier`` into a network of that architecture.

    Returns:
        ``network`` on ``device``, in eval mode and without gradients, with the attribute ``made_of``: the data set that
        it was trained on, as the file says, or None.

    Raises:
        ArtifactError: if the file is missing, damaged, of another kind, or belongs to another architecture.
    """
    data = load_artifact(path, kind=kind)
    try:
        network.load_state_dict(data["state_dict"])
    except Exception as error:  # load_state_dict raises what it likes on what is no tensor
        raise ArtifactError(
            f"{path} holds the weights of a {data['network']} with {data['num_outputs']} outputs, which do not fit the "
            f"{type(network).__name__} of the config: use the config that trained it, or train again. "
            f"({first_line(error)})"
        ) from error
    network.made_of = data["header"]["made_by"].get("data")
    return network.to(device).eval().requires_grad_(False)
