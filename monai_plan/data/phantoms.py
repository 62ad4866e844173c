"""Chest-like phantoms with known truth: whose image it is, and whether there is a lesion.

A subject's anatomy is a description in numbers, drawn from (seed, subject). A picture evaluates it on a grid, in 2D or
3D and at any size, so that the same subject at another size is the same subject. Its one to four images differ in
pose and exposure, drawn from (seed, subject, image).

The field of view is [-1, 1] in every axis. Axes are those of MONAI's readers: in 2D (x, v), in 3D (x, d, v), where x
runs over the image from left to right, d from the front to the back and v, always last, from head to foot.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.utils import ensure_tuple_rep
from torch import Tensor

from monai_plan.data.datalist import DATALIST_NAME, write_datalist
from monai_plan.data.writers import IMAGES_FOLDER, image_suffix, replaced_dataset, write_image
from monai_plan.utils import ConfigError, seeded_generator

PHANTOM_LABELS = {0: "no lesion", 1: "lesion"}
FIELD_OF_VIEW_MM = 320.0

# What tells one subject from another. Lengths are in half fields of view; names ending in _r and _l belong to the
# lung at the left and at the right of the image (the patient's right and left).
_ANATOMY = {
    "thorax_width": (0.80, 0.97),
    "thorax_depth": (0.58, 0.72),
    "lung_v": (-0.10, 0.02),
    "lung_x_r": (0.38, 0.46),
    "lung_x_l": (0.38, 0.46),
    "lung_width_r": (0.26, 0.36),
    "lung_width_l": (0.25, 0.35),
    "lung_height_r": (0.58, 0.78),
    "lung_height_l": (0.58, 0.78),
    "lung_tilt_r": (0.02, 0.22),
    "lung_tilt_l": (0.02, 0.22),
    "lung_taper": (0.05, 0.35),
    "diaphragm_r": (0.30, 0.52),
    "diaphragm_l": (0.36, 0.58),
    "heart_x": (0.08, 0.20),
    "heart_v": (0.22, 0.36),
    "heart_width": (0.22, 0.38),
    "heart_height": (0.24, 0.34),
    "heart_tilt": (0.2, 0.8),
    "mediastinum_width": (0.10, 0.18),
    "rib_spacing": (0.17, 0.27),
    "rib_phase": (0.0, 1.0),
    "rib_drop": (0.08, 0.34),
    "rib_contrast": (0.22, 0.34),
    "lesion_side": (0.0, 1.0),
    "lesion_x": (-0.30, 0.40),
    "lesion_d": (-0.15, 0.15),
    "lesion_v": (0.0, 1.0),
    "lesion_radius": (0.10, 0.14),
}
_POSE = {
    "shift_x": (-0.04, 0.04),
    "shift_d": (-0.03, 0.03),
    "shift_v": (-0.04, 0.04),
    "rotation": (-0.05, 0.05),
    "scale": (0.97, 1.03),
    "gain": (0.93, 1.07),
    "gamma": (0.88, 1.14),
}
_NUM_WAVES = 6
_EDGE = 0.025


def _draw(ranges: dict[str, tuple[float, float]], generator: torch.Generator) -> dict[str, float]:
    fractions = torch.rand(len(ranges), generator=generator).tolist()
    return {name: low + (high - low) * u for (name, (low, high)), u in zip(ranges.items(), fractions, strict=True)}


def _ellipsoid(offsets: Sequence[Tensor], radii: Sequence[float]) -> Tensor:
    """First-order signed distance to an ellipsoid, negative inside; offsets are coordinates from its centre."""
    rho = torch.stack([(o / r) ** 2 for o, r in zip(offsets, radii, strict=True)]).sum(0).sqrt()
    slope = torch.stack([(o / r**2) ** 2 for o, r in zip(offsets, radii, strict=True)]).sum(0).sqrt()
    return rho * (rho - 1.0) / slope.clamp_min(1e-6)


def _rotate(x: Tensor, v: Tensor, angle: float) -> tuple[Tensor, Tensor]:
    return math.cos(angle) * x + math.sin(angle) * v, math.cos(angle) * v - math.sin(angle) * x


def _grid(size: tuple[int, ...], pose: dict[str, float]) -> tuple[Tensor, list[Tensor], Tensor]:
    """Coordinates (x, [d] or [], v) in the subject's own frame, of the pixels of an image in this pose."""
    axes = [(torch.arange(n, dtype=torch.float32) + 0.5) * (2.0 / n) - 1.0 for n in size]
    x, *depth, v = torch.meshgrid(*axes, indexing="ij")
    x, v = _rotate(x - pose["shift_x"], v - pose["shift_v"], pose["rotation"])
    return x / pose["scale"], [(d - pose["shift_d"]) / pose["scale"] for d in depth], v / pose["scale"]


