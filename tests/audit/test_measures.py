"""Measures: what they say in words, and that anyone can add one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from monai_plan.audit import AuditInputs, Evaluation, ImageSet, Measure, evaluate, measures, register_measure
from monai_plan.audit.measures import measure_of
from monai_plan.engines import ClassifierSettings
from monai_plan.metrics import RandomFeatureEmbedding
from monai_plan.utils import ConfigError


def said(measure, ours, real):
    return measure_of(measure).finding("mine", ours, real)


def attack(share, low, high):
    return {"accuracy": [share] * 2, "low": [low] * 2, "high": [high] * 2}


def test_what_is_said_of_the_attack():
    nothing, found = attack(0.5, 0.45, 0.55), attack(0.7, 0.6, 0.8)
    assert said("membership", nothing, found).startswith("No evidence of leakage by this attack")
    assert said("membership", found, found).startswith(
        "Evidence of leakage: the attack on a classifier trained on mine"
    )
    assert said("membership", nothing, nothing).startswith("The attack says nothing here")


def test_what_is_said_of_the_distance():
    real = {"mean": 1.0, "least": 0.4}
    assert said("distance", {"mean": 1.2, "least": 0.4}, real).startswith("On average the images lie at least as far")
    assert "nearer to the training images than new patients" in said("distance", {"mean": 0.8, "least": 0.4}, real)
    copied = said("distance", {"mean": 1.2, "least": 0.0}, real)
    assert copied.startswith("Evidence of leakage: at least one image equals a training image. On average")


def test_what_is_said_of_the_utility():
    text = said("utility", {"accuracy": [0.7, 0.8]}, {"accuracy": [0.8, 0.9]})
    assert "75.0 ± 7.1 %" in text
    assert "(-10.0 points; standard deviation between seeds 7.1)" in text
    assert "one seed, so no interval" in said("utility", {"accuracy": [0.7]}, {"accuracy": [0.8]})


class Brightness(Measure):
    """How bright the images are."""

    name, heads, title = "brightness", ("brightness",), "Brightness"

    def made_by(self, inputs):
        return None

    def compute(self, inputs, image_set):
        return {"mean": float(inputs.judged(image_set).mean())}

    def cells(self, result):
        return (f"{result['mean']:.2f}",)

    def note(self, evaluation):
        return "Brightness: the mean of all pixels."

    def finding(self, name, result, real):
        return f"{name} is {result['mean'] - real['mean']:+.2f} brighter."


def test_a_measure_of_one_s_own_is_a_column_a_note_and_a_finding(tmp_path, monkeypatch):
    monkeypatch.setattr(measures, "_REGISTERED", dict(measures._REGISTERED))
    with pytest.raises(ConfigError, match='no measure "brightness", only utility'):
        measure_of("brightness")
    assert register_measure(Brightness) is Brightness
    with pytest.raises(ConfigError, match='there is a measure "brightness" already'):
        register_measure(Brightness)

    def reals(name, level):
        return SimpleNamespace(
            images=level + 0.01 * torch.randn(8, 1, 8, 8), labels=torch.arange(8) % 2,
            subjects=[f"{name}{i}" for i in range(8)], has_subjects=True,
        )  # fmt: skip

    train, test = reals("a", -0.9), reals("b", 0.25)
    inputs = AuditInputs(
        train=train, test=test, embedding=RandomFeatureEmbedding(2, 1), settings=ClassifierSettings(1), seeds=1,
        classifier_factory=lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)),
        cache_dir=tmp_path, progress=False,
    )  # fmt: skip
    table = evaluate([ImageSet("bright", torch.full_like(train.images, 0.75), train.labels)], inputs)
    assert table.columns[-1] == "brightness"
    assert table.cells(table.row("bright"))[-1] == "0.75"
    assert table.cells(table.row("real"))[-1] == "0.25"  # that of the test images
    assert "Brightness: the mean of all pixels." in table.notes
    assert table.findings("bright")[-1] == ("Brightness", "bright is +0.50 brighter.")
    assert Evaluation.from_json(table.to_json()) == table
