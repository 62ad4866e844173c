"""The anchors of a data set."""

from __future__ import annotations

import pytest
import torch
from stage_fakes import (
    K,
    aggregate,
)

from monai_plan.utils import ArtifactError, DataError, load_artifact


def test_aggregate(case):
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


def test_aggregate_with_too_few_patients(case, tmp_path):
    with pytest.raises(DataError, match="Class 0 has 5 subject"):
        aggregate(latents_file=case.files.latents, output_file=tmp_path / "anchors.pt", k=6)
    with pytest.raises(ArtifactError, match="holds anchors, but latents was expected"):
        aggregate(latents_file=case.files.anchors, output_file=tmp_path / "anchors.pt", k=2)
    assert list(tmp_path.iterdir()) == []
