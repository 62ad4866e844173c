"""Exclusion: a release that keeps away from its members alone shows who did not take part."""

from __future__ import annotations

import torch

from monai_plan.audit.attacks import Embedder, People
from monai_plan.audit.exclusion import exclusion_row
from monai_plan.metrics import RandomFeatureEmbedding


def people(count, seed):
    images = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return People(images, [f"{seed}-{i}" for i in range(count)])


def row(released, members, held_out):
    embedder = Embedder(RandomFeatureEmbedding(2, 1))
    return exclusion_row(embedder, members=members, held_out=held_out, released=released)


def test_a_release_near_to_nobody_excludes_nobody():
    result = row(people(30, 2).images, people(40, 0), people(30, 1))
    assert result.verdict == "Nothing found"
    assert result.figures["p"] >= 0.01
    assert result.category == "inference"


def test_a_release_that_avoids_members_alone_alarms():
    members, held_out = people(40, 0), people(30, 1)
    near = held_out.images + 0.05 * people(30, 2).images
    result = row(near, members, held_out)
    assert result.verdict == "Alarm"
    assert result.figures["held_out"] == 1
    assert result.figures["members"] == 0
    turned = row(near, held_out, members)
    assert turned.verdict == "Nothing found", "who is near took part: that is another attack's to find"


def test_a_release_that_is_darker_than_the_real_images_is_compared_all_the_same():
    members, held_out = people(40, 0), people(30, 1)
    near = held_out.images + 0.05 * people(30, 2).images
    dark = row(0.1 * near - 0.85, members, held_out)
    assert dark.verdict == "Alarm"
    assert dark.figures["held_out"] == 1
