"""The release that the stages make, in 2D and 3D."""

from __future__ import annotations

from collections import Counter

import nibabel
import numpy as np
import pytest
import torch
from monai.data import load_decathlon_datalist
from stage_fakes import (
    draw_anchors,
    make_walk,
    reading,
    released_to,
    synthesize,
    walk_anchors,
)

from monai_plan.data import IntensityScaling
from monai_plan.release import select, synthesize_images
from monai_plan.utils import ArtifactError, load_artifact, save_artifact


def test_release_holds_the_inner_points(case):
    release = case.files.release
    items = load_decathlon_datalist(str(release / "datalist.json"), is_segmentation=False, data_list_key="training")
    paths = load_artifact(case.files.paths, kind="paths")
    assert Counter(item["label"] for item in items) == {0: 4, 1: 3}
    assert {item["subject"] for item in items} == {"synthetic_000000", "synthetic_000001"}
    points = select(paths, num_images=paths["num_images"]).places
    expected = synthesize_images(case.generator, paths["paths"][points[:, 0], points[:, 1]])
    ends = synthesize_images(case.generator, paths["paths"][:, [0, -1]].flatten(0, 1))
    transform = reading(case.dims)
    walks = {}  # path → number, by which comes first
    for item, image, (path, _) in zip(items, expected, points.tolist(), strict=True):
        found = transform({"image": item["image"]})["image"].as_tensor()
        torch.testing.assert_close(found, image, rtol=0, atol=1e-5)
        assert item["label"] == paths["labels"][path]
        assert item["subject"] == f"synthetic_{walks.setdefault(path, len(walks)):06d}"
        for other in [*case.dataset.images, *ends]:
            assert (found - other).abs().max() > 2 / 255
    if case.dims == 3:
        volume = nibabel.load(items[0]["image"])
        assert volume.shape == (8, 8, 8)
        assert volume.header.get_zooms() == (2.0, 3.0, 4.0)  # the geometry of the real volumes
        assert volume.get_data_dtype() == np.uint8


def test_release_names_no_patient(case):
    """No file name, subject, key or private path in any file of the release."""
    private = {"secret", "patientfile", "private", str(case.files.release.parent), case.files.latents.name}
    private |= set(case.dataset.subjects) | set(case.dataset.keys)
    files = [file for file in case.files.release.rglob("*") if file.is_file()]
    assert len(files) == 7 + 2
    for file in files:
        text = str(file.relative_to(case.files.release)) + file.read_bytes().decode("latin-1")
        assert [name for name in private if name in text] == [], file
    assert {file.suffix for file in files} == {".json", ".md", ".png" if case.dims == 2 else ".nii"}


def test_card(case):
    card = (case.files.release / "dataset_card.md").read_text()
    assert card.startswith("# tiny \\{synthetic\\}\n\n7 synthetic images, " + " × ".join(["8"] * case.dims))
    assert (f"{' × '.join(['8'] * case.dims)} voxels of " in card) == (case.dims == 3)
    assert "| 0 | normal | 4 |\n| 1 | lesion | 3 |\n" in card
    assert "Made from 20 real images of 10 patients" in card
    assert "The images are points on 2 walks between averages of at least 2 patients in the latent space" in card
    assert f"Walk: {make_walk(case.generator).settings}. Final check of the distance: none." in card
    assert "anonymous" not in card
    assert "seed" not in card


@pytest.mark.parametrize(
    ("scaling", "told"),
    [
        (None, None),
        (IntensityScaling("range", (0.0, 255.0)), None),
        (
            IntensityScaling("window", (-1000.0, 400.0)),
            "0 to 255 stand for -1000 to 400 in the values of",
        ),
        (
            IntensityScaling("percentiles", None, (0.5, 99.5)),
            "for the percentiles 0.5 to 99.5 of each real image",
        ),
    ],
)
def test_card_says_what_values_stand_for(case, tmp_path, monkeypatch, scaling, told):
    monkeypatch.setattr(case.dataset, "intensity", scaling)
    synthesize(
        generator=case.generator, paths_file=case.files.paths, anchors_file=case.files.anchors, dataset=case.dataset,
        name="tiny", **released_to(tmp_path / "release"),
    )  # fmt: skip
    card = (tmp_path / "release" / "dataset_card.md").read_text()
    assert ("stand for" in card) == (told is not None)
    assert told is None or told in card


@pytest.mark.parametrize("kind", ["plan", "none"])
def test_card_of_points_of_the_generators_own(case, tmp_path, kind):
    draw_anchors(case, tmp_path / "anchors.pt", walk=kind)
    walk_anchors(
        walk=make_walk(case.generator), anchors_file=tmp_path / "anchors.pt", dataset=case.dataset, kind=kind,
        output_file=tmp_path / "paths.pt", parts_dir=tmp_path / "parts", num_images=7,
    )  # fmt: skip
    synthesize(
        generator=case.generator, paths_file=tmp_path / "paths.pt", anchors_file=tmp_path / "anchors.pt",
        dataset=case.dataset, name="tiny", **released_to(tmp_path / "release"),
    )  # fmt: skip
    card = (tmp_path / "release" / "dataset_card.md").read_text()
    points = "points of the generator's own distribution (random draws)"
    if kind == "plan":
        assert f"The images are points on 4 walks between {points}." in card
        assert "Images of one walk resemble each other" in card
    else:
        assert f"The images are {points}." in card
        assert "`subject` numbers the images" in card
        assert "Walk: none." in card
    assert "average" not in card


def test_release_is_replaced_whole(case, tmp_path):
    paths = load_artifact(case.files.paths, kind="paths")
    options = {
        "generator": case.generator, "anchors_file": case.files.anchors, "dataset": case.dataset,
        "name": "tiny", **released_to(tmp_path / "release"),
    }  # fmt: skip
    synthesize(paths_file=case.files.paths, **options)
    paths["num_images"] = {0: 1, 1: 1}
    header = paths.pop("header")
    save_artifact(tmp_path / "paths.pt", kind="paths", data=paths, made_by=header["made_by"])
    synthesize(paths_file=tmp_path / "paths.pt", **options)
    assert len(list((tmp_path / "release" / "images").iterdir())) == 2
    assert "2 synthetic images" in (tmp_path / "release" / "dataset_card.md").read_text()


def test_synthesize_refuses_other_files(case, tmp_path):
    with pytest.raises(ArtifactError, match="holds anchors, but paths was expected"):
        synthesize(
            generator=case.generator, paths_file=case.files.anchors, anchors_file=case.files.anchors,
            dataset=case.dataset, name="x", **released_to(tmp_path / "release"),
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []
