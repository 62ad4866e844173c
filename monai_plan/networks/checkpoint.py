"""A generator in a file, with the architecture that its weights belong to."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from monai_plan.networks.stylegan2 import StyleGAN2Generator
from monai_plan.utils import ArtifactError, load_artifact, save_artifact

__all__ = ["load_generator", "save_generator"]


def save_generator(
    generator: StyleGAN2Generator, path: str | os.PathLike[str], *, made_by: Mapping[str, Any] | None = None
) -> None:
    """Save a generator's architecture and weights, whole or not at all.

    Args:
        generator: the network, usually the exponential moving average of the trained one.
        path: the file, by convention ``model.pt``.
        made_by: what made it, kept in the file's header.
    """
    weights = {name: value.detach().cpu() for name, value in generator.state_dict().items()}
    save_artifact(
        path,
        kind="generator",
        data={"network": "StyleGAN2Generator", "architecture": generator.architecture, "state_dict": weights},
        made_by=made_by,
    )


def load_generator(path: str | os.PathLike[str]) -> StyleGAN2Generator:
    """Load a generator with its saved architecture and weights, on the CPU, in eval mode and without gradients.

    Args:
        path: a file written by ``save_generator``.

    Returns:
        The generator; move it with ``.to(device)``.

    Raises:
        ArtifactError: if the file is missing, damaged, no generator, or its weights do not fit its architecture.
    """
    data = load_artifact(path, kind="generator")
    if data["network"] != "StyleGAN2Generator":
        raise ArtifactError(f"{path} holds a {data['network']}, but a StyleGAN2Generator was expected.")
    generator = StyleGAN2Generator(**data["architecture"])
    try:
        generator.load_state_dict(data["state_dict"])
    except RuntimeError as error:
        raise ArtifactError(
            f"{path}: the weights do not fit the architecture {data['architecture']} stored beside them "
            f"(monai_plan {data['header']['version']}): {error}"
        ) from error
    return generator.eval().requires_grad_(False)
