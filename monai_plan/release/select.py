"""The door: which points of the private paths may leave, and which of these become images.

Whoever makes an image that may leave asks here: the stages synthesize and evaluate, the path figure and the on-line
source. Nothing else reads which points the final check refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from monai_plan.release.secret import draw, in_secret_order
from monai_plan.utils import ArtifactError, load_artifact

__all__ = ["ReleasePoints", "load_paths", "may_leave", "points_to_leave", "select"]


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
        ``paths`` [P, T, *latent], ``labels`` [P], ``pairs`` [P, 2], ``losses``, ``kept`` [P, T] bool,
        ``num_images`` (class → number), ``anchor_kind`` ("prior" or "k_same": whether patients are behind the ends),
        ``min_end_distance`` (see ``points_to_leave``) and ``secret`` (see
        ``release_secret``), with the file's header.

    Raises:
        ArtifactError: if the file is missing or damaged, or what decides of its points is not as above.
    """
    data = load_artifact(paths_file, kind="paths")
    shape = tuple(data["paths"].shape)

    def holds(name: str, dtype: torch.dtype, *expected: int) -> bool:
        value = data.get(name)
        return isinstance(value, Tensor) and value.dtype == dtype and tuple(value.shape) == expected

    distance, secret, numbers = (data.get(name) for name in ("min_end_distance", "secret", "num_images"))
    rules = {
        "paths": ("numbers [P, T, *latent]", data["paths"].is_floating_point() and len(shape) in (3, 4) and all(shape)),
        "labels": ("a class per path", holds("labels", torch.int64, *shape[:1])),
        "pairs": ("two anchors per path", "pairs" not in data or holds("pairs", torch.int64, *shape[:1], 2)),
        "kept": ("whether each point may leave", holds("kept", torch.bool, *shape[:2])),
        "min_end_distance": (
            "a number from 0 to below 0.5",
            isinstance(distance, (int, float)) and 0 <= distance < 0.5,
        ),
        "anchor_kind": ("'prior' or 'k_same'", data.get("anchor_kind") in ("prior", "k_same")),
        "secret": ("64 hexadecimal digits", isinstance(secret, str) and re.fullmatch("[0-9a-f]{64}", secret)),
        "num_images": (
            "a whole number per class",
            numbers is None or all(type(n) is int and n >= 0 for pair in numbers.items() for n in pair),
        ),
    }
    for name, (expected, found) in rules.items():
        if not found:
            raise ArtifactError(
                f"{paths_file} does not say which of its points may leave: its {name} must be {expected}. Run the "
                "stage walk again, which checks them."
            )
    return data


def points_to_leave(paths: Tensor, min_end_distance: float, *, anchor_kind: str) -> Tensor:
    """[P, T] bool: the points at least so far from both ends along their path; never an average of patients itself.

    With the arc length s_t = Σ_{u<t} ‖w̄_{u+1} − w̄_u‖: min(s_t, s_T − s_t) ≥ ``min_end_distance`` · s_T. Where an end
    is the average of k patients, a point near it gives the last of them to whoever knows the others.

    Args:
        paths: [P, T, *latent].
        min_end_distance: a share of the path's length, in [0, 0.5).
        anchor_kind: what the ends are: "k_same", averages of patients, or "prior", points of G's own distribution,
            behind which nobody is: at 0 all points may leave then, the ends among them.
    """
    if anchor_kind == "prior" and not min_end_distance:
        return torch.ones(paths.shape[:2], dtype=torch.bool)
    steps = paths.double().diff(dim=1).flatten(2).norm(dim=2)
    before = torch.cat([steps.new_zeros(len(steps), 1), steps.cumsum(1)], dim=1)
    behind = before[:, -1:] - before
    far = before.minimum(behind) >= (min_end_distance - 1e-9) * before[:, -1:]
    far[:, [0, -1]] = False
    return far & (before[:, -1:] > 0)  # on a path between equal ends every point is an end


def may_leave(paths: Mapping[str, Any]) -> Tensor:
    """[P, T] bool: the points that may leave, those far from averages of patients that passed the final check.

    Args:
        paths: see ``load_paths``.
    """
    kept: Tensor = paths["kept"]
    return kept & points_to_leave(paths["paths"], paths["min_end_distance"], anchor_kind=paths["anchor_kind"])


def select(paths: Mapping[str, Any], *, num_images: Mapping[int, int] | None = None) -> ReleasePoints:
    """The points that become images.

    Args:
        paths: see ``load_paths``.
        num_images: class → number of images, at most as many as there are points that may leave; they are spread
            evenly over all paths of a class, and shuffled by the secret in ``paths``: nothing of the order or the
            number of the paths is left. None, for private use: every point that may leave, path after path.
    """
    allowed = may_leave(paths)
    if num_images is None:
        places = allowed.nonzero()
    else:
        secret = paths["secret"]
        places = torch.cat([_spread(allowed, paths["labels"] == label, n, secret) for label, n in num_images.items()])
        places = places[in_secret_order(len(places), secret, "images")]
    path, point = places.unbind(1)
    return ReleasePoints(paths["paths"][path, point], paths["labels"][path], places)


def _spread(allowed: Tensor, of_class: Tensor, number: int, secret: str) -> Tensor:
    """[number, 2]: path and point of so many points, as evenly as may be over all paths of a class."""
    paths = torch.where(of_class)[0].tolist()
    there = {path: allowed[path].nonzero().flatten() for path in paths}
    shares, left = {}, number
    # Those with the fewest points first: what they cannot give is spread over the others, which then still can.
    # Who gives one more than another is drawn: it must not tell the paths apart.
    for position, path in enumerate(sorted(paths, key=lambda path: (len(there[path]), draw(secret, "spread", path)))):
        shares[path] = min(left // (len(paths) - position), len(there[path]))
        left -= shares[path]
    chosen = []
    for path in paths:
        # the middles of as many equal pieces of what may leave
        middles = (torch.arange(shares[path]) + 0.5) * len(there[path]) / max(shares[path], 1)
        points = there[path][middles.long()]
        chosen.append(torch.stack([torch.full_like(points, path), points], dim=1))
    return torch.cat(chosen)