def _render(
    anatomy: dict[str, float], waves: Tensor, label: int, x: Tensor, depth: list[Tensor], v: Tensor, pixel: float
) -> Tensor:
    """The subject's densities at the given coordinates, about [0, 1]. ``pixel`` is the width of a pixel."""
    a = anatomy
    # A pixel averages over its width: edges are softened by it, so that nothing aliases at a small size.
    edge = math.hypot(_EDGE, 0.3 * pixel)

    def inside(distance: Tensor) -> Tensor:
        return torch.sigmoid(distance / -edge)

    def paint(value: float, mask: Tensor) -> None:
        image.lerp_(torch.as_tensor(value), mask)

    def deep(radius: float) -> list[float]:
        return [radius] * len(depth)

    image = torch.full_like(x, 0.03)
    body = torch.maximum(
        inside(_ellipsoid([x, *depth, v - 0.35], [a["thorax_width"], *deep(a["thorax_depth"]), 1.25])),
        inside(_ellipsoid([x, *depth, v + 1.0], [0.26, *deep(0.26), 0.5])),
    )
    paint(0.50, body)

    lesion: Tensor | None = None
    for side, sign in (("r", -1.0), ("l", 1.0)):
        centre, width, height = sign * a[f"lung_x_{side}"], a[f"lung_width_{side}"], a[f"lung_height_{side}"]
        thickness = 0.72 * a["thorax_depth"]
        tilt = -sign * a[f"lung_tilt_{side}"]
        local_x, local_v = _rotate(x - centre, v - a["lung_v"], tilt)
        tapered = local_x / (1.0 + a["lung_taper"] * (local_v / height).clamp(-1.0, 1.0))
        dome = a[f"diaphragm_{side}"] + 0.22 * ((x - 0.8 * centre) / width) ** 2
        for d in depth:
            dome = dome + 0.15 * (d / thickness) ** 2
        lung = inside(_ellipsoid([tapered, *depth, local_v], [width, *deep(thickness), height])) * inside(v - dome)
        paint(0.14, lung)
        if label and (side == "l") == (a["lesion_side"] > 0.5):
            # Kept off the heart, the mediastinum and the diaphragm, which would hide it.
            low = 0.30 if side == "r" else 0.0
            place_v = -0.55 + (low + 0.50) * a["lesion_v"]
            lesion = _ellipsoid(
                [
                    local_x - sign * a["lesion_x"] * width,
                    *(d - a["lesion_d"] for d in depth),
                    local_v - place_v * height,
                ],
                [a["lesion_radius"] * (1.6 if depth else 1.0)] * x.ndim,  # volumes are small: several voxels
            )

    below = torch.sigmoid((v - 0.62) / 0.12) * body
    paint(0.62, below)
    image += _ribs(a, x, depth, v, pixel) * (body - 0.6 * below)
    paint(0.66, inside(_ellipsoid([x, *depth, v], [a["mediastinum_width"], *deep(0.3), 1.4])) * body * 0.9)
    spine = torch.exp(-0.5 * (x / 0.06) ** 2) * (1.0 + 0.5 * torch.cos(v * (2.0 * math.pi / 0.24)))
    for d in depth:
        spine = spine * torch.exp(-0.5 * ((d - 0.3) / 0.12) ** 2)
    image += 0.10 * spine * body
    heart_x, heart_v = _rotate(x - a["heart_x"], v - a["heart_v"], a["heart_tilt"])
    heart = _ellipsoid([heart_x, *(d + 0.1 for d in depth), heart_v], [a["heart_width"], *deep(0.3), a["heart_height"]])
    paint(0.76, inside(heart) * 0.92)
    if lesion is not None:
        paint(0.92, inside(lesion) * 0.92)

    coordinates = torch.stack([x, *depth, v], dim=-1)
    if not depth:
        waves = waves[:, [0, 2, 3]]
    phases = coordinates @ waves[:, :-1].T + waves[:, -1]
    return image + 0.012 * torch.sin(phases).sum(-1) * body


