"""The figure of one path: the distance to the nearest real image along it, beside the straight path's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from monai_plan.audit import Section
from monai_plan.audit.figures import CUBIC, WIDTH, image_panel, new_figure, png_of, show_panels
from monai_plan.data import CheckedDataset
from monai_plan.metrics import NearestReal, PerceptualEmbedding, nearest_real_images
from monai_plan.networks import LatentDecoder
from monai_plan.release import shared_spacing, synthesize_images
from monai_plan.utils import DataError

__all__ = ["PathFigure", "choose_path", "draw_path", "path_section"]

LINEAR_COLOUR = "#b4540a"
PRIVATE_COLOUR = "#1a5fb4"
REAL_COLOUR = "#5e5c64"
POINTS_SHOWN = 10


@dataclass(frozen=True)
class PathFigure:
    """One pair of anchors: the straight path between them and the private one.

    Attributes:
        linear_distances: [T], perceptual distance of every image to its nearest real training image.
        private_distances: [T], the same for the private path.
        linear_images: [T, C, *spatial] in [-1, 1]; may be near copies of patients, so never released.
        private_images: [T, C, *spatial] in [-1, 1].
        nearest_real_images: [T, C, *spatial], the real training image nearest to every private image.
        held_out_distance: mean distance of held-out real images to the training images, the scale.
        label: name of the class of both anchors.
        voxel_size: of volumes, in mm, for their proportions.
    """

    linear_distances: Tensor
    private_distances: Tensor
    linear_images: Tensor
    private_images: Tensor
    nearest_real_images: Tensor
    held_out_distance: float
    label: str
    voxel_size: Sequence[float] = CUBIC

    def __post_init__(self) -> None:
        num_points = len(self.private_distances)
        for name in ("linear_distances", "linear_images", "private_images", "nearest_real_images"):
            if len(getattr(self, name)) != num_points:
                raise DataError(f"{name} has {len(getattr(self, name))} points, private_distances {num_points}.")
        if num_points < 2:
            raise DataError(f"a path has two points or more, got {num_points}.")


def choose_path(
    training: CheckedDataset,
    generator: LatentDecoder,
    straight: Tensor,
    paths: Mapping[str, Any],
    embedding: PerceptualEmbedding,
    held_out_distance: float,
    device: torch.device | str,
) -> PathFigure:
    """The pair whose straight path comes nearest to a real image: there a walk has most to do."""

    def nearest_to(points: Tensor) -> NearestReal:
        return nearest_real_images(synthesize_images(generator, points), training.images, embedding, device=device)

    distances = nearest_to(straight.flatten(0, 1)).distances.reshape(straight.shape[:2])
    pair = int(distances.amin(1).argmin())
    linear_images = synthesize_images(generator, straight[pair])
    private_images = synthesize_images(generator, paths["paths"][pair])
    nearest = nearest_to(paths["paths"][pair])
    return PathFigure(
        linear_distances=distances[pair],
        private_distances=nearest.distances,
        linear_images=linear_images,
        private_images=private_images,
        nearest_real_images=training.images[nearest.indices],
        held_out_distance=held_out_distance,
        label=training.label_names[int(paths["labels"][pair])],
        voxel_size=shared_spacing(training.patients_affines),
    )


def path_section(data: PathFigure, title: str) -> Section:
    """The figure for the private folder: its order, its ends and its real images are not for anybody else.

    Args:
        data: the pair of anchors.
        title: the name of the perceptual distance.
    """
    return Section("path", "", "", png_of(draw_path(data, title)), released=False)


def draw_path(data: PathFigure, title: str) -> Figure:
    """The distance to the nearest real image along both paths, with images under it as in the paper's figure."""
    num_points = len(data.private_distances)
    points = torch.linspace(0, num_points - 1, min(POINTS_SHOWN, num_points)).round().long().tolist()
    strips = {
        "linear path": (data.linear_images, LINEAR_COLOUR),
        "private path": (data.private_images, PRIVATE_COLOUR),
        "nearest real to the private path": (data.nearest_real_images, REAL_COLOUR),
    }
    height, width = image_panel(data.private_images[0], voxel_size=data.voxel_size).shape[:2]
    strip_height = WIDTH / len(points) * height / width + 0.25
    curve_height = 3.2
    figure = new_figure(WIDTH, curve_height + strip_height * len(strips))
    grid = figure.add_gridspec(1 + len(strips), 1, height_ratios=[curve_height, *[strip_height] * len(strips)])

    axes = figure.add_subplot(grid[0])
    t = np.arange(1, num_points + 1)
    axes.axhline(data.held_out_distance, color=REAL_COLOUR, linestyle=":", label="held-out real images (mean)")
    axes.plot(t, data.linear_distances.cpu(), color=LINEAR_COLOUR, linestyle="--", label="linear path")
    axes.plot(t, data.private_distances.cpu(), color=PRIVATE_COLOUR, label="private path")
    axes.plot(t[points], data.private_distances.cpu()[points], color=PRIVATE_COLOUR, marker="o", linestyle="")
    axes.set_xlim(1, num_points)
    axes.set_ylim(bottom=0)
    axes.margins(x=0.02)
    axes.set_xlabel("point of the path")
    axes.set_ylabel(f"nearest real image\n({title})")
    axes.set_title(
        f"Distance to the nearest real training image, class: {data.label}", fontsize=11, pad=26, parse_math=False
    )
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    for index, (name, (images, colour)) in enumerate(strips.items(), start=1):
        axes = figure.add_subplot(grid[index])
        show_panels(axes, [image_panel(images[i], voxel_size=data.voxel_size) for i in points], columns=len(points))
        axes.set_title(name, fontsize=9, color=colour, loc="left", pad=3)
    return figure
