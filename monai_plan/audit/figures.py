"""Figures of images: panels, blocks of panels, and the picture of a figure."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from monai_plan.data import middle_planes
from monai_plan.utils import DataError

__all__ = ["image_panel", "image_sheet", "new_figure", "png_of", "show_panels"]

SHEET_COLUMNS = 8
DPI = 110
WIDTH = 9.0  # inches of a figure
CUBIC = (1.0, 1.0, 1.0)  # voxels of 1 mm


def image_panel(image: Tensor, *, voxel_size: Sequence[float] = CUBIC) -> np.ndarray:
    """An image as rows and columns; of a volume its ``middle_planes`` on white.

    Args:
        image: [C, *spatial] in [-1, 1], C 1 or 3; as MONAI's readers leave it, the first axis runs from left to right.
        voxel_size: of a volume, in mm, see ``middle_planes``.

    Returns:
        [rows, columns, 3] in [0, 1].

    Raises:
        DataError: if the image cannot be shown.
    """
    image = image.detach().float().cpu()
    spatial_dims = image.ndim - 1
    if spatial_dims not in (2, 3) or image.shape[0] not in (1, 3):
        raise DataError(f"an image of shape {tuple(image.shape)} cannot be shown: [1 or 3, X, Y] or [1 or 3, X, Y, Z].")
    if spatial_dims == 3:
        image = middle_planes(image[None], background=1.0, voxel_size=voxel_size)[0]
    return ((image + 1) / 2).clamp(0, 1).permute(2, 1, 0).expand(-1, -1, 3).numpy()


def show_panels(axes: Axes, panels: Sequence[np.ndarray], *, columns: int, numbered: bool = False) -> None:
    """Lay panels of one size side by side in one picture, with a white line between them, and number them from 1."""
    height, width = panels[0].shape[:2]
    gap = max(1, round(0.03 * width))
    rows = -(-len(panels) // columns)
    canvas = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), dtype=np.float32)
    for index, panel in enumerate(panels):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        canvas[top : top + height, left : left + width] = panel
        if numbered:
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
            axes.text(left, top, str(index + 1), fontsize=8, va="top", bbox=box)
    # Enlarged without smoothing: a blur in the figure must be one of the images.
    axes.imshow(canvas, interpolation="nearest", aspect="equal")
    axes.set_axis_off()


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, outside of pyplot."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def image_sheet(groups: Mapping[str, Mapping[str, Tensor]], *, voxel_size: Sequence[float] = CUBIC) -> Figure:
    """Images [n, C, *spatial] in [-1, 1] by class and, within it, by kind: one block for each kind.

    ``voxel_size`` is that of volumes, in mm.

    Raises:
        DataError: if there are no images, or they cannot be shown.
    """
    blocks = [
        (f"{label}, {kind}" if kind else label, [image_panel(image, voxel_size=voxel_size) for image in images])
        for label, kinds in groups.items()
        for kind, images in kinds.items()
        if len(images)
    ]
    if not blocks:
        raise DataError("there are no images to show: give samples of at least one class, named alike in both sheets.")
    height, width = blocks[0][1][0].shape[:2]
    heights = [-(-len(panels) // SHEET_COLUMNS) * WIDTH / SHEET_COLUMNS * height / width for _, panels in blocks]
    figure = new_figure(WIDTH, sum(heights) + 0.3 * len(blocks))
    grid = figure.add_gridspec(len(blocks), 1, height_ratios=heights)
    for index, (name, panels) in enumerate(blocks):
        axes = figure.add_subplot(grid[index])
        show_panels(axes, panels, columns=SHEET_COLUMNS)
        axes.set_title(name, fontsize=10, loc="left", pad=3, parse_math=False)  # a name may hold a $
    return figure


def png_of(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
