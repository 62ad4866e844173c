from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from monai_plan.audit import Evaluation, EvaluationRow, PathFigure, Spread, evaluate, write_report
from monai_plan.audit.report import _findings, _panel, _path_figure, _png
from monai_plan.metrics import RandomFeatureEmbedding
from monai_plan.utils import ConfigError, DataError

VOID = {"meta", "img", "br", "link", "input", "hr"}
LINEAR, REAL, DROPPED = 0.61, -0.37, 0.27  # grey levels that belong to forbidden images alone


class Page(HTMLParser):
    """Collects what the tests look at, and that every tag is closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.images, self.cells, self.links, self.text = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.links += [v for k, v in attrs.items() if k in ("src", "href")]
        if tag == "img":
            self.images.append(attrs["src"])
        if tag == "tr":
            self.cells.append([])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1].append(data)


def row(name, *, membership=0.5, interval=(0.45, 0.55), accuracy=(0.8, 0.9), distance=1.0, least=0.4):
    spread = Spread(accuracy)
    return EvaluationRow(
        name, 40, spread, spread, spread, Spread((membership,) * 2), interval, 3.0, distance, least, 0.25
    )


def table(**plan):
    rows = (row("real", membership=0.7, interval=(0.6, 0.8)), row("linear"), row("k-same"), row("PLAN", **plan))
    return Evaluation(rows, "random-feature distance", 40, 20, 16, 8, 40, 20, True)


def flat(n, spatial_dims, channels, value):
    return torch.full((n, channels, *[12] * spatial_dims), value)


def path_figure(spatial_dims, channels=1, num_points=6):
    return PathFigure(
        linear_distances=torch.linspace(1, 0.2, num_points),
        private_distances=torch.linspace(1, 1.5, num_points),
        linear_images=flat(num_points, spatial_dims, channels, LINEAR),
        private_images=flat(num_points, spatial_dims, channels, 0.0),
        nearest_real_images=flat(num_points, spatial_dims, channels, REAL),
        kept=torch.ones(num_points, dtype=torch.bool),
        held_out_distance=1.1,
        label="lesion <1>",
    )


def options(tmp_path, spatial_dims=2, channels=1):
    return {
        "release_dir": tmp_path / "release",
        "private_dir": tmp_path / "private",
        "path_figure": path_figure(spatial_dims, channels),
        "samples": {n: flat(5, spatial_dims, channels, 0.0) for n in ("no lesion", "lesion <1>")},
        "real_samples": {n: flat(5, spatial_dims, channels, REAL) for n in ("no lesion", "lesion <1>")},
        "parameters": {"k": 5, "λ_id": 0.025, "image size": [12, 12], "embedding": "random"},
    }


def levels(png):
    """The grey levels of large flat areas of a picture."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).reshape(-1, 3)
    colours, counts = np.unique(pixels, axis=0, return_counts=True)
    return {int(c[0]) for c, n in zip(colours, counts, strict=True) if n > 500 and c[0] == c[1] == c[2]}


def level(value):
    return round((value + 1) / 2 * 255)


def near(value, found):
    return any(abs(level(value) - x) <= 1 for x in found)


@pytest.mark.parametrize(("spatial_dims", "channels"), [(2, 1), (2, 3), (3, 1)])
def test_the_page_is_whole_and_works_offline(tmp_path, spatial_dims, channels):
    evaluation = table()
    path = write_report(evaluation, **options(tmp_path, spatial_dims, channels))
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    assert not page.open
    assert page.links == page.images  # nothing is fetched from elsewhere
    for source, name in zip(page.images, ("samples", "path"), strict=True):
        content = base64.b64decode(source.removeprefix("data:image/png;base64,"))
        assert content == (tmp_path / "release" / "figures" / f"{name}.png").read_bytes()
        Image.open(io.BytesIO(content)).verify()
    cells = [tuple(c.strip() for c in line) for line in page.cells]
    for r in evaluation.rows:
        assert evaluation.cells(r) in cells
    assert ("λ_id", "0.025") in cells
    assert ("image size", "12, 12") in cells
    text = " ".join("".join(page.text).split())
    for note in evaluation.notes:
        assert note in text
    assert "class lesion <1>" in text
    assert "no proof of privacy" in text
    assert "anonym" not in text.lower()
    assert Evaluation.from_json((tmp_path / "release" / "evaluation.json").read_text()) == evaluation
    assert (tmp_path / "release" / "evaluation.md").read_text() == evaluation.to_markdown()


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_no_real_and_no_linear_image_is_released(tmp_path, spatial_dims):
    write_report(table(), **options(tmp_path, spatial_dims))
    released = [p.read_bytes() for p in (tmp_path / "release").rglob("*.png")]
    assert len(released) == 2
    for png in released:
        assert near(0.0, levels(png))  # the synthetic ones are there
        assert not near(LINEAR, levels(png))
        assert not near(REAL, levels(png))
    # and the test can see them where they belong
    whole = levels((tmp_path / "private" / "figures" / "path.png").read_bytes())
    assert all(near(v, whole) for v in (LINEAR, REAL, 0.0))
    sheet = levels((tmp_path / "private" / "figures" / "real_and_synthetic.png").read_bytes())
    assert near(REAL, sheet)
    assert near(0.0, sheet)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_no_end_and_no_dropped_point_is_released(tmp_path, spatial_dims):
    figure = path_figure(spatial_dims, num_points=30)
    kept = torch.zeros(30, dtype=torch.bool)
    kept[[4, 5, 20]] = True
    figure.private_images[~kept] = DROPPED
    write_report(table(), **(options(tmp_path, spatial_dims) | {"path_figure": replace(figure, kept=kept)}))
    released = levels((tmp_path / "release" / "figures" / "path.png").read_bytes())
    assert near(0.0, released)
    assert not near(DROPPED, released)
    assert near(DROPPED, levels((tmp_path / "private" / "figures" / "path.png").read_bytes()))
    with pytest.raises(DataError, match="kept is False for every point"):
        replace(figure, kept=torch.zeros(30, dtype=torch.bool))