def _ribs(a: dict[str, float], x: Tensor, depth: list[Tensor], v: Tensor, pixel: float) -> Tensor:
    """Curved bands, rib_spacing apart: projected over the whole cage in 2D, in the wall of the cage in 3D."""
    drop = a["rib_drop"] / 0.36
    arch = drop * (x.abs() - 0.2) ** 2
    for d in depth:
        arch = arch - 0.3 * d  # ribs descend from the back to the front
    slope = 1.0 + (2.0 * drop * (x.abs() - 0.2)) ** 2
    u = (v - arch) / a["rib_spacing"] + a["rib_phase"]
    distance = (u - u.round()) * a["rib_spacing"] / slope.sqrt()
    base = 0.16 * a["rib_spacing"]
    width = math.hypot(base, 0.3 * pixel)
    band = torch.exp(-0.5 * (distance / width) ** 2) * (base / width)
    cage = [0.90 * a["thorax_width"], *([0.88 * a["thorax_depth"]] * len(depth)), 0.95]
    wall = _ellipsoid([x, *depth, v - a["lung_v"]], cage)
    if depth:
        wall_width = math.hypot(0.05, 0.3 * pixel)
        return 1.6 * a["rib_contrast"] * band * torch.exp(-0.5 * (wall / wall_width) ** 2) * (0.05 / wall_width)
    return a["rib_contrast"] * band * torch.sigmoid(wall / -0.04)


def phantom_image(
    *, subject: int, image: int, label: int, img_size: int | Sequence[int], spatial_dims: int = 2, seed: int = 0
) -> Tensor:
    """One phantom image.

    Args:
        subject: number of the subject; with ``seed`` it fixes the anatomy, the place of the lesion included.
        image: number of the image of this subject; with the above it fixes pose, exposure and noise.
        label: 0 without, 1 with the lesion.
        img_size: pixels, one number for all axes or one per axis. The field of view always fills the image.
        spatial_dims: 2 or 3.
        seed: seed of the whole population.

    Returns:
        [1, *img_size], float32 in [0, 1], axes (x, v) or (x, d, v).

    Raises:
        ConfigError: if ``label``, ``spatial_dims`` or ``img_size`` cannot be drawn.
    """
    if label not in PHANTOM_LABELS:
        raise ConfigError(f"label is {label!r}, but phantoms have the classes {PHANTOM_LABELS}.")
    size = _checked_size(img_size, spatial_dims)
    generator = seeded_generator(seed, "anatomy", subject)
    anatomy = _draw(_ANATOMY, generator)
    # Each row: cycles over the field in x, d and v, in radians a unit, and a phase.
    waves = (torch.rand(_NUM_WAVES, 4, generator=generator) * 2.0 - 1.0) * math.pi
    waves[:, :-1] *= 3.0
    generator = seeded_generator(seed, "pose", subject, image)
    pose = _draw(_POSE, generator)
    picture = _render(anatomy, waves, label, *_grid(size, pose), pixel=2.0 / min(size))
    picture = (pose["gain"] * picture).clamp(0.0, 1.0) ** pose["gamma"]
    picture = picture + 0.01 * torch.randn(size, generator=generator)
    return picture.clamp(0.0, 1.0)[None]


def _checked_size(img_size: int | Sequence[int], spatial_dims: int) -> tuple[int, ...]:
    if spatial_dims not in (2, 3):
        raise ConfigError(f"spatial_dims is {spatial_dims!r}, but images have 2 or 3 axes.")
    if not isinstance(img_size, int) and len(img_size) != spatial_dims:
        raise ConfigError(f"img_size {tuple(img_size)} has {len(img_size)} axes, but spatial_dims is {spatial_dims}.")
    size = tuple(int(n) for n in ensure_tuple_rep(img_size, spatial_dims))
    if min(size) < 8:
        raise ConfigError(f"img_size is {size}, but a phantom needs at least 8 pixels per axis.")
    return size


