from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from monai_plan.audit import AuditInputs, Evaluation, ImageSet, Spread
from monai_plan.audit import evaluate as evaluate_inputs
from monai_plan.audit import inputs as inputs_module
from monai_plan.engines import ClassifierSettings
from monai_plan.metrics import RandomFeatureEmbedding
from monai_plan.utils import ConfigError, DataError


@dataclass
class Reals:
    images: Tensor
    labels: Tensor
    subjects: list[str]
    has_subjects: bool = True


def pictures(n, spatial_dims, seed):
    """Class = brightness of one half, under structure of its own."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    images = 0.4 * torch.randn(n, 1, *[8] * spatial_dims, generator=g)
    images[:, :, :4] += (labels.float() - 0.5).reshape(-1, 1, *[1] * spatial_dims)
    return images.clamp(-1, 1), labels


def reals(n, spatial_dims, seed, name):
    return Reals(*pictures(n, spatial_dims, seed), [f"{name}-patient-{i // 2}" for i in range(n)])


def classifier(spatial_dims):
    return nn.Sequential(nn.Flatten(), nn.Linear(8**spatial_dims, 2))


def evaluate(rows, **options):
    notes = {"k-same": "as many images as there are anchors: 6"}
    return evaluate_inputs(
        [ImageSet(name, *pair, notes.get(name, "")) for name, pair in rows.items()], AuditInputs(**options)
    )


@pytest.fixture(params=[2, 3])
def case(request, tmp_path):
    spatial_dims = request.param
    train, test = reals(24, spatial_dims, 0, "train"), reals(16, spatial_dims, 1, "test")
    fresh = pictures(24, spatial_dims, 2)
    rows = {
        "copies": (train.images, train.labels),
        "k-same": (fresh[0][:6], fresh[1][:6]),
        "PLAN": fresh,
    }
    options = {
        "train": train,
        "test": test,
        "embedding": RandomFeatureEmbedding(spatial_dims, 1),
        "classifier_factory": lambda: classifier(spatial_dims),
        "cache_dir": tmp_path / "cache",
        "settings": ClassifierSettings(3, 8, 0.01),
        "seeds": 2,
        "progress": False,
    }
    return rows, options


def test_rows_with_known_answers(case):
    rows, options = case
    table = evaluate(rows, **options)
    assert [row.name for row in table.rows] == ["real", "copies", "k-same", "PLAN"]
    copies, plan, real = (table.row(name).results for name in ("copies", "PLAN", "real"))
    assert copies["distance"] == {"mean": 0, "least": 0}
    assert copies["fidelity"]["frechet"] == pytest.approx(0, abs=1e-6)
    # the same images, labels and seeds: the same classifiers
    assert copies["utility"] == real["utility"]
    assert copies["membership"] == real["membership"]
    assert 0 < plan["distance"]["least"] <= plan["distance"]["mean"]
    # by hand: the mean over the test images of the least squared distance of the embeddings
    e = options["embedding"]
    d = torch.cdist(e(options["test"].images), e(options["train"].images)).square().amin(1)
    assert real["distance"] == pytest.approx({"mean": float(d.mean()), "least": float(d.min())}, rel=1e-4)
    assert len(table.row("PLAN").spread("utility", "accuracy").values) == 2
    assert (table.num_train_patients, table.num_test_patients) == (12, 8)
    assert "identity" not in plan


def test_the_identity_column_is_the_mean_top_probability(case):
    rows, options = case

    class Sure(nn.Module):
        """0.7 on identity 0 for bright images, uniform otherwise, over four identities."""

        def forward(self, x):
            logits = torch.zeros(len(x), 4)
            logits[x.flatten(1).mean(1) > 0, 0] = math.log(0.7 / 0.1)
            return logits

    images, labels = rows["PLAN"]
    bright = torch.cat([torch.full_like(images[:6], 0.5), torch.full_like(images[:18], -0.5)])
    table = evaluate({"half": (bright, labels)}, **options, identity_net=Sure())
    expected = {"top": (6 * 0.7 + 18 * 0.25) / 24, "identities": 4}
    assert table.row("half").results["identity"] == pytest.approx(expected, rel=1e-5)
    assert table.columns[-1] == "top identity"
    assert "uniform would be 25" in table.to_markdown()


def test_every_row_makes_as_many_steps(case, monkeypatch):
    rows, options = case
    seen = {}
    original = inputs_module.fit_classifier

    def spy(network, images, labels, *, settings, **kwargs):
        seen.setdefault(len(images), settings.epochs)
        return original(network, images, labels, settings=settings, **kwargs)

    monkeypatch.setattr(inputs_module, "fit_classifier", spy)
    evaluate({"k-same": rows["k-same"]}, **options)
    assert seen == {24: 3, 6: 12}


def test_finished_parts_are_read_again_and_changed_ones_made_again(case, monkeypatch):
    rows, options = case
    calls = []
    original = inputs_module.fit_classifier

    def spy(network, images, labels, **kwargs):
        if len(calls) == 4:
            raise KeyboardInterrupt
        calls.append(len(images))
        return original(network, images, labels, **kwargs)

    monkeypatch.setattr(inputs_module, "fit_classifier", spy)
    with pytest.raises(KeyboardInterrupt):
        evaluate(rows, **options)
    # real and copies: two classifiers and five measures each
    assert len(list(options["cache_dir"].glob("*.pt"))) == 2 * (2 + 5)

    calls.clear()
    table = evaluate(rows, **options)
    assert len(calls) == 4  # k-same and PLAN alone
    calls.clear()
    assert evaluate(rows, **options) == table
    assert not calls
    rows["PLAN"] = (rows["PLAN"][0] * 0.9, rows["PLAN"][1])
    changed = evaluate(rows, **options)
    assert len(calls) == 2
    assert changed.row("PLAN") != table.row("PLAN")
    assert changed.row("k-same") == table.row("k-same")
    calls.clear()
    for name in ("classifier0", "utility"):
        (options["cache_dir"] / f"PLAN-{name}.pt").write_text("{")
    assert evaluate(rows, **options) == changed
    assert len(calls) == 1


def test_the_table_follows_the_seed_alone(case, tmp_path):
    rows, options = case
    rows = {"PLAN": rows["PLAN"]}
    torch.manual_seed(1)
    first = evaluate(rows, **options)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert evaluate(rows, **(options | {"cache_dir": tmp_path / "second"})) == first
    assert torch.equal(torch.get_rng_state(), before)
    other = evaluate(rows, **(options | {"cache_dir": tmp_path / "third", "seed": 1}))
    assert other != first


def test_json_and_markdown(case):
    rows, options = case
    options["train"].has_subjects = False
    table = evaluate({"k-same": rows["k-same"]}, **options)
    assert Evaluation.from_json(table.to_json()) == table
    assert "patient-" not in table.to_json() + table.to_markdown()
    lines = table.to_markdown().splitlines()
    assert lines[0].startswith("|  | images | accuracy")
    assert all(line.count("|") == len(table.columns) + 1 for line in lines[:4])
    assert lines[3].startswith("| k-same | 6 |")
    text = table.to_markdown()
    for words in ("as many images as there are anchors: 6", "every image counts as a patient", "random-feature"):
        assert words in text
    assert json.loads(table.to_json())["has_subjects"] is False
    named = replace(table, has_subjects=True)
    assert "every image counts" not in named.to_markdown()


def test_spread_by_hand():
    assert Spread((0.8, 0.9)).percent == "85.0 ± 7.1"
    assert Spread((0.8,)).percent == "80.0"
    assert Spread((0.8,)).sd is None


def test_bad_input_is_refused(case):
    rows, options = case
    images, labels = rows["PLAN"]
    for bad, error, message in (
        ({"real": rows["PLAN"]}, ConfigError, 'two sets of images named "real"'),
        ({"x": (images[:, :, 1:], labels)}, DataError, 'the images "x"'),
        ({"x": (images, labels[1:])}, DataError, 'the images "x"'),
        ({"x": (images[:1], labels[:1])}, DataError, "two or more"),
        ({"x": (images, labels + 5)}, DataError, "label 6 is outside the classifier's 2 classes"),
    ):
        with pytest.raises(error, match=message):
            evaluate(bad, **options)
    with pytest.raises(ConfigError, match="seeds"):
        evaluate(rows, **(options | {"seeds": 0}))
    options["test"].subjects[0] = options["train"].subjects[3]
    with pytest.raises(DataError, match="train-patient-1 is in training and test"):
        evaluate(rows, **options)