def test_no_name_of_a_patient_and_no_path_is_released(tmp_path):
    """From real data sets with telling subjects, through the evaluation, to every file in release/."""

    class Reals:
        def __init__(self, name, seed):
            g = torch.Generator().manual_seed(seed)
            self.images = torch.rand(12, 1, 8, 8, generator=g) * 2 - 1
            self.labels = torch.arange(12) % 2
            self.subjects = [f"{name}-Jane-Doe-{i // 2}" for i in range(12)]
            self.has_subjects = True

    train, test = Reals("train", 0), Reals("test", 1)
    evaluation = evaluate(
        {"PLAN": (test.images.flip(-1), test.labels)},
        train=train,
        test=test,
        embedding=RandomFeatureEmbedding(2, 1),
        classifier_factory=lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)),
        cache_dir=tmp_path / "private" / "cache",
        epochs=1,
        seeds=1,
        progress=False,
    )
    write_report(evaluation, **options(tmp_path))
    files = [p for p in (tmp_path / "release").rglob("*") if p.is_file()]
    assert sorted(p.name for p in files) == [
        "evaluation.json",
        "evaluation.md",
        "path.png",
        "report.html",
        "samples.png",
    ]
    for file in files:
        content = file.read_bytes()
        assert b"Jane-Doe" not in content
        assert str(tmp_path).encode() not in content
        assert not re.search(rb"(?<![\w<*.])/(home|work|tmp|root|usr|Users)/", content)
    json.loads((tmp_path / "release" / "evaluation.json").read_text())


@pytest.mark.parametrize("value", ["/data/patients/list.json", "C:\\data\\x", ["ok", "a/b"], object()])
def test_parameters_that_are_paths_are_refused(tmp_path, value):
    with pytest.raises(ConfigError, match="parameter 'weights'"):
        write_report(table(), **(options(tmp_path) | {"parameters": {"weights": value}}))
    assert not (tmp_path / "release").exists()


def test_findings_say_what_was_found():
    def said(heading, **plan):
        evaluation = table(**plan)
        return dict(_findings(evaluation.row("real"), evaluation.row("PLAN")))[heading]

    assert said("Membership").startswith("No evidence of leakage by this attack")
    assert said("Membership", membership=0.7, interval=(0.6, 0.8)).startswith("Evidence of leakage")
    weak = replace(row("real"), name="real")
    assert dict(_findings(weak, row("PLAN")))["Membership"].startswith("The attack says nothing here")
    assert "at least as far" in said("Distance", distance=1.2)
    assert "nearer to the training images than new patients" in said("Distance", distance=0.8)
    assert said("Distance", least=0.0).startswith("Evidence of leakage: at least one image equals")
    assert "-10.0 points" in said("Utility", accuracy=(0.7, 0.8))
    assert (
        "one seed, so no interval"
        in dict(_findings(row("real", accuracy=(0.8,)), row("PLAN", accuracy=(0.7,))))["Utility"]
    )


@pytest.mark.parametrize("released", [True, False])
def test_the_path_figure_shows_curves_scale_and_strips(released):
    figure = _path_figure(path_figure(2), "random-feature distance", -1, released=released)
    curves, *strips = figure.axes
    lines = {line.get_label(): line.get_ydata() for line in curves.get_lines()}
    assert lines["linear path"] == pytest.approx(np.linspace(1, 0.2, 6))
    assert lines["private path"] == pytest.approx(np.linspace(1, 1.5, 6))
    assert list(lines["held-out real images (mean)"]) == [1.1, 1.1]
    assert "random-feature distance" in curves.get_ylabel()
    names = [axes.get_title(loc="left") for axes in strips]
    assert names == (
        ["private path"] if released else ["linear path", "private path", "nearest real to the private path"]
    )
    assert _png(figure).startswith(b"\x89PNG")


def test_panels_show_the_first_axis_from_left_to_right():
    image = torch.full((1, 4, 6), -1.0)
    image[0, 3, 0] = 1.0  # right, top
    panel = _panel(image, -1)
    assert panel.shape == (6, 4, 3)
    assert panel[0, 3].tolist() == [1, 1, 1]
    assert panel.sum() == 3
    volume = torch.rand(1, 4, 6, 8) * 2 - 1
    assert np.allclose(_panel(volume, -1), _panel(volume[..., 4], -1))
    assert np.allclose(_panel(volume, 1), _panel(volume[:, :, 3], -1))


def test_bad_input_is_refused(tmp_path):
    good = options(tmp_path)
    with pytest.raises(ConfigError, match='no row "mine"'):
        write_report(table(), **good, private_row="mine")
    with pytest.raises(DataError, match="no images to show"):
        write_report(table(), **(good | {"samples": {"lesion": flat(0, 2, 1, 0.0)}}))
    with pytest.raises(DataError, match="cannot be shown"):
        write_report(table(), **(good | {"samples": {"lesion": flat(3, 2, 2, 0.0)}}))
    with pytest.raises(DataError, match="linear_images has 5 points"):
        replace(path_figure(2), linear_images=flat(5, 2, 1, 0.0))
    with pytest.raises(ConfigError, match="slice_axis"):
        _panel(flat(1, 3, 1, 0.0)[0], 3)
