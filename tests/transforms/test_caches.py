"""The transforms in MONAI's data sets, caches, loaders and engines: the same samples everywhere, no patient on disk."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import (
    CacheDataset,
    CacheNTransDataset,
    DataLoader,
    Dataset,
    PersistentDataset,
    SmartCacheDataset,
    ThreadDataLoader,
)
from monai.data.utils import pickle_hashing
from monai.engines import SupervisedTrainer
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, RandFlipd, ScaleIntensityd, Transform
from release_fakes import make_release, pixel_marks, read_back, real_items, sample_of, traces
from torch.utils.data import DistributedSampler

from monai_plan.transforms import RandSubstituteSyntheticd, SubstituteSyntheticd, SyntheticEpochHandler
from monai_plan.utils import ConfigError

pytestmark = pytest.mark.filterwarnings(
    "ignore:A real image was loaded", "ignore:cache_num is greater", "ignore:This DataLoader will create"
)

LABELS = [0, 1, 0, 1, 1, 0, 1, 0, 1, 1]  # 4 and 6
slow = pytest.mark.slow


@pytest.fixture(scope="module", params=[2, 3])
def spatial_dims(request):
    return request.param


@pytest.fixture(scope="module")
def release(tmp_path_factory, spatial_dims):
    shape = (1, 16, 16) if spatial_dims == 2 else (1, 8, 8, 8)
    return make_release(tmp_path_factory.mktemp("made") / "release", LABELS, shape=shape)


@pytest.fixture(scope="module")
def items(tmp_path_factory, spatial_dims):
    return real_items(tmp_path_factory.mktemp("source"), [0, 1, 1, 0, 1, 1, 0, 1], spatial_dims=spatial_dims)


def substitute(release, items, *, output="like", random=False, **options):
    kind = RandSubstituteSyntheticd if random else SubstituteSyntheticd
    return kind("image", "label", release, output=output, data=items, **options)


def pipeline(release, items, *, output="like", random=False, late=False, **options):
    """Up to an image as stored; ``late`` after LoadImaged, else first."""
    one = substitute(release, items, output=output, random=random, **options)
    load = [LoadImaged("image"), EnsureChannelFirstd("image")]
    return Compose([*load, one] if late else [one] if output == "image" else [one, *load])


def numbers_of(loader):
    return [sample_of(image) for batch in loader for image in batch["image"]]


# ---------------------------------------------------------------------------------- the same samples everywhere


@pytest.mark.parametrize("output", ["like", "image"])
@pytest.mark.parametrize(
    ("workers", "how"),
    [
        (2, "fork"),
        (4, "fork"),
        (2, "threads"),
        (0, "thread"),
        pytest.param(2, "spawn", marks=slow),
        pytest.param(4, "spawn", marks=slow),
    ],
)
def test_an_epoch_does_not_depend_on_the_workers(release, items, output, workers, how):
    dataset = Dataset(items, pipeline(release, items, output=output))
    expected = numbers_of(DataLoader(dataset, batch_size=2))
    assert [LABELS[number] for number in expected] == [item["label"] for item in items]
    if how in ("thread", "threads"):
        loader = ThreadDataLoader(dataset, batch_size=2, num_workers=workers, use_thread_workers=how == "threads")
    else:
        loader = DataLoader(
            dataset, batch_size=2, num_workers=workers, multiprocessing_context=how, persistent_workers=how == "spawn"
        )
    assert numbers_of(loader) == expected
    assert numbers_of(loader) == expected  # a transform without epochs gives the same again


class Plain(torch.utils.data.Dataset):
    """A user's own data set: MONAI's DataLoader finds the transform in it outside any Compose and would seed it."""

    def __init__(self, items, transform):
        self.items, self.transform = items, transform

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.transform(self.items[index])


@pytest.mark.parametrize("random", [True, False])
def test_a_loader_does_not_seed_the_transform_outside_a_compose(release, items, random):
    transform = substitute(release, items, output="image", random=random)
    expected = [sample_of(transform(item)["image"]) for item in items]
    for workers in (0, 2):
        assert numbers_of(DataLoader(Plain(items, transform), batch_size=2, num_workers=workers)) == expected
    assert transform.substitute.seed == 0


@pytest.mark.parametrize("random", [True, False])
def test_ranks_share_the_epoch(release, items, random):
    dataset = Dataset(items, pipeline(release, items, output="image", random=random))
    expected = numbers_of(DataLoader(dataset, batch_size=1))
    found = {}
    for rank in range(3):
        sampler = DistributedSampler(dataset, num_replicas=3, rank=rank, seed=4)
        found |= dict(zip(sampler, numbers_of(DataLoader(dataset, batch_size=1, sampler=sampler)), strict=True))
    assert [found[index] for index in range(len(items))] == expected


@pytest.mark.parametrize("output", ["like", "image"])
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("random", [False, True])
@pytest.mark.parametrize("kind", ["cache", "threads", "smart", pytest.param("persistent", marks=read_back), "runtime"])
def test_caches_give_what_the_plain_data_set_gives(tmp_path, release, items, kind, random, late, output):
    # By another key than the file name, which a persistent cache does not keep without track_meta.
    transform = pipeline(release, items, output=output, late=late, random=random, item_key="subject")
    expected = numbers_of(DataLoader(Dataset(items, transform), batch_size=2))
    dataset = {
        "cache": lambda: CacheDataset(items, transform, progress=False),
        "threads": lambda: CacheDataset(items, transform, num_workers=4, progress=False),
        "runtime": lambda: CacheDataset(items, transform, runtime_cache=True, progress=False),
        "smart": lambda: SmartCacheDataset(items, transform, shuffle=False, progress=False),
        "persistent": lambda: PersistentDataset(items, transform, tmp_path / "cache"),
    }[kind]()
    loader = DataLoader(dataset, batch_size=2, num_workers=2 if kind == "cache" else 0)
    assert numbers_of(loader) == numbers_of(loader) == expected


def test_a_smart_cache_that_shuffles_and_replaces_gives_every_item_its_sample(release, items):
    transform = pipeline(release, items, output="image", keep_keys="subject")
    expected = {item["subject"]: sample_of(transform(item)["image"]) for item in items}
    dataset = SmartCacheDataset(items, transform, replace_rate=0.5, cache_num=4, shuffle=True, progress=False)
    dataset.start()
    seen = {}
    for _ in range(3):
        seen |= {dataset[index]["subject"]: sample_of(dataset[index]["image"]) for index in range(len(dataset))}
        dataset.update_cache()
    dataset.shutdown()
    assert seen == expected


@read_back
@pytest.mark.parametrize("track_meta", [True, False])
def test_a_persistent_cache_is_read_again_and_notices_another_release(tmp_path, items, track_meta):
    def run(labels):
        release = make_release(tmp_path / "release", labels)
        dataset = PersistentDataset(
            items,
            pipeline(release, items, output="image"),
            tmp_path / "cache",
            hash_transform=pickle_hashing,
            track_meta=track_meta,
        )
        results = [dataset[index]["image"] for index in range(len(items))]
        return [sample_of(image) for image in results], results[0], len(list((tmp_path / "cache").iterdir()))

    first, image, files = run(LABELS)
    assert files == len(items)
    again, cached, files = run(LABELS)
    assert (again, files) == (first, len(items))
    assert torch.equal(image, cached)
    if track_meta:
        assert cached.meta["synthetic"] is True
        assert cached.meta["filename_or_obj"] == image.meta["filename_or_obj"]
    other, _, files = run(LABELS[::-1])
    assert files == 2 * len(items)
    assert [LABELS[::-1][number] for number in other] == [item["label"] for item in items]


# ---------------------------------------------------------------------------------- no patient in a cache or on disk


def training(release, items, *, output="like", first=True):
    """A user's pipeline, with the one line added or not."""
    line = [substitute(release, items, output=output)] if first else []
    load = [LoadImaged("image"), EnsureChannelFirstd("image")] if not first or output != "image" else []
    return Compose([*line, *load, ScaleIntensityd("image"), RandFlipd("image", prob=0.5)])


