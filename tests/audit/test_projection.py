"""The attacker who has the generator and images alone: one of each patient, projected alike, kept, refused by name."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from monai_plan.audit.projection import one_of_each, projected_row
from monai_plan.audit.reading import ReadImages
from monai_plan.utils import ConfigError


class Pixels:
    """The first pixels in the place of a latent."""

    img_size, img_channels, num_classes, made_by = (8, 8), 1, 2, ["pixels"]

    def __init__(self):
        self.calls = []

    def __call__(self, images, labels):
        self.calls.append((len(images), labels is not None))
        return images.flatten(1)[:, :16].clone()


def read(count, seed, *, per_patient=1, labels=True):
    images = torch.rand(count * per_patient, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    names = [f"{seed}-{number // per_patient:03d}" for number in range(count * per_patient)]
    classes = torch.arange(len(names)) % 2 if labels else None
    return ReadImages(images, names, True, names, classes, {0: "a", 1: "b"}, "x")


def test_a_release_of_members_is_told_and_one_of_strangers_is_not(tmp_path):
    members, held_out = read(40, 0), read(40, 1)
    sides = {"members": members, "held_out": held_out, "cache_dir": tmp_path}
    told = projected_row(Pixels(), released=members, **sides)
    assert told.told_by_generator
    assert told.figures["area"] > 0.95
    assert told.attacker == "the generator, the released images, and images of the person sought"
    assert not projected_row(Pixels(), released=read(40, 2), **sides).told_by_generator


def test_one_image_of_a_patient_is_projected_and_finished_blocks_are_kept(tmp_path):
    projector = Pixels()
    sides = {"members": read(60, 0, per_patient=3), "held_out": read(10, 1), "cache_dir": tmp_path}
    first = projected_row(projector, released=read(5, 2), **sides)
    assert projector.calls == [(5, True), (50, True), (10, True), (10, True)]
    assert projected_row(projector, released=read(5, 2), **sides) == first
    assert len(projector.calls) == 4
    projected_row(projector, released=read(5, 2, labels=False), **sides)
    assert projector.calls[4:] == [(5, False), (50, False), (10, False), (10, False)], "all alike"


def test_at_most_200_are_taken_whoever_they_are():
    rows = one_of_each([str(number // 2) for number in range(1000)], seed=0, key="x")
    assert len(rows) == 200
    assert len({int(row) // 2 for row in rows}) == 200
    assert rows.tolist() == sorted(rows.tolist())


def test_a_generator_of_other_images_is_refused(tmp_path):
    sides = {"released": read(5, 2), "held_out": read(10, 1), "cache_dir": tmp_path}
    other = Pixels()
    other.img_channels = 3
    with pytest.raises(
        ConfigError, match=r"images of 8 x 8 with 3 channels, the real ones are of 8 x 8 with 1 channel"
    ):
        projected_row(other, members=read(10, 0), **sides)
    with pytest.raises(ConfigError, match=r"knows 2 classes, the data list 1 \(a\)"):
        projected_row(Pixels(), members=replace(read(10, 0), label_names={0: "a"}), **sides)