def _half_with_lesion(num_subjects: int, seed: int, split: str) -> list[int]:
    labels = torch.zeros(num_subjects, dtype=torch.long)
    labels[torch.randperm(num_subjects, generator=seeded_generator(seed, "labels", split))[: num_subjects // 2]] = 1
    return labels.tolist()


def make_phantoms(
    output_dir: str | os.PathLike[str],
    *,
    spatial_dims: int = 2,
    img_size: int | Sequence[int] = 64,
    num_subjects: int = 120,
    num_test_subjects: int = 40,
    images_per_subject: tuple[int, int] = (1, 4),
    num_known_images: int = 0,
    seed: int = 0,
) -> Path:
    """Write a population of phantoms with its data list: the truth for tests of identity and of class.

    Images are 8-bit grey PNG in 2D and compressed NIfTI in 3D, below ``output_dir/images``; an earlier population
    there is replaced. Half of the subjects of either split (rounded down) carry the lesion, class 1.

    Args:
        output_dir: the folder to write to.
        spatial_dims: 2 or 3.
        img_size: pixels, one number for all axes or one per axis.
        num_subjects: subjects of the section ``training``.
        num_test_subjects: further subjects, of the section ``test``.
        images_per_subject: least and greatest number of images of a subject.
        num_known_images: if positive, the section ``test_known`` holds this many further images of every training
            subject: the unseen images of known subjects on which an identity classifier is judged.
        seed: seed of the population.

    Returns:
        The path of the data list, in Decathlon form.

    Raises:
        ConfigError: if a number is out of range.
        DataError: if ``output_dir`` holds a data set that this function did not write.
    """
    size = _checked_size(img_size, spatial_dims)
    least, most = images_per_subject
    if not 1 <= least <= most:
        raise ConfigError(f"images_per_subject is {images_per_subject}, but needs 1 <= least <= greatest.")
    if num_subjects < 2 or num_test_subjects < 0 or num_known_images < 0:
        raise ConfigError(
            f"num_subjects is {num_subjects}, num_test_subjects {num_test_subjects} and num_known_images "
            f"{num_known_images}, but at least 2, 0 and 0 are needed."
        )
    suffix = image_suffix(spatial_dims)
    # x, d and v run to the patient's left, back and foot: the negative axes of NIfTI's RAS+. PNG holds no affine.
    spacing = [FIELD_OF_VIEW_MM / n for n in size]
    affine = torch.diag(torch.tensor([*(-mm for mm in spacing), 1.0])).tolist() if spatial_dims == 3 else None
    sections: dict[str, list[dict[str, Any]]] = {"training": [], "test": [], "test_known": []}

    labels = _half_with_lesion(num_subjects, seed, "training") + _half_with_lesion(num_test_subjects, seed, "test")
    with replaced_dataset(output_dir, pattern=r"phantom_\d{4,}_\d+\.(png|nii)") as folder:
        for subject, label in enumerate(labels):
            generator = seeded_generator(seed, "number of images", subject)
            count = int(torch.randint(least, most + 1, (1,), generator=generator))
            training = subject < num_subjects
            for index in range(count + (num_known_images if training else 0)):
                section = "test" if not training else "training" if index < count else "test_known"
                name = f"{IMAGES_FOLDER}/phantom_{subject:04d}_{index}{suffix}"
                picture = phantom_image(
                    subject=subject, image=index, label=label, img_size=size, spatial_dims=spatial_dims, seed=seed
                )
                write_image(folder / name, picture, affine=affine)
                sections[section].append({"image": name, "label": label, "subject": f"phantom_{subject:04d}"})
        write_datalist(
            folder / DATALIST_NAME,
            labels=PHANTOM_LABELS,
            sections=sections,
            name="phantoms",
            description=(
                f"Chest-like phantoms, {' x '.join(map(str, size))} pixels, seed {seed}. A subject's images share its "
                "anatomy and differ in pose and exposure."
            ),
        )
    return Path(output_dir) / DATALIST_NAME
