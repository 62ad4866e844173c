"""What φ_id and φ_class are trained on."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from stage_fakes import (
    make_dataset,
)

from monai_plan.bundle.stages import class_items, identity_items
from monai_plan.release import synthesize_images
from monai_plan.utils import ConfigError, DataError, load_artifact, save_artifact


@pytest.mark.parametrize("identity_of", ["subject", "image"])
def test_identity_items(case, identity_of):
    dataset = case.dataset
    training, validation = identity_items(
        dataset=dataset, generator=case.generator, latents_file=case.files.latents, identity_of=identity_of
    )
    latents = load_artifact(case.files.latents, kind="latents")["latents"]
    names = sorted(set(dataset.subjects))
    expected = [names.index(s) for s in dataset.subjects] if identity_of == "subject" else list(range(20))
    assert [item["label"] for item in training] == expected * 2  # real images and the first of two starts
    assert [item["label"] for item in validation] == expected
    images = torch.stack([item["image"] for item in training])
    assert torch.equal(images[:20], dataset.images)
    assert torch.equal(images[20:], synthesize_images(case.generator, latents[:, 0]))
    held_out = torch.stack([item["image"] for item in validation])
    assert torch.equal(held_out, synthesize_images(case.generator, latents[:, 1]))  # in no training item
    assert all(set(item) == {"image", "label"} for item in training + validation)


def test_identity_items_of_a_single_start(case, tmp_path):
    data = load_artifact(case.files.latents, kind="latents")
    data["latents"] = data["latents"][:, :1]
    save_artifact(tmp_path / "latents.pt", kind="latents", data=data)
    training, validation = identity_items(
        dataset=case.dataset, generator=case.generator, latents_file=tmp_path / "latents.pt"
    )
    assert len(training) == 40
    assert torch.equal(torch.stack([item["image"] for item in validation]), case.dataset.images)


def test_identity_items_errors(case, tmp_path):
    with pytest.raises(ConfigError, match="identity_of is 'patient'"):
        identity_items(
            dataset=case.dataset, generator=case.generator, latents_file=case.files.latents, identity_of="patient"
        )
    other = make_dataset(tmp_path / "data", case.dims, subjects=2)
    with pytest.raises(DataError, match=r"latents\.pt is of other images than the data list"):
        identity_items(dataset=other, generator=case.generator, latents_file=case.files.latents)


def test_class_items(case):
    training, validation = class_items(dataset=case.dataset, validation_fraction=0.2, seed=1)
    assert len(training) + len(validation) == len(case.dataset)
    sides = [{item["subject"] for item in items} for items in (training, validation)]
    assert sides[0].isdisjoint(sides[1])
    assert Counter(item["label"] for item in validation) == {0: 2, 1: 2}  # one of five patients a class
    for item in training + validation:
        index = case.dataset.keys.index(item["key"])
        assert torch.equal(item["image"], case.dataset.images[index])
        assert item["label"] == case.dataset.labels[index]
    other, _ = class_items(dataset=case.dataset, seed=2)
    again, _ = class_items(dataset=case.dataset, seed=1)
    assert [item["key"] for item in again] == [item["key"] for item in training]
    assert [item["key"] for item in other] != [item["key"] for item in training]
