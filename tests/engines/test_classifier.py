from __future__ import annotations

import logging
import math

import pytest
import torch
from monai.networks.nets import resnet18
from monai.transforms import Compose, RandFlipd, RandGaussianNoised
from torch import nn

from monai_plan.engines import (
    ClassifierSettings,
    ResumeHandler,
    classification_scores,
    fit_classifier,
    new_classifier,
    predict_probabilities,
)
from monai_plan.utils import ConfigError, DataError, TrainingError


def blobs(n, spatial_dims, num_classes=2, seed=0):
    """Class = brightness of the image, under noise."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % num_classes
    level = (labels.float() / (num_classes - 1) - 0.5).reshape(-1, 1, *[1] * spatial_dims)
    return level + 0.2 * torch.randn(n, 1, *[8] * spatial_dims, generator=g), labels


def small_network(spatial_dims, num_classes=2):
    torch.manual_seed(0)
    conv, norm = (nn.Conv2d, nn.BatchNorm2d) if spatial_dims == 2 else (nn.Conv3d, nn.BatchNorm3d)
    pool = nn.AdaptiveAvgPool2d(1) if spatial_dims == 2 else nn.AdaptiveAvgPool3d(1)
    return nn.Sequential(
        conv(1, 8, 3), norm(8), nn.ReLU(), pool, nn.Flatten(), nn.Dropout(0.2), nn.Linear(8, num_classes)
    )


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("num_classes", [2, 3])
def test_learns_what_can_be_learnt(spatial_dims, num_classes):
    images, labels = blobs(60, spatial_dims, num_classes)
    network = fit_classifier(
        small_network(spatial_dims, num_classes), images, labels,
        settings=ClassifierSettings(epochs=30, batch_size=16, lr=0.03),
    )  # fmt: skip
    assert not network.training
    test_images, test_labels = blobs(30, spatial_dims, num_classes, seed=1)
    p = predict_probabilities(network, test_images, batch_size=7)
    assert p.shape == (30, num_classes)
    torch.testing.assert_close(p.sum(1), torch.ones(30))
    assert classification_scores(p, test_labels)["accuracy"] > 0.9


def test_same_seed_same_network_and_global_state_untouched():
    images, labels = blobs(20, 2)
    augment = RandGaussianNoised("image", prob=0.5)

    def weights(seed):
        network = small_network(2)
        torch.manual_seed(99)
        before = torch.get_rng_state()
        fit_classifier(network, images, labels, settings=ClassifierSettings(2, 8), seed=seed, augment=augment)
        assert torch.equal(torch.get_rng_state(), before)
        return torch.cat([p.detach().flatten() for p in network.parameters()])

    first = weights(1)
    torch.testing.assert_close(weights(1), first, rtol=0, atol=0)
    assert not torch.allclose(weights(2), first)


def test_augmentation_is_used_and_images_are_not_changed():
    images, labels = blobs(12, 2)
    before = images.clone()
    flipped = []

    class Spy(RandFlipd):
        def __call__(self, data, lazy=None):
            result = super().__call__(data, lazy)
            flipped.append(not torch.equal(torch.as_tensor(result["image"]), data["image"]))
            return result

    fit_classifier(small_network(2), images, labels, settings=ClassifierSettings(2, 4), augment=Spy("image", prob=0.5))
    assert len(flipped) == 24
    assert 0 < sum(flipped) < 24
    assert torch.equal(images, before)


@pytest.mark.parametrize("n", [2, 3, 9])
def test_a_last_batch_of_one_image_does_no_harm(n):
    images, labels = blobs(n, 2)
    network = resnet18(spatial_dims=2, n_input_channels=1, num_classes=2)
    fit_classifier(network, images, labels, settings=ClassifierSettings(1, 2 if n == 3 else 4))
    assert all(p.isfinite().all() for p in network.parameters())


def test_the_learning_rate_falls_along_a_cosine(monkeypatch):
    images, labels = blobs(4, 2)
    rates = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW,
        "step",
        lambda self, *args, **kw: rates.append(self.param_groups[0]["lr"]) or step(self, *args, **kw),
    )
    fit_classifier(small_network(2), images, labels, settings=ClassifierSettings(4, 4, lr=0.1))
    assert rates == pytest.approx([0.05 * (1 + math.cos(math.pi * e / 4)) for e in range(4)])


def test_a_nan_loss_ends_the_training():
    images, labels = blobs(8, 2)
    images[3] = math.nan
    with pytest.raises(TrainingError, match="loss is nan"):
        fit_classifier(small_network(2), images, labels, settings=ClassifierSettings(2, 8))


def test_bad_arguments_are_refused():
    images, labels = blobs(4, 2)
    for change in ({"epochs": 0}, {"batch_size": 1}, {"patience": 0}):
        with pytest.raises(ConfigError, match=f"{next(iter(change))} of a classifier is .*at least"):
            ClassifierSettings(**({"epochs": 1} | change))
    with pytest.raises(DataError, match="two labelled images"):
        fit_classifier(small_network(2), images[:1], labels[:1], settings=ClassifierSettings(1))


@pytest.mark.parametrize(("n", "batch_size", "sizes"), [(9, 4, [3, 3, 3]), (5, 2, [3, 2]), (3, 8, [3]), (8, 4, [4, 4])])
def test_batches_are_even_and_hold_every_image_once(n, batch_size, sizes):
    network, shown = nn.Sequential(nn.Flatten(), nn.Linear(1, 2)), []
    network.register_forward_pre_hook(lambda module, inputs: shown.append(inputs[0].flatten().tolist()))
    images = torch.arange(n).float().reshape(n, 1, 1, 1)
    fit_classifier(network, images, torch.zeros(n), settings=ClassifierSettings(2, batch_size))
    assert [len(batch) for batch in shown] == 2 * sizes
    epochs = [[x for batch in part for x in batch] for part in (shown[: len(sizes)], shown[len(sizes) :])]
    assert [sorted(epoch) for epoch in epochs] == [list(range(n))] * 2
    assert n < 8 or epochs[0] != epochs[1]


def test_adversarial_images_are_shown():
    images, labels = blobs(8, 2)
    shown = []
    network = small_network(2)
    network.register_forward_pre_hook(lambda module, inputs: shown.append(inputs[0].detach()))
    fit_classifier(network, images.clamp(-0.9, 0.9), labels, settings=ClassifierSettings(1, 8, epsilon=0.1))
    moved = (shown[-1][:, None] - images.clamp(-0.9, 0.9)).abs().amax((2, 3, 4)).amin(1)
    assert sorted(moved.tolist()) == pytest.approx([0] * 4 + [0.1] * 4, abs=1e-6)


def test_the_first_best_epoch_is_taken_and_a_training_that_learns_no_more_stops(caplog, capfd):
    """On labels the wrong way round the accuracy is 0 from the first epoch on, so that one is the best."""
    caplog.set_level("INFO", "monai_plan")
    images, labels = blobs(40, 2)
    network, steps = small_network(2), []
    network.register_forward_pre_hook(lambda module, inputs: steps.append(module.training))
    fit_classifier(
        network, images, labels, settings=ClassifierSettings(30, 8, lr=0.03, patience=3), seed=1,
        validation=(images, 1 - labels),
    )  # fmt: skip
    assert sum(steps) == 5 * (1 + 3)
    assert ("monai_plan.engines.classifier", "EarlyStopping: Stop training") in [r[::2] for r in caplog.record_tuples]
    assert capfd.readouterr().err == ""  # Ignite's form of it
    once = fit_classifier(small_network(2), images, labels, settings=ClassifierSettings(1, 8, lr=0.03), seed=1)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), once.parameters(), strict=True))


class KilledError(Exception):
    """Stands for the end of the process."""


def killed_after_every_epoch(fit, monkeypatch):
    """Calls ``fit`` until it comes through; every call is stopped once it has saved one further epoch."""
    save, saved = ResumeHandler.save, []

    def save_and_die(self, engine):
        save(self, engine)
        if engine.state.epoch not in saved:
            saved.append(engine.state.epoch)
            raise KilledError

    monkeypatch.setattr(ResumeHandler, "save", save_and_die)
    for _ in range(30):
        try:
            return fit(), saved
        except KilledError:
            continue
    raise AssertionError


@pytest.mark.parametrize("stops_early", [True, False])
def test_killed_after_every_epoch_it_gives_the_same_weights(tmp_path, monkeypatch, stops_early):
    """With dropout, random transforms, an own order in each epoch, adversarial images, and early stopping in play."""
    logging.disable(logging.CRITICAL)  # Ignite logs the traceback of every error that ends an engine
    images, labels = blobs(30, 2)
    held_out = (blobs(30, 2, seed=1)[0], labels.flip(0) if stops_early else labels)
    settings = ClassifierSettings(8, 8, lr=0.01, patience=2 if stops_early else 8, epsilon=0.05)

    def fit(checkpoint=None, seed=4):
        augment = Compose([RandFlipd("image", prob=0.5), RandGaussianNoised("image", prob=0.5)])
        network = fit_classifier(
            small_network(2), images, labels, settings=settings, validation=held_out, augment=augment, seed=seed,
            checkpoint=checkpoint,
        )  # fmt: skip
        return torch.cat([value.flatten().double() for value in network.state_dict().values()])

    undisturbed = fit(tmp_path / "whole.pt")
    assert torch.equal(undisturbed, fit())
    stopped, epochs = killed_after_every_epoch(lambda: fit(tmp_path / "parts.pt"), monkeypatch)
    assert torch.equal(stopped, undisturbed)
    assert epochs == list(range(1, len(epochs) + 1))
    assert (len(epochs) < settings.epochs) == stops_early
    whole, parts = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("whole", "parts"))
    assert whole["trainer"] == parts["trainer"]
    assert all(torch.equal(whole["network"][name], value) for name, value in parts["network"].items())
    other = fit(seed=5)
    assert not torch.equal(other, undisturbed)
    assert torch.equal(fit(tmp_path / "parts.pt", seed=5), other)  # another's checkpoint is not continued from
    logging.disable(logging.NOTSET)


def test_a_new_classifier_follows_its_seed():
    def factory():
        return nn.Linear(3, 2)

    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, again, other = (new_classifier(factory, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.weight, again.weight)
    assert not torch.equal(first.weight, other.weight)


def test_predictions_are_made_in_eval_mode_and_the_mode_is_kept():
    network = small_network(2).train()
    images, _ = blobs(6, 2)
    torch.testing.assert_close(predict_probabilities(network, images), predict_probabilities(network, images))
    assert network.training


def test_scores_by_hand():
    p = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]])
    scores = classification_scores(p, torch.tensor([0, 0, 0, 1]))
    assert scores == pytest.approx({"accuracy": 1, "balanced_accuracy": 1, "auc": 1})
    scores = classification_scores(p, torch.tensor([0, 1, 0, 1]))
    # one positive of two found, none of two negatives lost; 0.4 and 0.8 beat 0.1 and 0.3 in 4 of 4 pairs
    assert scores == pytest.approx({"accuracy": 0.75, "balanced_accuracy": 0.75, "auc": 1.0})
    three = classification_scores(torch.eye(3)[[0, 1, 2, 0]], torch.tensor([0, 1, 2, 2]))
    assert three["balanced_accuracy"] == pytest.approx((1 + 1 + 0.5) / 3)
    assert three["auc"] == pytest.approx((5 / 6 + 1 + 0.75) / 3)


def test_a_class_missing_in_test_is_named():
    with pytest.raises(DataError, match="no image of class 1"):
        classification_scores(torch.full((3, 3), 1 / 3), torch.tensor([0, 2, 2]))
    with pytest.raises(DataError, match="must fit"):
        classification_scores(torch.zeros(3, 2), torch.zeros(2))