def caches(folder, items, transform, track_meta):
    """Every cache of MONAI filled with the items; their data sets."""
    return {
        "persistent": PersistentDataset(items, transform, folder / "persistent", track_meta=track_meta),
        "steps": CacheNTransDataset(items, transform, 3, folder / "steps"),
        "memory": CacheDataset(items, transform, progress=False),
    }


@read_back
@pytest.mark.parametrize("track_meta", [True, False])
@pytest.mark.parametrize("output", ["like", "image"])
def test_no_byte_of_a_patient_is_in_a_cache_or_a_batch(tmp_path, release, items, output, track_meta):
    marks = pixel_marks(items)
    sets = caches(tmp_path, items, training(release, items, output=output), track_meta)
    for name, dataset in sets.items():
        for batch in DataLoader(dataset, batch_size=4):
            assert set(batch) == {"image", "label"}, name
            assert traces(pickle.dumps(batch), marks) == [], name
    assert traces(pickle.dumps(sets["memory"]._cache), marks) == []
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) == 2 * len(items)
    for file in files:
        assert traces(file.read_bytes(), marks) == []
        assert traces(file.name.encode(), marks) == []


@read_back
def test_without_the_line_the_search_finds_them_all(tmp_path, release, items):
    marks = pixel_marks(items)
    sets = caches(tmp_path, items, training(release, items, first=False), True)
    for dataset in sets.values():
        for batch in DataLoader(dataset, batch_size=4):
            found = traces(pickle.dumps(batch), marks)
            assert b"mustermann" in found
            assert len(found) > 16
    for file in (file for file in tmp_path.rglob("*") if file.is_file()):
        assert len(traces(file.read_bytes(), marks)) > 16
    assert len(traces(pickle.dumps(sets["memory"]._cache), marks)) > 16


