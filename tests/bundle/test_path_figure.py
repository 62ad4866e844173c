"""The figure of one path: its curves, and that what may be shared shows kept points of the private path alone."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from monai_plan.bundle.path_figure import PathFigure, draw_path, path_sections
from monai_plan.utils import DataError

LINEAR, REAL, DROPPED = 0.61, -0.37, 0.27  # grey levels that belong to forbidden images alone


def flat(n, spatial_dims, value):
    return torch.full((n, 1, *[12] * spatial_dims), value)


def path_figure(spatial_dims, num_points=6):
    return PathFigure(
        linear_distances=torch.linspace(1, 0.2, num_points),
        private_distances=torch.linspace(1, 1.5, num_points),
        linear_images=flat(num_points, spatial_dims, LINEAR),
        private_images=flat(num_points, spatial_dims, 0.0),
        nearest_real_images=flat(num_points, spatial_dims, REAL),
        kept=torch.ones(num_points, dtype=torch.bool),
        held_out_distance=1.1,
        label="class 0",
    )


def pictures(figure):
    """The grey levels of large flat areas of the released picture and of the private one."""
    found = {}
    for section in path_sections(figure, "random-feature distance"):
        pixels = np.asarray(Image.open(io.BytesIO(section.picture)).convert("RGB")).reshape(-1, 3)
        colours, counts = np.unique(pixels, axis=0, return_counts=True)
        grey = {int(c[0]) for c, n in zip(colours, counts, strict=True) if n > 500 and c[0] == c[1] == c[2]}
        found[section.released] = grey
    return found[True], found[False]


def near(value, found):
    return any(abs(round((value + 1) / 2 * 255) - x) <= 1 for x in found)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_no_real_and_no_linear_image_is_released(spatial_dims):
    released, whole = pictures(path_figure(spatial_dims))
    assert near(0.0, released)
    assert not near(LINEAR, released)
    assert not near(REAL, released)
    assert all(near(value, whole) for value in (LINEAR, REAL, 0.0))


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_no_end_and_no_dropped_point_is_released(spatial_dims):
    figure = path_figure(spatial_dims, num_points=30)
    kept = torch.zeros(30, dtype=torch.bool)
    kept[[4, 5, 20]] = True
    figure.private_images[~kept] = DROPPED
    released, whole = pictures(replace(figure, kept=kept))
    assert near(0.0, released)
    assert not near(DROPPED, released)
    assert near(DROPPED, whole)
    with pytest.raises(DataError, match="kept is False for every point"):
        replace(figure, kept=torch.zeros(30, dtype=torch.bool))


@pytest.mark.parametrize("released", [True, False])
def test_it_shows_curves_scale_and_strips(released):
    figure = draw_path(path_figure(2), "random-feature distance", -1, released=released)
    curves, *strips = figure.axes
    lines = {line.get_label(): line.get_ydata() for line in curves.get_lines()}
    assert lines["linear path"] == pytest.approx(np.linspace(1, 0.2, 6))
    assert lines["private path"] == pytest.approx(np.linspace(1, 1.5, 6))
    assert list(lines["held-out real images (mean)"]) == [1.1, 1.1]
    assert "random-feature distance" in curves.get_ylabel()
    assert curves.get_title().endswith("training image, class: class 0")
    names = [axes.get_title(loc="left") for axes in strips]
    assert names == (
        ["private path"] if released else ["linear path", "private path", "nearest real to the private path"]
    )


def test_what_does_not_fit_is_refused():
    with pytest.raises(DataError, match="linear_images has 5 points"):
        replace(path_figure(2), linear_images=flat(5, 2, 0.0))
