"""Paths in the latent space: the straight line, its length, and the same curve by more points."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from monai_plan.utils import ConfigError


def linear_path(w_a: Tensor, w_b: Tensor, num_points: int) -> Tensor:
    """The straight line w̄_t = w_a + (t − 1)/(T − 1) · (w_b − w_a), t = 1 … T, from which the walk starts.

    Args:
        w_a, w_b: [w_dim], or [num_ws, w_dim] with num_ws ≥ 2 in W+; the first and the last point.
        num_points: T, at least 2.

    Returns:
        [T, w_dim] or [T, num_ws, w_dim]; the first and last point are exactly ``w_a`` and ``w_b``.

    Raises:
        ConfigError: if the shapes differ or are none of the two, or ``num_points`` is less than 2.
    """
    if not is_latent(w_a) or w_a.shape != w_b.shape:
        raise ConfigError(
            "w_a and w_b must both be [w_dim], or both [num_ws, w_dim] with num_ws ≥ 2: got "
            f"{list(w_a.shape)} and {list(w_b.shape)}."
        )
    if num_points < 2:
        raise ConfigError(f"num_points must be at least 2, the two end points: got {num_points}.")
    places = torch.linspace(0, 1, num_points, dtype=w_a.dtype, device=w_a.device)
    return torch.lerp(w_a, w_b, per_row(places, w_a[None]))  # lerp is exact at 0 and 1


def distance_loss(paths: Tensor) -> Tensor:
    """L_dist = Σ_{t=1}^{T−1} ‖w̄_{t+1} − w̄_t‖² (PLAN) of each path; least on the straight, evenly spaced line.

    Args:
        paths: [P, T, w_dim] or [P, T, num_ws, w_dim].

    Returns:
        [P], at least 0.
    """
    return (paths[:, 1:] - paths[:, :-1]).flatten(2).square().sum((1, 2))


def is_latent(w: Tensor) -> bool:
    """[w_dim], or [num_ws, w_dim] with num_ws ≥ 2: no G has a single layer, so [1, w_dim] is a batch by mistake."""
    return w.ndim == 1 or (w.ndim == 2 and len(w) > 1)


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """One value per row, [N], in the shape [N, 1, …] that multiplies the rows of ``like``."""
    return values.view(-1, *[1] * (like.ndim - 1))


def straight_lines(
    w_a: Sequence[Tensor] | Tensor, w_b: Sequence[Tensor] | Tensor, *, w_dim: int, num_points: int, device: torch.device
) -> Tensor:
    """The straight lines [P, T, *latent] between checked ends, float32.

    Raises:
        ConfigError: if an end is of another shape, not finite, or not in the same space as the others.
    """
    ends = []
    for name, points in (("w_a", w_a), ("w_b", w_b)):
        for w in points:
            if not is_latent(w) or w.shape[-1] != w_dim:
                raise ConfigError(
                    f"{name} must be [w_dim] = [{w_dim}]: got {list(w.shape)}; [num_ws, {w_dim}] with num_ws ≥ 2 "
                    "would be a latent of W+."
                )
            if not w.isfinite().all():
                raise ConfigError(f"{name} has values that are not finite: repeat the inversion it comes from.")
        ends.append([w.detach().as_subclass(Tensor).to(device, torch.float32) for w in points])
    lines = [linear_path(first, last, num_points) for first, last in zip(*ends, strict=True)]
    shapes = {line.shape[1:]: None for line in lines}
    if len(shapes) > 1:
        raise ConfigError(f"The end points have the shapes {[list(s) for s in shapes]}: walk each on its own.")
    return torch.stack(lines)


def refined(paths: Tensor, num_points: int) -> Tensor:
    """The same piecewise straight curves [P, T_c, *latent] by T points that are spread evenly over their pieces."""
    place = torch.linspace(0, paths.shape[1] - 1, num_points)
    before = place.long().clamp(max=paths.shape[1] - 2)
    weight = per_row(place - before, paths[0])
    return torch.lerp(paths[:, before], paths[:, before + 1], weight)
