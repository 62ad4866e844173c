"""The door: which points of the private paths may leave, and which of these become images.

Whoever makes an image that may leave asks here: the stages synthesize and evaluate, the path figure and the on-line
source. Nothing else reads which points the final check refused.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from monai_plan.utils import ArtifactError, load_artifact

__all__ = ["ReleasePoints", "load_paths", "may_leave", "select"]


@dataclass(frozen=True, eq=False)
class ReleasePoints:
    """Points of paths, each of which may leave as an image.

    Attributes:
        latents: [N, w_dim] or [N, num_ws, w_dim].
        labels: [N] int64, the class of each.
        places: [N, 2] int64, path and point.
    """

    latents: Tensor
    labels: Tensor
    places: Tensor


def load_paths(paths_file: str | os.PathLike[str]) -> dict[str, Any]:
    """Load what the stage ``walk`` wrote.

    Returns:
        ``paths`` [P, T, *latent], ``labels`` [P], ``pairs`` [P, 2], ``losses``, ``kept`` [P, T] bool and
        ``num_images`` (class → number), with the file's header.

    Raises:
        ArtifactError: if the file is missing or damaged, or does not say of every point whether it may leave.
    """
    data = load_artifact(paths_file, kind="paths")
    kept = data.get("kept")
    if not isinstance(kept, Tensor) or kept.dtype != torch.bool or kept.shape != data["paths"].shape[:2]:
        raise ArtifactError(
            f"{paths_file} does not say which of its points may leave: run the stage walk again, which checks them."
        )
    return data


def may_leave(paths: Mapping[str, Any]) -> Tensor:
    """[P, T] bool: the points that may leave, those that passed the final check; never an end, which is an anchor.

    Args:
        paths: see ``load_paths``.
    """
    allowed: Tensor = paths["kept"].clone()
    allowed[:, [0, -1]] = False
    return allowed


def select(paths: Mapping[str, Any], *, num_images: Mapping[int, int] | None = None) -> ReleasePoints:
    """The points that become images.

    Args:
        paths: see ``load_paths``.
        num_images: class → number of images, at most as many as there are points that may leave; they are spread
            evenly over all paths of a class. None: every point that may leave, path after path.
    """
    allowed = may_leave(paths)
    if num_images is None:
        places = allowed.nonzero()
    else:
        places = torch.cat([_spread(allowed, paths["labels"] == label, n) for label, n in num_images.items()])
    path, point = places.unbind(1)
    return ReleasePoints(paths["paths"][path, point], paths["labels"][path], places)


def _spread(allowed: Tensor, of_class: Tensor, number: int) -> Tensor:
    """[number, 2]: path and point of so many points, as evenly as may be over all paths of a class."""
    paths = torch.where(of_class)[0].tolist()
    there = {path: allowed[path].nonzero().flatten() for path in paths}
    shares, left = {}, number
    # Those with the fewest points first: what they cannot give is spread over the others, which then still can.
    for position, path in enumerate(sorted(paths, key=lambda path: (len(there[path]), -path))):
        shares[path] = min(left // (len(paths) - position), len(there[path]))
        left -= shares[path]
    chosen = []
    for path in paths:
        # the middles of as many equal pieces of what may leave
        middles = (torch.arange(shares[path]) + 0.5) * len(there[path]) / max(shares[path], 1)
        points = there[path][middles.long()]
        chosen.append(torch.stack([torch.full_like(points, path), points], dim=1))
    return torch.cat(chosen)
