"""What watches a training: it shows what is there, keeps the best, and changes nothing."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from gan_fakes import Images, On, make_trainer
from ignite.engine import Events
from PIL import Image

from monai_plan.gan import BestGenerator, GANProgressBar, SampleSheetHandler, summary_writer
from monai_plan.metrics import FeatureStatistics, frechet_distance, perceptual_embedding
from monai_plan.networks import load_generator, save_generator
from monai_plan.utils import ConfigError, seeded_generator

KINDS = [(2, 0), (2, 2), (3, 0), (3, 2)]


def best_generator(folder, spatial_dims=2, **options):
    drawn = torch.Generator().manual_seed(1)
    images = Images(torch.rand(12, 1, *(8,) * spatial_dims, generator=drawn) * 2 - 1, torch.arange(12) % 2)
    embedding = perceptual_embedding("random", spatial_dims=spatial_dims, img_channels=1)
    return BestGenerator(dataset=images, embedding=embedding, path=folder / "best.pt", **options)


@pytest.mark.parametrize(("spatial_dims", "num_classes"), KINDS)
def test_sample_sheet(tmp_path, spatial_dims, num_classes):
    file = tmp_path / "sheets" / "samples.png"
    sheet = SampleSheetHandler(path=file, columns=3, seed=1)
    versions = []
    trainer = make_trainer(spatial_dims, num_classes, handlers=[sheet], max_epochs=2)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: versions.append(file.read_bytes()))
    trainer.run()
    with Image.open(file) as picture:
        rows = max(num_classes, 1)
        height = 8 if spatial_dims == 2 else 3 * 8  # of a volume three planes
        assert picture.size == (3 * 9 - 1, rows * (height + 1) - 1)
    assert versions[0] != versions[1]  # it shows the network as it is now
    sheet(trainer)
    assert file.read_bytes() == versions[1]  # the same latents each time


@pytest.mark.parametrize("watcher", [lambda folder: SampleSheetHandler(path=folder / "s.png"), best_generator])
def test_watching_does_not_disturb_the_training(tmp_path, watcher):
    """It draws from its own generator and leaves the running mean of w alone."""
    found = []
    for handlers in ([], [watcher(tmp_path)]):
        trainer = make_trainer(max_epochs=3, handlers=handlers)
        trainer.run()
        found.append({**trainer.generator.state_dict(), **trainer.ema.state_dict()})
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


@pytest.mark.parametrize(("spatial_dims", "num_classes"), KINDS)
def test_best_generator_is_measured_and_kept(tmp_path, spatial_dims, num_classes):
    best = best_generator(tmp_path, spatial_dims, every_images=16)
    snapshots = {}

    def keep(engine):
        snapshots[engine.state.images_seen] = {name: v.clone() for name, v in engine.ema.state_dict().items()}

    trainer = make_trainer(  # 8 images an epoch
        spatial_dims, num_classes, lr=0.05, max_epochs=7, handlers=[On(Events.EPOCH_COMPLETED, keep), best]
    )
    trainer.run()
    assert [seen for seen, _ in best.history] == [16, 32, 48, 56]  # and the end
    assert trainer.state.metrics["frechet"] == best.history[-1][1]
    seen, distance = min(best.history, key=lambda entry: entry[1])
    generator = load_generator(tmp_path / "best.pt")
    assert all(torch.equal(value, snapshots[seen][name]) for name, value in generator.state_dict().items())

    # the distance itself, by hand: the mean over the classes
    reals, labels = best.dataset.images, best.dataset.labels
    by_class = labels.argsort(stable=True) if num_classes else torch.arange(12)
    z = torch.randn(12, 5, generator=seeded_generator(0, "samples"))
    images = generator(z, labels[by_class] if num_classes else None).clamp(-1, 1)
    wanted = [
        frechet_distance(*(FeatureStatistics(best.embedding.pooled(x)) for x in (made, real)))
        for made, real in zip(
            images.chunk(max(num_classes, 1)), reals[by_class].chunk(max(num_classes, 1)), strict=True
        )
    ]
    assert distance == pytest.approx(sum(wanted) / len(wanted), rel=1e-4)


def test_swapped_classes_are_far(tmp_path):
    """All images together look the same: only a distance for each class tells."""
    best = best_generator(tmp_path)
    trainer = make_trainer(handlers=[best])
    stripes = (torch.arange(8) % 2 * 2.0 - 1).expand(1, 8, 8)
    patterns = torch.stack([stripes, stripes.mT])
    trainer.ema.forward = lambda z, y: patterns[y]
    distances = []
    for shown in (best.dataset.labels, 1 - best.dataset.labels):
        best.dataset.images = patterns[shown]
        best._real = []
        distances.append(best._distance(trainer))
    assert distances[0] < 1e-6 < 1e-2 < distances[1]


@pytest.mark.parametrize(("labels", "measured"), [([0] * 5 + [1] * 6 + [2], [5, 6]), (range(12), [12])])
def test_a_class_of_one_image_does_not_count(tmp_path, labels, measured):
    """Where all classes are such, they are measured together."""
    best = best_generator(tmp_path)
    best.dataset.labels = torch.tensor(labels)
    assert 0 < best._distance(make_trainer(num_classes=12)) < float("inf")
    assert [len(rows) for rows in best._rows] == measured


def test_best_generator_survives_a_restart(tmp_path):
    first = best_generator(tmp_path, every_images=8)
    make_trainer(folder=tmp_path, max_epochs=2, handlers=[first]).run()
    file = (tmp_path / "best.pt").read_bytes()
    second = best_generator(tmp_path, every_images=8)
    second.load_state_dict(first.state_dict())
    assert second.history == first.history
    second.history[0] = (8, 0.0)  # nothing will be nearer
    make_trainer(folder=tmp_path, max_epochs=3, handlers=[second]).run()
    assert [seen for seen, _ in second.history] == [8, 16, 24]
    assert (tmp_path / "best.pt").read_bytes() == file


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_bytes(b"")])
def test_a_lost_best_generator_is_looked_for_anew(tmp_path, damage, caplog):
    """And is no stop, neither when the training goes on nor at its end."""
    first = best_generator(tmp_path, every_images=8)
    make_trainer(folder=tmp_path, max_epochs=2, handlers=[first]).run()
    damage(tmp_path / "best.pt")
    second = best_generator(tmp_path, every_images=8)
    second.load_state_dict(first.state_dict())
    assert len([record for record in caplog.records if "is looked for anew: " in record.getMessage()]) == 1
    trainer = make_trainer(folder=tmp_path, max_epochs=3, handlers=[second])
    trainer.run()
    assert [seen for seen, _ in second.history] == [24]
    load_generator(tmp_path / "best.pt")


def test_the_best_generator_is_saved_or_the_last(tmp_path):
    best = best_generator(tmp_path, every_images=8)
    trainer = make_trainer(folder=tmp_path, max_epochs=2, handlers=[best])
    trainer.run()
    nearest = load_generator(tmp_path / "best.pt")
    nearest.load_state_dict({name: value + 1 for name, value in nearest.state_dict().items()})
    save_generator(nearest, tmp_path / "best.pt")
    for use_best, expected in ((False, trainer.ema), (True, nearest)):
        best.save(trainer.ema, tmp_path / "chosen.pt", use_best=use_best)
        chosen = load_generator(tmp_path / "chosen.pt").state_dict()
        assert all(torch.equal(value, chosen[name]) for name, value in expected.state_dict().items())


def test_the_end_is_measured_once_and_told(tmp_path, caplog):
    """Also where no measurement was due; again where more is trained, not where nothing is left to do."""
    told = []
    for epochs in (1, 1, 2):
        best = best_generator(tmp_path, every_images=1000)
        make_trainer(folder=tmp_path, max_epochs=epochs, best=best).run()
        told.append([seen for seen, _ in best.history])
    assert told == [[8], [8], [8, 16]]
    caplog.set_level("INFO")
    best.history = [(1000 * n, 100.0 / n) for n in (1, 2, 4, 8)]
    trainer = make_trainer()
    trainer.state.images_seen = 8000
    best.finish(trainer)
    assert "twice as many images would bring the distance" in caplog.text


@pytest.mark.parametrize("options", [{"every_images": 0}, {"num_images": 1}])
def test_best_generator_refuses(tmp_path, options):
    with pytest.raises(ConfigError, match="at least 1 and 2"):
        best_generator(tmp_path, **options)


def test_progress_bar_tells_losses_images_and_rate(caplog, monkeypatch):
    monkeypatch.setattr("monai_plan.progress.LINE_SECONDS", 0.0)
    caplog.set_level("INFO")
    make_trainer(max_epochs=2, handlers=[GANProgressBar(every=1)]).run()
    shown = caplog.text
    assert "g_loss=" in shown
    assert "real_sign=" in shown
    assert "images=16" in shown
    assert "images/s=" in shown


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_holds_the_sheet_and_the_distance(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = summary_writer(log_dir=tmp_path / "events")
    sheet = SampleSheetHandler(path=tmp_path / "s.png", columns=2, writer=writer)
    make_trainer(max_epochs=2, handlers=[sheet, best_generator(tmp_path, every_images=8, writer=writer)]).run()
    writer.close()
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    assert [event.step for event in events.Scalars("frechet")] == [8, 16]
    assert [event.step for event in events.Images("samples")] == [8, 16]
    assert (events.Images("samples")[0].width, events.Images("samples")[0].height) == (17, 17)


def test_tensorboard_on_and_off(tmp_path, monkeypatch):
    assert summary_writer(log_dir=tmp_path, enabled=False) is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert summary_writer(log_dir=tmp_path) is None
    with pytest.raises(ConfigError, match="pip install tensorboard"):
        summary_writer(log_dir=tmp_path, enabled=True)
    assert list(tmp_path.iterdir()) == []
