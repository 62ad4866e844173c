"""The figure of one path: its curves, and that it stays private."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from monai_plan.audit.figures import png_of
from monai_plan.bundle.path_figure import PathFigure, draw_path, path_section
from monai_plan.utils import DataError

LINEAR, REAL = 0.61, -0.37  # grey levels


def flat(n, spatial_dims, value):
    return torch.full((n, 1, *[12] * spatial_dims), value)


def path_figure(spatial_dims, num_points=6):
    return PathFigure(
        linear_distances=torch.linspace(1, 0.2, num_points),
        private_distances=torch.linspace(1, 1.5, num_points),
        linear_images=flat(num_points, spatial_dims, LINEAR),
        private_images=flat(num_points, spatial_dims, 0.0),
        nearest_real_images=flat(num_points, spatial_dims, REAL),
        held_out_distance=1.1,
        label="class 0",
    )


def levels(section):
    """The grey levels of large flat areas of the picture."""
    pixels = np.asarray(Image.open(io.BytesIO(section.picture)).convert("RGB")).reshape(-1, 3)
    colours, counts = np.unique(pixels, axis=0, return_counts=True)
    return {int(c[0]) for c, n in zip(colours, counts, strict=True) if n > 500 and c[0] == c[1] == c[2]}


def near(value, found):
    return any(abs(round((value + 1) / 2 * 255) - x) <= 1 for x in found)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_it_shows_all_and_is_not_released(spatial_dims):
    """Its images stand in the order of the path: in the release they would tell where the released ones come from."""
    section = path_section(path_figure(spatial_dims), "random-feature distance")
    assert not section.released
    assert all(near(value, levels(section)) for value in (LINEAR, REAL, 0.0))


@pytest.mark.parametrize("label", ["class 0", r"$\foo$"])
def test_it_shows_curves_scale_and_strips(label):
    figure = draw_path(replace(path_figure(2), label=label), "random-feature distance")
    png_of(figure)
    curves, *strips = figure.axes
    lines = {line.get_label(): line.get_ydata() for line in curves.get_lines()}
    assert lines["linear path"] == pytest.approx(np.linspace(1, 0.2, 6))
    assert lines["private path"] == pytest.approx(np.linspace(1, 1.5, 6))
    assert list(lines["held-out real images (mean)"]) == [1.1, 1.1]
    assert "random-feature distance" in curves.get_ylabel()
    assert curves.get_title().endswith(f"training image, class: {label}")
    names = [axes.get_title(loc="left") for axes in strips]
    assert names == ["linear path", "private path", "nearest real to the private path"]


def test_what_does_not_fit_is_refused():
    with pytest.raises(DataError, match="linear_images has 5 points"):
        replace(path_figure(2), linear_images=flat(5, 2, 0.0))
