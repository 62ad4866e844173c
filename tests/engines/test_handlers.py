"""Checkpoints that survive a kill, the best weights across a restart, and what the progress bar shows."""

from __future__ import annotations

import logging
import math
import os
import re

import pytest
import torch
from ignite.engine import Engine, Events
from ignite.metrics import Metric
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import ValidationHandler
from torch import nn
from torch.utils.data import DataLoader

from monai_plan.engines import BestWeights, ResumeHandler, StopAtNaN
from monai_plan.engines.handlers import _scalars
from monai_plan.utils import TrainingError


@pytest.fixture(autouse=True)
def _quiet_engine():
    """Ignite logs the traceback of every error that ends an engine."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def make_engine(path, *, network=None, **options):
    """An engine that adds 1 to every weight in every iteration, two iterations an epoch."""
    network = network or nn.Linear(2, 1)

    def step(engine, batch):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(1)

    engine = Engine(step)
    ResumeHandler(path=path, save_dict={"network": network}, **options).attach(engine)
    return engine, network


def run(engine, epochs=2):
    return engine.run([0, 1], max_epochs=epochs)


def zeros():
    network = nn.Linear(2, 1)
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    return network


def test_resume_restores_everything(tmp_path):
    file = tmp_path / "train" / "checkpoint.pt"  # the folder is made
    engine, network = make_engine(file, network=zeros())
    run(engine)
    assert network.bias.item() == 4
    checkpoint = torch.load(file, weights_only=True)
    assert set(checkpoint) == {"network", "trainer", "inputs"}
    assert checkpoint["trainer"]["iteration"] == 4

    engine, network = make_engine(file)
    epochs = []
    engine.add_event_handler(Events.EPOCH_STARTED, lambda engine: epochs.append(engine.state.epoch))
    run(engine, epochs=4)
    assert epochs == [3, 4]
    assert network.bias.item() == 8
    assert engine.state.max_epochs == 4


@pytest.mark.parametrize("epochs", [1, 2])
def test_nothing_is_left_to_do(tmp_path, epochs):
    file = tmp_path / "checkpoint.pt"
    run(make_engine(file, network=zeros())[0])
    engine, network = make_engine(file)
    run(engine, epochs=epochs)
    assert network.bias.item() == 4


def test_without_a_checkpoint_it_starts_anew(tmp_path):
    engine, network = make_engine(tmp_path / "checkpoint.pt", network=zeros())
    run(engine, epochs=1)
    assert network.bias.item() == 2


@pytest.mark.parametrize("failure", [OSError("no space left on device"), KeyboardInterrupt()])
def test_a_writer_that_fails_midway_leaves_the_old_file(tmp_path, monkeypatch, failure):
    file = tmp_path / "checkpoint.pt"
    engine, _ = make_engine(file)
    run(engine, epochs=1)
    before = file.read_bytes()

    def broken(state, opened):
        opened.write(before[:100])
        raise failure

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(type(failure)):
        run(engine, epochs=2)
    assert file.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint.pt"]


def _changed(checkpoint, name, **changes):
    return {**checkpoint, name: {**checkpoint[name], **changes}}


DAMAGES = {
    "truncated": lambda content, _: content[:-200],
    "half": lambda content, _: content[: len(content) // 2],
    "empty": lambda *_: b"",
    "zeros": lambda content, _: bytes(len(content)),
    "a text": lambda *_: b"not a checkpoint",
    "a list": lambda *_: [1],
    "of an older version": lambda _, saved: {name: saved[name] for name in ("network", "trainer")},
    "an item missing": lambda _, saved: {name: saved[name] for name in ("network", "inputs")},
    "a weight missing": lambda _, saved: _changed(saved, "network", weight=None),
    "a weight of another shape": lambda _, saved: _changed(saved, "network", bias=torch.zeros(3)),
    "not finite": lambda _, saved: _changed(saved, "network", bias=torch.tensor([math.nan])),
    "the engine's state broken": lambda _, saved: _changed(saved, "trainer", epoch_length="x"),
    "the inputs broken": lambda _, saved: {**saved, "inputs": 3},
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_made_again_and_says_so(tmp_path, damage, caplog):
    """As if it had not been there, whatever was restored before the damage was found."""
    logging.disable(logging.NOTSET)
    file = tmp_path / "checkpoint.pt"
    run(make_engine(file, network=zeros())[0])
    whole = file.read_bytes()
    broken = damage(whole, torch.load(file, weights_only=True))
    if isinstance(broken, bytes):
        file.write_bytes(broken)
    else:
        torch.save(broken, file)
    engine, network = make_engine(file, network=zeros())
    seen = []
    engine.add_event_handler(Events.ITERATION_STARTED, lambda engine: seen.append(engine.state.iteration))
    run(engine)
    assert seen == [1, 2, 3, 4]
    assert network.bias.item() == 4
    assert file.read_bytes() == whole
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert re.fullmatch(rf"{file} is damaged or no checkpoint \(.*\): the training begins anew", line)


OTHER = {
    "network": ({}, nn.Linear(3, 1), "networks"),
    "images": ({"images": torch.ones(3), "lr": 0.1}, None, "images"),
    "options": ({"images": torch.zeros(3), "lr": 0.2, "seed": 1}, None, "lr, seed"),
}


@pytest.mark.parametrize(("inputs", "network", "named"), OTHER.values(), ids=OTHER)
def test_a_checkpoint_of_another_training_is_not_continued_from(tmp_path, inputs, network, named, caplog):
    logging.disable(logging.NOTSET)
    file = tmp_path / "checkpoint.pt"
    first = {"images": torch.zeros(3), "lr": 0.1} if inputs else {}
    run(make_engine(file, network=zeros(), inputs=first)[0])
    engine, network = make_engine(file, network=network or zeros(), inputs=inputs)
    before = network.bias.item()
    run(engine, epochs=1)
    assert network.bias.item() == pytest.approx(before + 2)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == [f"{file} is of other {named}: the training begins anew"]
    caplog.clear()
    engine, network = make_engine(file, network=network, inputs=inputs)
    run(engine, epochs=3)
    assert network.bias.item() == pytest.approx(before + 6)  # it is that training's own now
    assert not [record for record in caplog.records if record.levelno == logging.WARNING]


class Malicious:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_nothing_in_a_checkpoint_is_executed(tmp_path):
    file, made = tmp_path / "checkpoint.pt", tmp_path / "made"
    torch.save({"network": Malicious(made)}, file)
    content = file.read_bytes()
    run(make_engine(file)[0])
    assert not made.exists()
    file.write_bytes(content)
    torch.load(file, weights_only=False)
    assert made.exists()


class Score(Metric):
    """How near the network's weight is to ``best``: more is better."""

    def __init__(self, network, best):
        self.network, self.best = network, best
        super().__init__(output_transform=lambda output: (output["pred"], output["label"]))

    def reset(self):
        pass

    def update(self, output):
        pass

    def compute(self):
        return -abs(self.network.weight.item() - self.best)


