from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from monai_plan.audit import AuditInputs, Evaluation, EvaluationRow, ImageSet, Section, evaluate, write_report
from monai_plan.audit.figures import image_panel, image_sheet, png_of
from monai_plan.engines import ClassifierSettings
from monai_plan.metrics import RandomFeatureEmbedding
from monai_plan.utils import ConfigError, DataError

VOID = {"meta", "img", "br", "link", "input", "hr"}
REAL, SECRET = -0.37, 0.61  # grey levels that belong to forbidden images alone


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


def row(name, *, membership=0.5, interval=(0.45, 0.55), distance=1.0):
    accuracies = [0.8, 0.9]
    results = {
        "utility": {"accuracy": accuracies, "balanced_accuracy": accuracies, "auc": accuracies},
        "membership": {"accuracy": [membership] * 2, "low": [interval[0]] * 2, "high": [interval[1]] * 2},
        "fidelity": {"frechet": 3.0, "precision": 0.75, "recall": 0.5},
        "distance": {"mean": distance, "least": 0.4},
        "identity": {"top": 0.25, "identities": 20},
    }
    return EvaluationRow(name, 40, "", results)


def table():
    rows = (row("real", membership=0.7, interval=(0.6, 0.8)), row("averages"), row("ours"))
    return Evaluation(rows, "random-feature distance", 40, 20, 16, 8, True)


def flat(n, spatial_dims, channels, value):
    return torch.full((n, channels, *[12] * spatial_dims), value)


def picture(value):
    return png_of(image_sheet({"": {"": flat(1, 2, 1, value)}}))


def options(tmp_path, spatial_dims=2, channels=1):
    return {
        "judged": "ours",
        "report_file": tmp_path / "release" / "report.html",
        "figures_dir": tmp_path / "release" / "figures",
        "private_figures_dir": tmp_path / "private" / "figures",
        "sections": [
            Section("closer", "A closer look", "At <lesions> of the release.", picture(0.0), released=True),
            Section("secret", "Nobody's business", "Never to be seen.", picture(SECRET), released=False),
        ],
        "made": "Images drawn by hand",
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
    for source, name in zip(page.images, ("samples", "closer"), strict=True):
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
    assert "Images drawn by hand from 40 training images of 20 patients" in text
    assert "A closer look At <lesions> of the release." in text
    assert "Never to be seen" not in text
    for title, finding in evaluation.findings("ours"):
        assert f"{title}{finding}" in text
    assert "no proof of privacy" in text
    assert "anonym" not in text.lower()
    assert Evaluation.from_json(evaluation.to_json()) == evaluation


def test_the_page_leads_to_the_audit_where_there_is_one(tmp_path):
    for name in (None, "audit.html"):
        page = Page()
        page.feed(write_report(table(), **options(tmp_path), audit_page=name).read_text(encoding="utf-8"))
        assert not page.open
        assert [link for link in page.links if link not in page.images] == ([name] if name else [])


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_no_real_image_and_no_private_section_is_released(tmp_path, spatial_dims):
    write_report(table(), **options(tmp_path, spatial_dims))
    released = [p.read_bytes() for p in (tmp_path / "release").rglob("*.png")]
    assert len(released) == 2
    for png in released:
        assert near(0.0, levels(png))  # the synthetic ones are there
        assert not near(SECRET, levels(png))
        assert not near(REAL, levels(png))
    # and the test can see them where they belong
    assert near(SECRET, levels((tmp_path / "private" / "figures" / "secret.png").read_bytes()))
    sheet = levels((tmp_path / "private" / "figures" / "real_and_synthetic.png").read_bytes())
    assert near(REAL, sheet)
    assert near(0.0, sheet)


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
    inputs = AuditInputs(
        train=train,
        test=test,
        embedding=RandomFeatureEmbedding(2, 1),
        classifier_factory=lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)),
        cache_dir=tmp_path / "private" / "cache",
        settings=ClassifierSettings(1),
        seeds=1,
        progress=False,
    )
    evaluation = evaluate([ImageSet("ours", test.images.flip(-1), test.labels)], inputs)
    write_report(evaluation, **options(tmp_path))
    files = [p for p in (tmp_path / "release").rglob("*") if p.is_file()]
    assert sorted(p.name for p in files) == ["closer.png", "report.html", "samples.png"]
    texts = [evaluation.to_json().encode(), evaluation.to_markdown().encode()]
    for content in (*texts, *(file.read_bytes() for file in files)):
        assert b"Jane-Doe" not in content
        assert str(tmp_path).encode() not in content
        assert not re.search(rb"(?<![\w<*.])/(home|work|tmp|root|usr|Users)/", content)
    json.loads(evaluation.to_json())


@pytest.mark.parametrize("value", ["/data/patients/list.json", "C:\\data\\x", ["ok", "a/b"], object()])
def test_parameters_that_are_paths_are_refused(tmp_path, value):
    with pytest.raises(ConfigError, match="parameter 'weights'"):
        write_report(table(), **(options(tmp_path) | {"parameters": {"weights": value}}))
    assert not (tmp_path / "release").exists()


def test_panels_show_the_first_axis_from_left_to_right():
    image = torch.full((1, 4, 6), -1.0)
    image[0, 3, 0] = 1.0  # right, top
    panel = image_panel(image)
    assert panel.shape == (6, 4, 3)
    assert panel[0, 3].tolist() == [1, 1, 1]
    assert panel.sum() == 3
    volume = torch.rand(1, 4, 6, 8) * 2 - 1
    panel = image_panel(volume)
    assert panel.shape == (6 + 8 + 8, 6, 3)
    assert np.allclose(panel[:6, 1:5], np.flipud(image_panel(volume[..., 4])))
    assert (panel[:14, [0, 5]] == 1).all()


def test_bad_input_is_refused(tmp_path):
    good = options(tmp_path)
    with pytest.raises(ConfigError, match='no row "mine"'):
        write_report(table(), **(good | {"judged": "mine"}))
    with pytest.raises(DataError, match="no images to show"):
        write_report(table(), **(good | {"samples": {"lesion": flat(0, 2, 1, 0.0)}}))
    with pytest.raises(DataError, match="cannot be shown"):
        write_report(table(), **(good | {"samples": {"lesion": flat(3, 2, 2, 0.0)}}))
