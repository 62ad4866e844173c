"""The anchors of a data set."""

from __future__ import annotations

import pytest
import torch
from stage_fakes import (
    K,
    average,
    draw_anchors,
    make_walk,
    walk_anchors,
)

from monai_plan.utils import ArtifactError, DataError, load_artifact


def test_averages(case):
    latents = load_artifact(case.files.latents, kind="latents")
    anchors = load_artifact(case.files.anchors, kind="anchors")
    assert anchors["k"] == K
    assert anchors["labels"].tolist() == [0, 0, 1, 1]
    assert sorted(i for members in anchors["members"] for i in members) == list(range(20))
    for centroid, label, members in zip(anchors["latents"], anchors["labels"], anchors["members"], strict=True):
        assert {int(latents["labels"][i]) for i in members} == {int(label)}
        assert len({latents["subjects"][i] for i in members}) >= K
        # every patient has two images here, so the mean over patients is that over images: of their best starts
        best = torch.stack([latents["latents"][i, latents["distances"][i].argmin()] for i in members])
        torch.testing.assert_close(centroid, best.mean(0))


def test_averages_with_too_few_patients(case, tmp_path):
    with pytest.raises(DataError, match="Class 0 has 5 subject"):
        average(latents_file=case.files.latents, output_file=tmp_path / "anchors.pt", k=6)
    with pytest.raises(ArtifactError, match="holds anchors, but latents was expected"):
        average(latents_file=case.files.anchors, output_file=tmp_path / "anchors.pt", k=2)
    assert list(tmp_path.iterdir()) == []


def test_points_of_the_generators_own_are_as_many_as_are_needed(case, tmp_path):
    for walk, num_images, each in (
        ("none", 7, [4, 3]),
        ("plan", 14, [4, 4]),
        ("plan", 2, [4, 4]),
        ("plan", 60, [10, 10]),
    ):
        draw_anchors(case, tmp_path / "anchors.pt", walk=walk, num_images=num_images)
        anchors = load_artifact(tmp_path / "anchors.pt", kind="anchors")
        assert (anchors["k"], anchors["members"]) == (None, [])
        assert torch.bincount(anchors["labels"]).tolist() == each
        assert anchors["latents"].shape == (sum(each), case.generator.w_dim)
        assert anchors["header"]["made_by"]["selection"] == "random draws"


def test_points_of_the_generators_own_pass_the_final_check(case, tmp_path):
    """At the strictest draw: so none of them is refused when its own is drawn."""
    draw_anchors(case, tmp_path / "anchors.pt", walk="none", quantile=0.3)
    walk_anchors(
        walk=make_walk(case.generator), anchors_file=tmp_path / "anchors.pt", dataset=case.dataset, kind="none",
        output_file=tmp_path / "paths.pt", parts_dir=tmp_path / "parts", num_images=7, min_distance_quantile=0.3,
    )  # fmt: skip
    assert load_artifact(tmp_path / "paths.pt", kind="paths")["kept"].all()