def train_classifier(folder, *, epochs, best, stop_after=None):
    """A training as in the bundle, whose weight is the number of finished epochs; the score is greatest at ``best``."""
    torch.manual_seed(0)
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    loader = DataLoader([{"image": torch.ones(1), "label": torch.ones(1)}])
    keeper = BestWeights(network=network)
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"), val_data_loader=loader, network=network, decollate=False,
        key_val_metric={"score": Score(network, best)}, val_handlers=[keeper],
    )  # fmt: skip
    trainer = SupervisedTrainer(
        device=torch.device("cpu"), max_epochs=epochs, train_data_loader=loader, network=network,
        optimizer=optimizer, loss_function=lambda pred, label: -pred.mean(), decollate=False,
        train_handlers=[
            ValidationHandler(validator=evaluator, interval=1),
            ResumeHandler(
                path=folder / "checkpoint.pt",
                save_dict={"network": network, "optimizer": optimizer, "best": keeper},
            ),
        ],
    )  # fmt: skip
    if stop_after is not None:

        def kill(engine):
            raise KeyboardInterrupt

        trainer.add_event_handler(Events.ITERATION_STARTED(once=stop_after + 1), kill)
        with pytest.raises(KeyboardInterrupt):
            trainer.run()
    else:
        trainer.run()
    return network, keeper


@pytest.mark.parametrize("best", [1, 2, 3, 5])
def test_best_weights_survive_a_restart(tmp_path, best):
    """Killed in the third epoch; the best epoch is before, at or after the restart."""
    network, _ = train_classifier(tmp_path, epochs=5, best=best, stop_after=2)
    assert network.weight.item() == 2
    network, keeper = train_classifier(tmp_path, epochs=5, best=best)
    assert network.weight.item() == 5
    keeper.restore()
    assert network.weight.item() == best
    assert keeper.metric == 0


def test_best_weights_are_a_copy():
    network = zeros()
    keeper = BestWeights(network=network)
    engine = Engine(lambda engine, batch: None)
    engine.state.metrics, engine.state.key_metric_name = {"score": 0.5}, "score"
    keeper(engine)
    network.weight.data.fill_(3.0)
    engine.state.metrics["score"] = 0.5  # no better: the earlier one stays
    keeper(engine)
    keeper.restore()
    assert network.weight.abs().max() == 0


@pytest.mark.parametrize("value", [1.0, math.nan, math.inf])
def test_stop_at_nan(tmp_path, value):
    network = nn.Linear(1, 1)
    data = [{"image": torch.full((1,), value), "label": torch.ones(1)}] * 2
    trainer = SupervisedTrainer(
        device=torch.device("cpu"), max_epochs=1, train_data_loader=DataLoader(data), network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1), loss_function=nn.MSELoss(), decollate=False,
        train_handlers=[StopAtNaN(), ResumeHandler(path=tmp_path / "c.pt", save_dict={"network": network})],
    )  # fmt: skip
    if math.isfinite(value):
        trainer.run()
        assert (tmp_path / "c.pt").exists()
        return
    with pytest.raises(TrainingError):
        trainer.run()
    assert not (tmp_path / "c.pt").exists()


def test_what_the_progress_bar_shows():
    output = {"loss": torch.tensor(1.5), "g": 2.5, "image": torch.zeros(2, 2), "count": torch.tensor(3), "name": "x"}
    assert _scalars(output) == {"loss": 1.5, "g": 2.5}
    assert _scalars([output, {}]) == {"loss": 1.5, "g": 2.5}
