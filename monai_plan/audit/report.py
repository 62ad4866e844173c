"""The report: a page that may be shared, and figures with real images that may not."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from monai_plan.audit.evaluation import REAL, Evaluation, EvaluationRow
from monai_plan.utils import ConfigError, DataError, atomic_path, write_text

__all__ = ["PathFigure", "write_report"]

LINEAR_COLOUR = "#b4540a"
PRIVATE_COLOUR = "#1a5fb4"
REAL_COLOUR = "#5e5c64"
POINTS_SHOWN = 10
SHEET_COLUMNS = 8
DPI = 110


@dataclass(frozen=True)
class PathFigure:
    """One pair of anchors: the straight path between them and the private one.

    Attributes:
        linear_distances: [T], perceptual distance of every image to its nearest real training image.
        private_distances: [T], the same for the private path.
        linear_images: [T, C, *spatial] in [-1, 1]; may be near copies of patients, so never released.
        private_images: [T, C, *spatial] in [-1, 1].
        nearest_real_images: [T, C, *spatial], the real training image nearest to every private image.
        kept: [T] bool, the points of the private path that may leave; at least one.
        held_out_distance: mean distance of held-out real images to the training images, the scale.
        label: name of the class of both anchors.
    """

    linear_distances: Tensor
    private_distances: Tensor
    linear_images: Tensor
    private_images: Tensor
    nearest_real_images: Tensor
    kept: Tensor
    held_out_distance: float
    label: str

    def __post_init__(self) -> None:
        num_points = len(self.private_distances)
        for name in ("linear_distances", "linear_images", "private_images", "nearest_real_images", "kept"):
            if len(getattr(self, name)) != num_points:
                raise DataError(f"{name} has {len(getattr(self, name))} points, private_distances {num_points}.")
        if num_points < 2:
            raise DataError(f"a path has two points or more, got {num_points}.")
        if not self.kept.any():
            raise DataError("kept is False for every point of the path: show one of which something is released.")


def write_report(
    evaluation: Evaluation,
    *,
    release_dir: str | os.PathLike[str],
    private_dir: str | os.PathLike[str],
    path_figure: PathFigure,
    samples: Mapping[str, Tensor],
    real_samples: Mapping[str, Tensor],
    parameters: Mapping[str, object],
    private_row: str = "PLAN",
    slice_axis: int = -1,
) -> Path:
    """Write the page and the figures.

    To ``release_dir`` go ``report.html`` (one file, works offline), ``evaluation.json``, ``evaluation.md`` and
    ``figures/path.png`` and ``figures/samples.png``: the table, synthetic images and the kept points of the private
    path, but no real image, no image of the linear path, no anchor and no name of a patient. To ``private_dir`` go
    ``figures/path.png``, the whole figure as in the paper, and ``figures/real_and_synthetic.png``.

    Args:
        evaluation: the table.
        release_dir: what may be shared.
        private_dir: what may not.
        path_figure: one pair of anchors.
        samples: synthetic images [n, C, *spatial] in [-1, 1] by the name of their class.
        real_samples: real images by the name of their class, for the private sheet.
        parameters: what made the images (k, T, λ, steps, seeds, …): numbers, short texts and lists of them.
        private_row: the row of the table whose images are released.
        slice_axis: spatial axis across which a volume's middle slice is shown.

    Returns:
        The path of ``report.html``.

    Raises:
        ConfigError: if a parameter is a path or no plain value, the table has no row ``private_row``, or
            ``slice_axis`` is no axis.
        DataError: if there are no images to show or they are neither grey nor RGB.
    """
    rows = {row.name: row for row in evaluation.rows}
    if private_row not in rows:
        raise ConfigError(f'the table has no row "{private_row}", only {", ".join(rows)}: set private_row.')
    shown = {name: _plain(name, value) for name, value in parameters.items()}
    release, private = Path(release_dir), Path(private_dir)

    figures = {
        "path": _path_figure(path_figure, evaluation.embedding_title, slice_axis, released=True),
        "samples": _sheet({name: {"": images} for name, images in samples.items()}, slice_axis),
    }
    pictures = {name: _png(figure) for name, figure in figures.items()}
    for name, content in pictures.items():
        _write_bytes(release / "figures" / f"{name}.png", content)
    whole = _path_figure(path_figure, evaluation.embedding_title, slice_axis, released=False)
    _write_bytes(private / "figures" / "path.png", _png(whole))
    classes = [name for name in samples if name in real_samples]
    both = {name: {"real": real_samples[name], "synthetic": samples[name]} for name in classes}
    _write_bytes(private / "figures" / "real_and_synthetic.png", _png(_sheet(both, slice_axis)))

    write_text(release / "evaluation.json", evaluation.to_json() + "\n")
    write_text(release / "evaluation.md", evaluation.to_markdown())
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("monai_plan.audit", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.j2").render(
        evaluation=evaluation,
        private_row=private_row,
        findings=_findings(rows[REAL], rows[private_row]),
        parameters=shown,
        label=path_figure.label,
        pictures={name: base64.b64encode(content).decode("ascii") for name, content in pictures.items()},
    )
    write_text(release / "report.html", page)
    return release / "report.html"


def _plain(name: str, value: object) -> str:
    """A parameter as text; paths are refused, since they can name people and machines."""
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(name, item) for item in value)
    if isinstance(value, float):
        return f"{value:g}"
    if value is None or isinstance(value, (bool, int)):
        return str(value)
    if isinstance(value, str) and "/" not in value and "\\" not in value:
        return value
    raise ConfigError(
        f"the parameter {name!r} of the report is {value!r}: numbers, texts without slashes and lists of these are "
        "shown, paths and other objects are not; leave it out."
    )


def _findings(real: EvaluationRow, row: EvaluationRow) -> list[tuple[str, str]]:
    """What the table says, in words: (heading, sentence)."""
    low, high = row.membership_interval
    real_low = real.membership_interval[0]
    attack = f"{100 * row.membership.mean:.1f} % right (95 % interval {100 * low:.1f} to {100 * high:.1f}, chance 50)"
    if low > 0.5:
        membership = f"Evidence of leakage: the attack on a classifier trained on {row.name} is {attack}."
    elif real_low > 0.5:
        membership = (
            f"No evidence of leakage by this attack: on a classifier trained on {row.name} it is {attack}, while on "
            f"one trained on the real images it is {100 * real.membership.mean:.1f} % right."
        )
    else:
        membership = (
            f"The attack says nothing here: on a classifier trained on {row.name} it is {attack}, but it finds nothing "
            f"in one trained on the real images either ({100 * real.membership.mean:.1f} % right), so it is too weak "
            "to judge by."
        )
    far = row.mean_min_distance >= real.mean_min_distance
    scale = f"{row.mean_min_distance:.3g}, against {real.mean_min_distance:.3g} for held-out real images"
    nearest = f"the nearest of all lies at {row.least_distance:.3g} (held-out: {real.least_distance:.3g})"
    if far:
        distance = (
            f"On average the images lie at least as far from the training images as new patients do ({scale}); "
            f"{nearest}. That alone proves little: blurred or odd images lie far off too, see Fidelity."
        )
    else:
        distance = f"On average the images lie nearer to the training images than new patients do ({scale}); {nearest}."
    if row.least_distance == 0:
        distance = f"Evidence of leakage: at least one image equals a training image. {distance}"
    change = 100 * (row.accuracy.mean - real.accuracy.mean)
    sd = [100 * s for s in (row.accuracy.sd, real.accuracy.sd) if s is not None]
    spread = f"; standard deviation between seeds {max(sd):.1f}" if sd else "; one seed, so no interval"
    utility = (
        f"A classifier trained on {row.name} reaches {row.accuracy.percent} % on real test images, one trained on the "
        f"real images {real.accuracy.percent} % ({change:+.1f} points{spread})."
    )
    fidelity = (
        f"Fréchet distance to the training images {row.frechet:.4g}; real test images lie at {real.frechet:.4g}, the "
        "floor. Look at the images below as well."
    )
    return [("Membership", membership), ("Distance", distance), ("Utility", utility), ("Fidelity", fidelity)]


def _panel(image: Tensor, slice_axis: int) -> np.ndarray:
    """An image [C, *spatial] in [-1, 1] as rows and columns; of a volume the middle slice.

    As MONAI's readers leave it, the first axis runs from left to right.
    """
    image = image.detach().float().cpu()
    spatial_dims = image.ndim - 1
    if spatial_dims not in (2, 3) or image.shape[0] not in (1, 3):
        raise DataError(f"an image of shape {tuple(image.shape)} cannot be shown: [1 or 3, X, Y] or [1 or 3, X, Y, Z].")
    if spatial_dims == 3:
        if not -3 <= slice_axis < 3:
            raise ConfigError(f"slice_axis must lie in -3 … 2 for volumes, got {slice_axis}.")
        axis = slice_axis % 3 + 1
        image = image.select(axis, image.shape[axis] // 2)
    return ((image + 1) / 2).clamp(0, 1).permute(2, 1, 0).expand(-1, -1, 3).numpy()


def _show(axes: Axes, panels: Sequence[np.ndarray], *, columns: int) -> None:
    """Lay panels of one size side by side in one picture, with a white line between them."""
    height, width = panels[0].shape[:2]
    gap = max(1, round(0.03 * width))
    rows = -(-len(panels) // columns)
    canvas = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), dtype=np.float32)
    for index, panel in enumerate(panels):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        canvas[top : top + height, left : left + width] = panel
    # Enlarged without smoothing: a blur in the figure must be one of the images.
    axes.imshow(canvas, interpolation="nearest", aspect="equal")
    axes.set_axis_off()


def _new_figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _path_figure(data: PathFigure, title: str, slice_axis: int, *, released: bool) -> Figure:
    """The distance to the nearest real image along both paths, with images under it (Fig. of the paper).

    If ``released``, images of the private path alone, and of its kept points only.
    """
    num_points = len(data.private_distances)
    able = data.kept.nonzero().flatten() if released else torch.arange(num_points)
    points = able[torch.linspace(0, len(able) - 1, min(POINTS_SHOWN, len(able))).round().long()].tolist()
    strips = {"private path": (data.private_images, PRIVATE_COLOUR)}
    if not released:
        strips = {
            "linear path": (data.linear_images, LINEAR_COLOUR),
            **strips,
            "nearest real to the private path": (data.nearest_real_images, REAL_COLOUR),
        }
    height, width = _panel(data.private_images[0], slice_axis).shape[:2]
    figure_width = 9.0
    strip_height = figure_width / len(points) * height / width + 0.25
    curve_height = 3.2
    figure = _new_figure(figure_width, curve_height + strip_height * len(strips))
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
    axes.set_title(f"Distance to the nearest real training image, class {data.label}", fontsize=11, pad=26)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    for index, (name, (images, colour)) in enumerate(strips.items(), start=1):
        axes = figure.add_subplot(grid[index])
        _show(axes, [_panel(images[i], slice_axis) for i in points], columns=len(points))
        axes.set_title(name, fontsize=9, color=colour, loc="left", pad=3)
    return figure


def _sheet(groups: Mapping[str, Mapping[str, Tensor]], slice_axis: int) -> Figure:
    """Images in blocks: one a class and, within it, one a kind."""
    blocks = [
        (f"{label}, {kind}" if kind else label, [_panel(image, slice_axis) for image in images])
        for label, kinds in groups.items()
        for kind, images in kinds.items()
        if len(images)
    ]
    if not blocks:
        raise DataError("there are no images to show: give samples of at least one class, named alike in both sheets.")
    height, width = blocks[0][1][0].shape[:2]
    figure_width = 9.0
    heights = [-(-len(panels) // SHEET_COLUMNS) * figure_width / SHEET_COLUMNS * height / width for _, panels in blocks]
    figure = _new_figure(figure_width, sum(heights) + 0.3 * len(blocks))
    grid = figure.add_gridspec(len(blocks), 1, height_ratios=heights)
    for index, (name, panels) in enumerate(blocks):
        axes = figure.add_subplot(grid[index])
        _show(axes, panels, columns=SHEET_COLUMNS)
        axes.set_title(name, fontsize=10, loc="left", pad=3)
    return figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _write_bytes(path: Path, content: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
