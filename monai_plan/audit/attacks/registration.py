"""Laying one image over another: the rigid motion and zoom under which their maps agree best, many pairs at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from monai_plan.audit.attacks.maps import blurred, local_maps

__all__ = ["agreement", "fit_motions", "sampling_grids"]

ROTATION = math.radians(14)  # bounds of a motion: of each angle,
ZOOM = math.log(1.21)  # of the zoom in either direction,
SHIFT = 0.16  # and of the shift along each axis, in halves of its length
LEARNING_RATE = 0.15
BORDER = 1.0  # elements at the edge of the moved image that are not compared: their windows reach beyond it
CHUNK = 2**19  # elements of the pairs that are fitted at a time, so that they stay in a processor's cache


def sampling_grids(motions: Tensor, spatial: Sequence[int]) -> Tensor:
    """Where each place of a fixed image lies in the moving one.

    Args:
        motions: [P, 4] in 2D, [P, 7] in 3D: angles, zoom and shifts, each in units of its bound before ``tanh``; zeros
            move nothing.
        spatial: elements of each axis.

    Returns:
        [P, *spatial, 2 or 3] for ``grid_sample``.
    """
    dims = len(spatial)
    bounded = torch.tanh(motions)
    num_angles = 1 if dims == 2 else 3
    angles, shifts = ROTATION * bounded[:, :num_angles], SHIFT * bounded[:, num_angles + 1 :]
    zooms = torch.exp(ZOOM * bounded[:, num_angles])
    turns = torch.eye(dims, dtype=motions.dtype, device=motions.device).expand(len(motions), -1, -1)
    for number, (i, j) in enumerate([(0, 1), (0, 2), (1, 2)][:num_angles]):
        turns = turns @ _turn(angles[:, number], i, j, dims)
    lengths = torch.tensor(list(spatial)[::-1], dtype=motions.dtype, device=motions.device)  # of grid_sample's axes
    theta = turns * zooms[:, None, None] * (lengths[None, :] / lengths[:, None])
    theta = torch.cat([theta, shifts[:, :, None]], dim=2)
    return functional.affine_grid(theta, [len(motions), 1, *spatial], align_corners=False)


def _turn(angles: Tensor, i: int, j: int, dims: int) -> Tensor:
    """Rotation matrices [P, dims, dims] in the plane of two axes."""
    c, s = angles.cos(), angles.sin()
    one, zero = torch.ones_like(c), torch.zeros_like(c)
    values = {(i, i): c, (j, j): c, (i, j): -s, (j, i): s}
    rows = [values.get((a, b), one if a == b else zero) for a in range(dims) for b in range(dims)]
    return torch.stack(rows, dim=1).reshape(-1, dims, dims)


def _correlation(fixed: Tensor, moved: Tensor, mask: Tensor) -> Tensor:
    """Normalised correlation [P] of maps, whose local means are 0, where the mask is 1."""
    a, b = (fixed * mask).flatten(1), (moved * mask).flatten(1)
    return (a * b).sum(1) / (a.square().sum(1) * b.square().sum(1)).clamp_min(1e-12).sqrt()


def _inside(grids: Tensor, border: float = 0.0) -> Tensor:
    """[P, 1, *spatial]: 1 where the moved image has a value, the border left out."""
    lengths = torch.tensor(list(grids.shape[1:-1])[::-1], dtype=grids.dtype, device=grids.device)
    return (grids.detach().abs() <= 1 - 2 * border / lengths).all(-1)[:, None].to(grids.dtype)


def fit_motions(
    fixed: Tensor, moving: Tensor, pairs: Tensor, *, start: Tensor | None = None, steps: int
) -> tuple[Tensor, Tensor]:
    """Find the motion of each pair that maximises the normalised correlation of its maps, by Adam.

    Args:
        fixed: maps [N, 1, *spatial].
        moving: maps [M, 1, *spatial].
        pairs: [P, 2], a row of ``fixed`` and one of ``moving`` each.
        start: motions [P, 4 or 7] to begin with; None: no motion.
        steps: of the search.

    Returns:
        Motions [P, 4 or 7], see ``sampling_grids``, and correlations [P] there.
    """
    spatial = tuple(fixed.shape[2:])
    if start is None:
        start = fixed.new_zeros(len(pairs), 4 if len(spatial) == 2 else 7)
    motions, correlations = [], []
    count = _at_once(spatial)
    for part, begin in zip(pairs.split(count), start.split(count), strict=True):
        a, b = fixed[part[:, 0]], moving[part[:, 1]]
        motion, first, second = begin.clone(), torch.zeros_like(begin), torch.zeros_like(begin)
        for step in range(steps):
            motion.requires_grad_(True)
            grids = sampling_grids(motion, spatial)
            moved = functional.grid_sample(b, grids, align_corners=False)
            (slope,) = torch.autograd.grad(_correlation(a, moved, _inside(grids)).sum(), motion)
            first.lerp_(slope, 0.1)
            second.lerp_(slope.square(), 0.001)
            rate = LEARNING_RATE * (1 - 0.7 * step / steps) * (1 - 0.999 ** (step + 1)) ** 0.5 / (1 - 0.9 ** (step + 1))
            motion = motion.detach() + rate * first / (second.sqrt() + 1e-9)
        grids = sampling_grids(motion, spatial)
        moved = functional.grid_sample(b, grids, align_corners=False)
        motions.append(motion)
        correlations.append(_correlation(a, moved, _inside(grids)))
    return torch.cat(motions), torch.cat(correlations)


@torch.no_grad()
def agreement(fixed: Tensor, moving: Tensor, pairs: Tensor, motions: Tensor, *, blurs: Sequence[float]) -> Tensor:
    """How well images agree once one of each pair is moved: the normalised correlation of their maps.

    The images are moved before they are blurred and the maps are made, so that the windows of both end where a cropped
    image does: what was blurred before would have in it what lies beyond.

    Args:
        fixed, moving: grey images [N, 1, *spatial] and [M, 1, *spatial].
        pairs, motions: see ``fit_motions``.
        blurs: standard deviations by which both are blurred, in elements.

    Returns:
        [blurs, P], in [-1, 1].
    """
    spatial = tuple(fixed.shape[2:])
    maps = [local_maps(blurred(fixed, blur)) for blur in blurs]
    correlations, count = [], _at_once(spatial)
    for part, motion in zip(pairs.split(count), motions.split(count), strict=True):
        grids = sampling_grids(motion, spatial)
        moved = functional.grid_sample(moving[part[:, 1]], grids, padding_mode="border", align_corners=False)
        mask = _inside(grids, BORDER)
        found = [
            _correlation(of_blur[part[:, 0]], local_maps(blurred(moved, blur)), mask)
            for of_blur, blur in zip(maps, blurs, strict=True)
        ]
        correlations.append(torch.stack(found))
    return torch.cat(correlations, dim=1)


def _at_once(spatial: Sequence[int]) -> int:
    """How many pairs are fitted at a time."""
    return max(1, CHUNK // math.prod(spatial))