@read_back
def test_after_load_image_the_cache_holds_the_synthetic_image(tmp_path, release, items):
    marks = pixel_marks(items)
    dataset = PersistentDataset(items, pipeline(release, items, late=True), tmp_path, track_meta=True)
    assert len(numbers_of(DataLoader(dataset))) == len(items)
    for file in tmp_path.iterdir():
        assert traces(file.read_bytes(), marks) == []


class Opened(Transform):
    """LoadImaged that tells which files it opened."""

    def __init__(self):
        self.load, self.files = LoadImaged("image"), []

    def __call__(self, data):
        self.files.append(data["image"])
        return self.load(data)


@pytest.mark.parametrize("random", [True, False])
def test_no_real_file_is_opened(release, items, random):
    opened = Opened()
    transform = Compose([substitute(release, items, random=random), opened])
    list(DataLoader(CacheDataset(items, transform, progress=False)))
    assert opened.files
    assert {Path(file).parent for file in opened.files} == {release / "images"}


# ---------------------------------------------------------------------------------- a new sample in every epoch


def epochs_of(transform, items, loader, count=3):
    """The samples of some epochs, and what they must be."""
    found, expected = [], []
    for epoch in range(count):
        transform.set_epoch(epoch)
        found.append(numbers_of(loader))
        expected.append([sample_of(transform(item)["image"]) for item in items])
    return found, expected


@pytest.mark.parametrize(
    ("workers", "how", "persistent"),
    [
        (0, None, False),
        (2, "fork", False),
        (2, "fork", True),
        (1, "spawn", True),
        pytest.param(4, "spawn", True, marks=slow),
        pytest.param(1, "spawn", False, marks=slow),
    ],
)
def test_running_workers_see_the_epoch(release, items, workers, how, persistent):
    transform = substitute(release, items, output="image", random=True)
    loader = DataLoader(
        Dataset(items, transform),
        batch_size=2,
        num_workers=workers,
        multiprocessing_context=how,
        persistent_workers=persistent,
    )
    found, expected = epochs_of(transform, items, loader)
    assert found == expected
    assert len({tuple(numbers) for numbers in found}) == 3


@pytest.mark.parametrize("kind", [CacheDataset, PersistentDataset, SmartCacheDataset])
def test_caches_do_not_hold_on_to_the_first_epoch(tmp_path, release, items, kind):
    transform = substitute(release, items, output="image", random=True)
    options = {"cache_dir": tmp_path} if kind is PersistentDataset else {"progress": False}
    if kind is SmartCacheDataset:
        options["shuffle"] = False
    found, expected = epochs_of(transform, items, DataLoader(kind(items, transform, **options), batch_size=2))
    assert found == expected


def train(release, items, *, epochs, workers=0, epoch_length=None, threads=False):
    """Samples that a MONAI trainer saw in each epoch, and the transform."""
    transform = substitute(release, items, output="image", random=True)
    dataset = CacheDataset(items, Compose([transform, RandFlipd("image", prob=0.5)]), progress=False)
    kind = ThreadDataLoader if threads else DataLoader
    loader = kind(dataset, batch_size=2, num_workers=workers, persistent_workers=workers > 0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(2))
    seen: list[list[int]] = [[] for _ in range(epochs)]

    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=epochs,
        train_data_loader=loader,
        epoch_length=epoch_length,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 1e-4),
        loss_function=torch.nn.CrossEntropyLoss(),
        train_handlers=[SyntheticEpochHandler(transform)],
        decollate=False,
    )

    @trainer.on(Events.ITERATION_STARTED)
    def look(engine):
        seen[engine.state.epoch - 1].extend(sample_of(image) for image in engine.state.batch["image"])

    trainer.run()
    return seen, transform


@pytest.mark.parametrize(("workers", "threads"), [(0, False), (2, False), (0, True)])
def test_a_trainer_gives_every_epoch_its_samples(release, items, workers, threads):
    seen, transform = train(release, items, epochs=3, workers=workers, threads=threads)
    for epoch, numbers in enumerate(seen, start=1):
        transform.set_epoch(epoch)
        assert numbers == [sample_of(transform(item)["image"]) for item in items]
    assert len({tuple(numbers) for numbers in seen}) == 3


def test_an_epoch_may_be_several_passes_but_no_part_of_one(release, items):
    (numbers,), _ = train(release, items, epochs=1, epoch_length=8)
    assert numbers[:8] == numbers[8:]
    with pytest.raises(ConfigError, match=r"epoch_length is 3, but the data set has 4 batches"):
        train(release, items, epochs=1, epoch_length=3)


def test_the_handler_serves_engines_without_a_length(release, items):
    transform = substitute(release, items, random=True)
    engine = Engine(lambda engine, batch: None)
    SyntheticEpochHandler(transform).attach(engine)
    engine.run(iter(np.zeros(6)), max_epochs=2, epoch_length=3)
    assert transform.substitute.epoch == 2
