"""The stages on tiny networks and real files, in 2D (PNG) and 3D (NIfTI)."""

from __future__ import annotations

import itertools
import json
import logging
from collections import Counter
from types import SimpleNamespace

import ignite.distributed as idist
import nibabel
import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import load_decathlon_datalist
from monai.transforms import Compose, LoadImaged, ScaleIntensityRanged
from torch import nn

import monai_plan.bundle.stages as stages
from monai_plan.bundle import (
    aggregate,
    check_data,
    class_counts,
    class_items,
    identity_items,
    invert,
    reproduction_distances,
    select_points,
    synthesize,
    synthesize_images,
    walk_anchors,
)
from monai_plan.data import CheckedDataset, write_datalist, write_image
from monai_plan.latent import InversionSettings, LatentInverter, LatentWalk, MarginTerm, WalkSettings
from monai_plan.networks import StyleGAN2Generator
from monai_plan.utils import ArtifactError, ConfigError, DataError, TrainingError, load_artifact, save_artifact

SUBJECTS, IMAGES_EACH, K, T = 5, 2, 2, 6  # a class has 5 patients with 2 images each: 2 anchors, so 1 pair
NAMES = {0: "normal", 1: "lesion"}


def make_dataset(folder, spatial_dims, *, subjects=SUBJECTS, seed=0, section="training", names=NAMES):
    """Noise in files and of subjects whose names would be noticed elsewhere; the classes take turns."""
    rng = torch.Generator().manual_seed(seed)
    (folder / section).mkdir(parents=True)
    items = []
    for subject in range(subjects * len(names)):
        for number in range(IMAGES_EACH):
            suffix = ".png" if spatial_dims == 2 else ".nii"
            file = folder / section / f"patientfile_{subject}_{number}{suffix}"
            affine = np.diag([2.0, 3.0, 4.0, 1.0]) if spatial_dims == 3 else None
            write_image(file, torch.rand(1, *(8,) * spatial_dims, generator=rng), affine=affine)
            items.append({"image": str(file), "label": subject % len(names), "subject": f"{section}secret{subject}"})
    sections = {"training": [], section: items}
    write_datalist(folder / "datalist.json", labels=names, sections=sections, name="tiny", description="noise")
    return CheckedDataset(
        datalist_file=folder / "datalist.json", section=section, transform=reading(spatial_dims),
        img_size=(8,) * spatial_dims, img_channels=1, num_classes=len(names),
    )  # fmt: skip


def reading(spatial_dims):
    reader = "PILReader" if spatial_dims == 2 else "NibabelReader"
    return Compose([
        LoadImaged("image", ensure_channel_first=True, reader=reader),
        ScaleIntensityRanged("image", 0, 255, -1, 1),
    ])  # fmt: skip


def make_generator(spatial_dims, seed=0):
    torch.manual_seed(seed)
    return StyleGAN2Generator(spatial_dims, 8, 1, 5, 6, 2, channel_base=64, channel_max=4, mapping_layers=2).eval()


def make_inverter(generator, **options):
    seed = options.pop("seed", 1)
    settings = InversionSettings(**{"steps": 3, "starts": 2, "num_mean_samples": 8, **options})
    return LatentInverter(generator, nn.Flatten(), settings=settings, seed=seed)


def make_walk(generator, *, terms=None, points_per_batch=None, **options):
    torch.manual_seed(2)
    pixels = 8 ** len(generator.img_size)
    nets = [nn.Sequential(nn.Flatten(), nn.Linear(pixels, n)) for n in (10, 2)]
    settings = WalkSettings(**{"num_points": T, "steps": 3, **options})
    return LatentWalk(generator, *nets, settings=settings, terms=terms, points_per_batch=points_per_batch)


class Spy:
    """Counts the calls of an inverter or a walk and, like a kill, stops at one of them."""

    def __init__(self, wrapped, stop_at=None):
        self.wrapped, self.stop_at, self.calls = wrapped, stop_at, []

    def __getattr__(self, name):
        return getattr(self.wrapped, name)

    def __call__(self, *args, **options):
        if len(self.calls) == self.stop_at:
            raise KeyboardInterrupt
        self.calls.append(args)
        return self.wrapped(*args, **options)

    def walk_pairs(self, w_a, w_b, labels, **options):
        if len(self.calls) == self.stop_at:
            raise KeyboardInterrupt
        self.calls += zip(w_a, w_b, labels, strict=True)
        return self.wrapped.walk_pairs(w_a, w_b, labels, **options)


@pytest.fixture(scope="module", params=[2, 3])
def case(request, tmp_path_factory):
    """A data set, a generator and the files of all stages up to the release, made once."""
    dims = request.param
    folder = tmp_path_factory.mktemp(f"case{dims}")
    dataset, generator = make_dataset(folder / "data", dims), make_generator(dims)
    private = folder / "output" / "private"
    files = SimpleNamespace(
        latents=private / "latents.pt", report=private / "inversion.json", anchors=private / "anchors.pt",
        paths=private / "paths.pt",
        invert=private / "invert", walk=private / "walk", release=folder / "output" / "release",
    )  # fmt: skip
    invert(
        inverter=make_inverter(generator), dataset=dataset, output_file=files.latents,
        report_file=files.report, parts_dir=files.invert, images_per_part=8,
    )  # fmt: skip
    aggregate(latents_file=files.latents, output_file=files.anchors, k=K)
    walk_anchors(
        walk=make_walk(generator), anchors_file=files.anchors, dataset=dataset, output_file=files.paths,
        parts_dir=files.walk, num_images=7,
    )  # fmt: skip
    synthesize(
        generator=generator, paths_file=files.paths, anchors_file=files.anchors, dataset=dataset,
        release_dir=files.release, name="tiny {synthetic}",
    )  # fmt: skip
    return SimpleNamespace(dims=dims, dataset=dataset, generator=generator, files=files)


# check -----------------------------------------------------------------------------------------------------------


def check(folder, *, training, test=None, **options):
    generator = make_generator(training.images.ndim - 2)
    defaults = {"inverter": make_inverter(generator), "walk": make_walk(generator), "batch_size": 16, "k": K}
    defaults |= {"num_images": None, "inversion_init": "encoder", "min_distance_quantile": 0.1}
    defaults |= {"evaluation_epochs": 1, "evaluation_seeds": 1, "evaluation_batch_size": 2}
    arguments = {**defaults, "balance": "real", "report_file": folder / "private" / "data.json", **options}
    check_data(training=training, test=test or training, **arguments)


def test_check_data_writes_counts(case, tmp_path):
    test = make_dataset(tmp_path / "data", case.dims, subjects=1, section="test")
    check(tmp_path, training=case.dataset, test=test)
    report = json.loads((tmp_path / "private" / "data.json").read_text())
    assert report["training"] == {
        "images": 20, "subjects": 10, "has_subjects": True, "images_per_class": {"0": 10, "1": 10}, "left_out": [],
    }  # fmt: skip
    assert report["test"]["images"] == 4
    assert report["test"]["subjects"] == 2


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"k": 1}, ConfigError, "k is 1, but a centroid of fewer than 2"),
        # ten images a class, but of five patients
        ({"k": 3}, DataError, r"class 0 \(normal\) has 5 subjects .* k = 3 subjects each: .*, or use k <= 2\.$"),
        ({"batch_size": 21}, DataError, "20 images, fewer than batch_size = 21"),
        ({"num_images": 1}, ConfigError, "num_images is 1, but there are 2 classes"),
        ({"balance": "even"}, ConfigError, "balance is 'even'"),
        ({"inversion_init": "zero"}, ConfigError, "inversion_init is 'zero', but it must be 'encoder' or 'mean'"),
        ({"min_distance_quantile": 1.5}, ConfigError, r"min_distance_quantile is 1.5, but must lie in \[0, 1\]"),
        ({"evaluation_epochs": 0}, ConfigError, "evaluation_epochs is 0, but it must be at least 1"),
        ({"evaluation_seeds": 0}, ConfigError, "evaluation_seeds is 0, but it must be at least 1"),
        ({"evaluation_batch_size": 1}, ConfigError, "evaluation_batch_size is 1, but it must be at least 2"),
    ],
)
def test_check_data_finds_what_cannot_work(case, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        check(tmp_path, training=case.dataset, **options)
    assert list(tmp_path.iterdir()) == []


def test_check_data_tries_the_networks(case, tmp_path):
    pixels = 8**case.dims
    for identities, classes, message in (
        (9, 2, "identity_network returns 9 logits, but 10 are needed: give it num_identities outputs"),
        (10, 1, "class_network returns 1 logits, but 2 are needed: give it num_classes outputs"),
    ):
        nets = [nn.Sequential(nn.Flatten(), nn.Linear(pixels, n)) for n in (identities, classes)]
        with pytest.raises(ConfigError, match=message):
            check(tmp_path, training=case.dataset, walk=LatentWalk(case.generator, *nets))
    torch.manual_seed(0)
    larger = StyleGAN2Generator(case.dims, 16, 1, 5, 6, 2, channel_base=64, channel_max=4, mapping_layers=2)
    with pytest.raises(ConfigError, match=r"makes images \[1, 16.*\], but the real ones are \[1, 8"):
        check(tmp_path, training=case.dataset, walk=make_walk(larger))
    term = {"wrong": nn.Bilinear(3, 3, 3)}
    with pytest.raises(TypeError, match="positional arguments but 4 were given"):
        check(tmp_path, training=case.dataset, walk=make_walk(case.generator, terms=term, lambda_terms={"wrong": 0.0}))
    wrong_embedding = LatentInverter(make_generator(case.dims), nn.Linear(3, 3))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        check(tmp_path, training=case.dataset, inverter=wrong_embedding)


def test_check_data_advises_what_works(tmp_path):
    few = make_dataset(tmp_path / "data", 2, subjects=3)
    with pytest.raises(DataError, match=r"3 subjects .*: add patients or leave the class out\.$"):
        check(tmp_path, training=few, batch_size=4)


def out_files(folder):
    return {
        "output_file": folder / "latents.pt", "report_file": folder / "inversion.json", "parts_dir": folder / "parts",
        "images_per_part": 8,
    }  # fmt: skip


# invert ----------------------------------------------------------------------------------------------------------


def test_invert_gives_what_the_inverter_gives(case):
    data = load_artifact(case.files.latents, kind="latents")
    dataset = case.dataset
    expected = make_inverter(case.generator)(dataset.images, dataset.labels, dataset.keys)
    torch.testing.assert_close(data["latents"], expected.latents, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(data["distances"], expected.distances, rtol=1e-3, atol=1e-4)
    assert torch.equal(data["best"], data["distances"].argmin(1))
    assert torch.equal(data["labels"], dataset.labels)
    assert data["subjects"] == dataset.subjects
    assert data["keys"] == dataset.keys
    made_by = data["header"]["made_by"]
    assert InversionSettings.from_dict(made_by["settings"]) == make_inverter(case.generator).settings
    assert made_by["seed"] == 1
    report = json.loads(case.files.report.read_text())
    assert report["images"] == 20
    best = data["distances"].min(1).values
    assert list(report["distance_quantiles"]) == ["0", "5", "25", "50", "75", "95", "100"]
    assert report["distance_quantiles"]["0"] == pytest.approx(best.min().item())
    assert report["distance_quantiles"]["50"] == pytest.approx(best.quantile(0.5).item())
    assert report["distance_quantiles"]["100"] == pytest.approx(best.max().item())
    missed = [key for key, known in zip(data["keys"], data["reproduced"].tolist(), strict=True) if not known]
    assert [entry["image"] for entry in report["not_reproduced"]] == missed
    assert len(list(case.files.invert.iterdir())) == 3  # 8, 8 and 4 images


def test_invert_goes_on_after_a_stop(case, tmp_path):
    files = out_files(tmp_path)
    killed = Spy(make_inverter(case.generator), stop_at=1)
    with pytest.raises(KeyboardInterrupt):
        invert(inverter=killed, dataset=case.dataset, **files)
    assert not files["output_file"].exists()
    assert [len(keys) for _, _, keys in killed.calls] == [8]

    second = Spy(make_inverter(case.generator))
    invert(inverter=second, dataset=case.dataset, **files)
    assert [keys for _, _, keys in second.calls] == [case.dataset.keys[8:16], case.dataset.keys[16:]]
    result, whole = (load_artifact(file, kind="latents") for file in (files["output_file"], case.files.latents))
    assert torch.equal(result["latents"], whole["latents"])

    third = Spy(make_inverter(case.generator))
    invert(inverter=third, dataset=case.dataset, **files)
    assert third.calls == []


def test_invert_makes_parts_of_other_images_networks_or_settings_anew(case, tmp_path):
    """By MONAI's own command nobody clears the work folder when something changes."""
    files = out_files(tmp_path)
    invert(inverter=make_inverter(case.generator), dataset=case.dataset, **files)
    other = make_dataset(tmp_path / "data", case.dims, section="other")
    changes = (
        (make_inverter(case.generator), other),
        (make_inverter(make_generator(case.dims, seed=1)), case.dataset),
        (make_inverter(case.generator, steps=4), case.dataset),
    )
    for inverter, dataset in changes:
        spy = Spy(inverter)
        invert(inverter=spy, dataset=dataset, **files)
        assert len(spy.calls) == -(-len(dataset) // 8)
        assert load_artifact(files["output_file"], kind="latents")["keys"] == dataset.keys


def test_invert_refuses_a_damaged_part(case, tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "part_000000.pt").write_bytes(b"half")
    with pytest.raises(ArtifactError, match=r"part_000000\.pt cannot be read"):
        invert(inverter=make_inverter(case.generator), dataset=case.dataset, **out_files(tmp_path))


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_what_counts_as_reproduced(spatial_dims, tmp_path):
    """Latents are images here: a copy is reproduced, also where the patient has a second image just like it."""
    dataset = make_dataset(tmp_path, spatial_dims)
    latents = dataset.images.flatten(1).clone()
    dataset.images[1] = dataset.images[0]  # of the same subject
    latents[2] = dataset.images[5].flatten()  # another patient's image
    latents[3] = 0.9 * latents[3]

    class Identity(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def synthesis(self, w):
            return self.weight * w.reshape(-1, *dataset.images.shape[1:])

    to_image, to_other = reproduction_distances(Identity(), latents, dataset, nn.Flatten())
    flat = dataset.images.flatten(1)
    for i in range(20):
        others = [j for j in range(20) if dataset.subjects[j] != dataset.subjects[i]]
        expected = min((flat[i] - flat[j]).square().sum().item() for j in others)
        assert to_other[i].item() == pytest.approx(expected, rel=1e-4)
    reproduced = to_image < to_other
    assert [i for i in range(20) if not reproduced[i]] == [1, 2]  # 1: its latent is of the image that it was before
    assert to_image[0] < 1e-3


def test_flags_and_warning_of_images_out_of_reach(case, tmp_path, caplog, monkeypatch):
    distances = torch.arange(20.0), torch.full((20,), 15.0)  # the last five, the one at the same distance among them
    monkeypatch.setattr(stages, "reproduction_distances", lambda *_, **__: distances)
    with caplog.at_level(logging.INFO):
        invert(inverter=make_inverter(case.generator, steps=1), dataset=case.dataset, **out_files(tmp_path))
    data = load_artifact(tmp_path / "latents.pt", kind="latents")
    assert data["reproduced"].tolist() == [True] * 15 + [False] * 5
    report = json.loads((tmp_path / "inversion.json").read_text())
    assert report["not_reproduced"] == [
        {"image": key, "distance": 15.0 + i, "nearest_other_subject": 15.0}
        for i, key in enumerate(case.dataset.keys[15:])
    ]
    assert "distance of 20 images to their reconstructions, 0 % / 5 %" in caplog.text
    assert "5 of 20 images are not reproduced" in caplog.text


def test_w_plus_passes_through_the_stages(case, tmp_path):
    """Latents, anchors, φ_id's items and images with a latent for every layer."""
    invert(inverter=make_inverter(case.generator, space="w_plus"), dataset=case.dataset, **out_files(tmp_path))
    data = load_artifact(tmp_path / "latents.pt", kind="latents")
    layers = case.generator.num_ws
    assert data["latents"].shape == (20, 2, layers, 6)
    assert data["latents"].std(2).max() > 0  # the layers part
    aggregate(latents_file=tmp_path / "latents.pt", output_file=tmp_path / "anchors.pt", k=K)
    anchors = load_artifact(tmp_path / "anchors.pt", kind="anchors")
    assert anchors["latents"].shape == (len(anchors["labels"]), layers, 6)
    best = data["latents"][torch.arange(20), data["best"]]
    for latent, members in zip(anchors["latents"], anchors["members"], strict=True):
        torch.testing.assert_close(latent, best[members].mean(0))  # all patients have as many images
    training, _ = identity_items(dataset=case.dataset, generator=case.generator, latents_file=tmp_path / "latents.pt")
    with torch.no_grad():
        expected = case.generator.synthesis(data["latents"][:, 0]).clamp(-1, 1)
    assert (torch.stack([item["image"] for item in training[20:]]) - expected).abs().max() <= 1 / 255 + 1e-6


def invert_on_rank(rank, folder):
    """What one of two processes does."""
    torch.set_num_threads(1)
    idist.initialize("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    dataset = CheckedDataset(
        datalist_file=folder / "data" / "datalist.json", transform=reading(2), img_size=(8, 8), img_channels=1,
        num_classes=2,
    )  # fmt: skip
    spy = Spy(make_inverter(make_generator(2)))
    invert(inverter=spy, dataset=dataset, **out_files(folder))
    torch.save([keys for _, _, keys in spy.calls], folder / f"rank{rank}.pt")
    idist.finalize()


def test_ranks_share_the_parts_and_the_result_is_the_same(tmp_path):
    dataset = make_dataset(tmp_path / "data", 2)
    mp.start_processes(invert_on_rank, (tmp_path,), nprocs=2, start_method="spawn")
    done = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert done == [[dataset.keys[:8], dataset.keys[16:]], [dataset.keys[8:16]]]
    (tmp_path / "alone").mkdir()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as on the ranks: sums in another order differ in the last bits
    try:
        invert(inverter=make_inverter(make_generator(2)), dataset=dataset, **out_files(tmp_path / "alone"))
    finally:
        torch.set_num_threads(threads)
    shared, alone = (load_artifact(folder / "latents.pt", kind="latents") for folder in (tmp_path, tmp_path / "alone"))
    assert shared.keys() == alone.keys()
    for name, value in alone.items():
        same = torch.equal(shared[name], value) if isinstance(value, torch.Tensor) else shared[name] == value
        assert same, name
    reports = [(folder / "inversion.json").read_text() for folder in (tmp_path, tmp_path / "alone")]
    assert reports[0] == reports[1]


# synthesize_images -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_images_have_eight_bits(spatial_dims):
    class Strong(nn.Module):
        """G(w) = w times a ramp: far outside [-1, 1] in parts."""

        def __init__(self):
            super().__init__()
            self.ramp = nn.Parameter(torch.linspace(-2, 2, 4**spatial_dims).view(1, 1, *(4,) * spatial_dims))

        def synthesis(self, w):
            return w[:, 0].view(-1, 1, *(1,) * spatial_dims) * self.ramp

    generator, latents = Strong(), torch.tensor([[0.1], [0.7], [3.0]])
    images = synthesize_images(generator, latents)
    assert not images.requires_grad
    for w, image in zip(latents[:, 0].tolist(), images, strict=True):
        for value, source in zip(image.flatten().tolist(), generator.ramp.flatten().tolist(), strict=True):
            level = (min(max(w * source, -1.0), 1.0) + 1) * 127.5
            assert (value + 1) * 127.5 == pytest.approx(round((value + 1) * 127.5), abs=1e-3)  # one of 256 levels
            assert abs((value + 1) * 127.5 - level) <= 0.5 + 1e-3  # the nearest one
    assert images.min() == -1
    assert images.max() == 1


def test_images_do_not_depend_on_the_batch_size(case):
    latents = load_artifact(case.files.latents, kind="latents")["latents"][:, 0]
    images = synthesize_images(case.generator, latents)
    assert images.shape == case.dataset.images.shape
    one_by_one = synthesize_images(case.generator, latents, batch_size=3)
    assert (images - one_by_one).abs().max() <= 2 / 255 + 1e-6  # rounding to the next level at most
    assert (images != one_by_one).float().mean() < 0.01


# items of the classifiers ----------------------------------------------------------------------------------------


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


# aggregate -------------------------------------------------------------------------------------------------------


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


# class_counts ----------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.dictionaries(st.integers(0, 9), st.integers(1, 60), min_size=1, max_size=5),
    st.one_of(st.none(), st.integers(0, 300)),
    st.sampled_from(["real", "balanced"]),
)
def test_class_counts(real, extra, balance):
    labels = torch.tensor([label for label, count in real.items() for _ in range(count)])
    total = len(labels) if extra is None else len(real) + extra
    numbers = class_counts(labels, num_images=None if extra is None else total, balance=balance)
    assert sum(numbers.values()) == total
    assert sorted(numbers) == sorted(real)
    assert min(numbers.values()) >= 1
    shares = {c: (n / len(labels) if balance == "real" else 1 / len(real)) for c, n in real.items()}
    if min(shares.values()) * total >= 1:
        assert all(abs(numbers[c] - share * total) < 1 for c, share in shares.items())
    else:  # classes too rare for an image get one all the same, at the cost of the most frequent
        assert all(numbers[c] <= shares[c] * total + 1 for c in real)


def test_class_counts_by_hand():
    labels = torch.tensor([0] * 6 + [1] * 3 + [4])
    assert class_counts(labels) == {0: 6, 1: 3, 4: 1}
    assert class_counts(labels, num_images=100) == {0: 60, 1: 30, 4: 10}
    assert class_counts(labels, num_images=30, balance="balanced") == {0: 10, 1: 10, 4: 10}
    assert class_counts(labels, num_images=3) == {0: 1, 1: 1, 4: 1}
    assert class_counts(torch.tensor([0] * 99 + [1]), num_images=2) == {0: 1, 1: 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [({"num_images": 1}, "num_images is 1, but there are 2 classes"), ({"balance": "even"}, "balance is 'even'")],
)
def test_class_counts_errors(options, message):
    with pytest.raises(ConfigError, match=message):
        class_counts(torch.tensor([0, 1]), **options)


# select_points ---------------------------------------------------------------------------------------------------


@st.composite
def path_sets(draw):
    """(labels of paths in any order, T, class → images) with at most as many images as there are inner points."""
    num_points = draw(st.integers(3, 60))
    paths = draw(st.dictionaries(st.integers(0, 5), st.integers(1, 7), min_size=1, max_size=3))
    labels = draw(st.permutations([label for label, count in paths.items() for _ in range(count)]))
    numbers = {label: draw(st.integers(1, count * (num_points - 2))) for label, count in paths.items()}
    return torch.tensor(labels), num_points, numbers


def inner_points(paths, num_points):
    kept = torch.ones(paths, num_points, dtype=torch.bool)
    kept[:, [0, -1]] = False
    return kept


@settings(deadline=None, max_examples=200)
@given(path_sets())
def test_select_points(problem):
    labels, num_points, numbers = problem
    points = select_points(labels, kept=inner_points(len(labels), num_points), num_images=numbers)
    pairs = [tuple(pair) for pair in points.tolist()]
    assert len(set(pairs)) == len(pairs)  # no image twice
    assert all(1 <= point <= num_points - 2 for _, point in pairs)  # never an anchor
    by_path = {path: [p for q, p in pairs if q == path] for path in range(len(labels))}
    for label, number in numbers.items():
        shares = [len(by_path[path]) for path in torch.where(labels == label)[0].tolist()]
        assert sum(shares) == number
        assert max(shares) - min(shares) <= 1  # over all paths
    for chosen in by_path.values():
        gaps = {b - a for a, b in itertools.pairwise(chosen)}
        assert chosen == sorted(chosen)
        assert not gaps or max(gaps) - min(gaps) <= 1  # and evenly along each
        if chosen:
            before, behind = chosen[0] - 1, num_points - 2 - chosen[-1]
            assert abs(before - behind) <= 1


@settings(deadline=None, max_examples=100)
@given(path_sets(), st.randoms(use_true_random=False))
def test_select_points_takes_only_what_is_kept(problem, random):
    labels, num_points, numbers = problem
    kept = inner_points(len(labels), num_points)
    for path, point in kept.nonzero().tolist():
        kept[path, point] = random.random() < 0.6
    there = kept.sum(1)
    numbers = {label: min(number, int(there[labels == label].sum())) for label, number in numbers.items()}
    points = select_points(labels, kept=kept, num_images=numbers)
    assert len({tuple(pair) for pair in points.tolist()}) == len(points)
    assert kept[points[:, 0], points[:, 1]].all()
    shares = torch.bincount(points[:, 0], minlength=len(labels))
    for label, number in numbers.items():
        of_class = labels == label
        assert shares[of_class].sum() == number
        # even, as far as there is something: nobody gives less than another could spare
        unused = shares[of_class & (shares < there)]
        if len(unused):
            assert shares[of_class].max() <= unused.min() + 1


def test_select_points_by_hand():
    labels = torch.tensor([0, 1, 0])
    points = select_points(labels, kept=inner_points(3, 8), num_images={0: 3, 1: 6})
    assert points.tolist() == [[0, 2], [0, 5], [2, 4], *([1, t] for t in range(1, 7))]


# walk ------------------------------------------------------------------------------------------------------------


def test_walks(case):
    anchors = load_artifact(case.files.anchors, kind="anchors")
    paths = load_artifact(case.files.paths, kind="paths")
    assert paths["num_images"] == {0: 4, 1: 3}
    assert [sorted(pair) for pair in paths["pairs"].tolist()] == [[0, 1], [2, 3]]
    assert paths["labels"].tolist() == [0, 1]
    assert paths["paths"].shape == (2, T, 6)
    walk = make_walk(case.generator)
    for (a, b), path, index in zip(paths["pairs"].tolist(), paths["paths"], range(2), strict=True):
        assert torch.equal(path[0], anchors["latents"][a])
        assert torch.equal(path[-1], anchors["latents"][b])
        expected = walk(anchors["latents"][a], anchors["latents"][b], int(anchors["labels"][a]))
        torch.testing.assert_close(path, expected.path, rtol=1e-4, atol=1e-5)
        assert set(paths["losses"]) == {"distance", "identity", "class"}
        for name, values in paths["losses"].items():
            torch.testing.assert_close(values[index], expected.losses[name], rtol=1e-4, atol=1e-5)
    made_by = paths["header"]["made_by"]
    assert WalkSettings.from_dict(made_by["settings"]) == walk.settings
    assert (made_by["seed"], made_by["min_distance_quantile"]) == (0, None)


def many_anchors(tmp_path, count=4):
    """Anchors of their own, so that there are several pairs a class."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * count + [1] * count)
    data = {"latents": torch.randn(2 * count, 6, generator=rng), "labels": labels, "members": [[0]] * 2 * count, "k": K}
    save_artifact(tmp_path / "anchors.pt", kind="anchors", data=data)
    return tmp_path / "anchors.pt"


def test_walk_goes_on_after_a_stop(case, tmp_path):
    options = {
        "anchors_file": many_anchors(tmp_path), "dataset": case.dataset, "output_file": tmp_path / "paths.pt",
        "parts_dir": tmp_path / "parts", "num_images": 24,
    }  # fmt: skip
    killed = Spy(make_walk(case.generator), stop_at=4)
    with pytest.raises(KeyboardInterrupt):
        walk_anchors(walk=killed, **options)
    assert not options["output_file"].exists()
    second = Spy(make_walk(case.generator))
    walk_anchors(walk=second, **options)
    assert len(killed.calls) == 4
    assert len(second.calls) == 2  # 12 images a class at 4 inner points: 3 pairs a class
    result = load_artifact(options["output_file"], kind="paths")
    assert len(result["paths"]) == 6
    done = {(tuple(a.tolist()), tuple(b.tolist())) for a, b, _ in killed.calls + second.calls}
    assert done == {(tuple(p[0].tolist()), tuple(p[-1].tolist())) for p in result["paths"]}
    # every anchor is used
    assert set(result["pairs"].flatten().tolist()) == set(range(8))


@pytest.mark.parametrize("points_per_batch", [8, 1000])  # two pairs at once, all at once
def test_pairs_walked_together_give_the_same_data_set(case, tmp_path, points_per_batch, capfd):
    options = {"anchors_file": many_anchors(tmp_path), "dataset": case.dataset, "num_images": 24}
    for name, walk in (
        ("alone", make_walk(case.generator)),
        ("together", make_walk(case.generator, points_per_batch=points_per_batch)),
    ):
        walk_anchors(walk=walk, output_file=tmp_path / f"{name}.pt", parts_dir=tmp_path / name, **options)
    assert "6.0/6 paths" in capfd.readouterr().err
    alone, together = (load_artifact(tmp_path / f"{name}.pt", kind="paths") for name in ("alone", "together"))
    assert torch.equal(alone["pairs"], together["pairs"])
    torch.testing.assert_close(alone["paths"], together["paths"], rtol=0, atol=5e-3)
    for name, values in alone["losses"].items():
        torch.testing.assert_close(values, together["losses"][name], rtol=1e-3, atol=1e-4)


def test_walk_makes_parts_of_other_anchors_or_settings_anew(case, tmp_path):
    options = {"dataset": case.dataset, "output_file": tmp_path / "paths.pt", "parts_dir": tmp_path / "parts"}
    first = Spy(make_walk(case.generator))
    walk_anchors(walk=first, anchors_file=case.files.anchors, **options)
    same, longer = Spy(make_walk(case.generator)), Spy(make_walk(case.generator, num_points=T + 1))
    walk_anchors(walk=same, anchors_file=case.files.anchors, **options)
    assert same.calls == []
    walk_anchors(walk=longer, anchors_file=case.files.anchors, **options)
    assert len(longer.calls) == len(first.calls)
    term, other_term = (MarginTerm(nn.Flatten(), case.dataset.images[:n], margin=9.0) for n in (2, 3))
    changes = [
        {"beta2": 0.9}, {"normalize": True}, {"terms": {"margin": term}, "lambda_terms": {"margin": 1.0}},
        {"terms": {"margin": term}, "lambda_terms": {"margin": 2.0}},
        {"terms": {"margin": other_term}, "lambda_terms": {"margin": 2.0}},
    ]  # fmt: skip
    for change in changes:
        changed, again = (Spy(make_walk(case.generator, num_points=T + 1, **change)) for _ in range(2))
        walk_anchors(walk=changed, anchors_file=case.files.anchors, **options)
        assert len(changed.calls) == len(first.calls), change
        walk_anchors(walk=again, anchors_file=case.files.anchors, **options)
        assert again.calls == []
    assert set(load_artifact(options["output_file"], kind="paths")["losses"]) == {
        "distance", "identity", "class", "margin",
    }  # fmt: skip
    elsewhere = Spy(make_walk(case.generator, num_points=T + 1))
    walk_anchors(walk=elsewhere, anchors_file=many_anchors(tmp_path, 2), **options)
    assert elsewhere.calls


@pytest.mark.parametrize(
    ("affine", "shared"),
    [
        (torch.eye(4), torch.eye(4)),
        (
            [[-0.7031, 0.01, 0, 171.3], [0.01, -0.7031, 0, -55.2], [0, 0, 2.5, 12.0], [0, 0, 0, 1]],
            torch.diag(torch.tensor([-0.7, -0.7, 2.5, 1.0])),
        ),
        (
            [[0, 0, 3.0, 5], [1.26, 0, 0, 5], [0, -1.04, 0, 5], [0, 0, 0, 1]],
            [[0, 0, 3.0, 0], [1.3, 0, 0, 0], [0, -1.0, 0, 0], [0, 0, 0, 1]],
        ),
    ],
)
def test_the_shared_geometry_has_no_origin_and_no_tilt(affine, shared):
    found = stages._shared_affine(torch.as_tensor(affine).tolist())
    torch.testing.assert_close(torch.tensor(found), torch.as_tensor(shared, dtype=torch.float32))
    assert stages._shared_affine(None) is None


def test_walk_warns_when_there_are_too_few_pairs(case, tmp_path, caplog):
    """One pair a class gives four inner points; ten images a class were asked for."""
    with caplog.at_level(logging.WARNING, logger=stages.__name__):
        walk_anchors(
            walk=make_walk(case.generator), anchors_file=case.files.anchors, dataset=case.dataset,
            output_file=tmp_path / "paths.pt", parts_dir=tmp_path / "parts",
        )  # fmt: skip
    assert len(caplog.records) == 2
    assert "class 0: 10 images were asked for, but 2 anchors give 1 pairs and so 4 images" in caplog.text
    paths = load_artifact(tmp_path / "paths.pt", kind="paths")
    assert paths["num_images"] == {0: 4, 1: 4}
    points = select_points(paths["labels"], kept=paths["kept"], num_images=paths["num_images"])
    assert len({tuple(point) for point in points.tolist()}) == 8


def distances_to_reals(case, paths):
    """[P, T − 2], one by one: of what would be released to the nearest real image."""
    rows = [
        ((image - real).square().sum())
        for path in paths
        for image in synthesize_images(case.generator, path[1:-1])
        for real in case.dataset.images
    ]
    return torch.stack(rows).view(len(paths), paths.shape[1] - 2, -1).min(2).values


def test_points_near_a_real_image_are_dropped_and_further_pairs_walked(case, tmp_path, monkeypatch, caplog):
    options = {"anchors_file": many_anchors(tmp_path), "dataset": case.dataset, "parts_dir": tmp_path / "parts"}
    walk = make_walk(case.generator)
    walk_anchors(walk=walk, output_file=tmp_path / "all.pt", num_images=48, **options)
    everything = load_artifact(tmp_path / "all.pt", kind="paths")
    least = distances_to_reals(case, everything["paths"]).quantile(0.3)
    between = torch.linspace(0, 2, 21) * least  # its median is the distance that parts the points
    monkeypatch.setattr(stages, "nearest_other_images", lambda *_, **__: between)
    options |= {"walk": walk, "embedding": nn.Flatten(), "output_file": tmp_path / "paths.pt"}
    with caplog.at_level(logging.WARNING, logger=stages.__name__):
        walk_anchors(num_images=8, min_distance_quantile=0.5, **options)
    result = load_artifact(tmp_path / "paths.pt", kind="paths")
    expected = torch.zeros_like(result["kept"])
    expected[:, 1:-1] = distances_to_reals(case, result["paths"]) >= least
    assert 0 < expected.sum() < 4 * len(expected)
    assert torch.equal(result["kept"], expected)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert result["num_images"] == {0: 4, 1: 4}
    for label in (0, 1):
        kept = result["kept"][result["labels"] == label].sum(1)
        assert kept.sum() >= 4
        assert len(kept) == 2 or kept[:-1].sum() < 4  # every anchor is used, and no pair more than needed
    assert result["header"]["made_by"]["min_distance_quantile"] == 0.5
    points = select_points(result["labels"], kept=result["kept"], num_images=result["num_images"])
    assert expected[points[:, 0], points[:, 1]].all()
    assert len(points) == 8
    with caplog.at_level(logging.WARNING, logger=stages.__name__):
        walk_anchors(num_images=48, min_distance_quantile=0.5, **options)
    assert "points are far enough from every real image" in caplog.text
    result = load_artifact(tmp_path / "paths.pt", kind="paths")
    assert len(result["paths"]) == 12  # all pairs there are
    assert sum(result["num_images"].values()) == result["kept"].sum()


@pytest.mark.parametrize(
    ("wanted", "found", "walked", "most", "expected"),
    [
        (40, 40, 4, 99, {}),
        (40, 30, 4, 99, {0: 2}),  # 7.5 points a pair: the ten that lack are two pairs
        (40, 30, 4, 5, {0: 1}),  # there are no more
        (40, 2, 4, 99, {0: 4}),  # nobody knows yet: as many again
        (40, 0, 4, 99, {0: 4}),
        (40, 0, 16, 99, {}),  # hopeless
        (40, 1, 16, 99, {0: 16}),
        (40, 30, 4, 4, {}),
    ],
)
def test_how_many_more_pairs(wanted, found, walked, most, expected):
    labels = torch.tensor([0] * walked + [1] * 3)
    more = stages._more_pairs({0: wanted, 1: 5}, {0: found, 1: 5}, labels, {0: most, 1: 9})
    assert more == expected


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"min_distance_quantile": 1.5}, ConfigError, "min_distance_quantile is 1.5"),
        ({"embedding": None}, ConfigError, "there is no embedding to measure a distance by"),
        # Between images of noise lies more than between noise and smooth pictures.
        ({}, TrainingError, "No point of class 0 is as far from every real image as min_distance_quantile = 0.5"),
    ],
)
def test_errors_of_the_check_of_distances(case, tmp_path, changes, error, message):
    options = {"embedding": nn.Flatten(), "min_distance_quantile": 0.5, **changes}
    with pytest.raises(error, match=message):
        walk_anchors(
            walk=make_walk(case.generator), anchors_file=case.files.anchors, dataset=case.dataset,
            output_file=tmp_path / "paths.pt", parts_dir=tmp_path / "parts", num_images=4, **options,
        )  # fmt: skip
    assert not (tmp_path / "paths.pt").exists()


def test_the_check_of_distances_needs_two_subjects(case, tmp_path, monkeypatch):
    monkeypatch.setattr(case.dataset, "identities", torch.zeros_like(case.dataset.identities))
    with pytest.raises(DataError, match="all images are of one subject"):
        walk_anchors(
            walk=make_walk(case.generator), anchors_file=case.files.anchors, dataset=case.dataset,
            output_file=tmp_path / "paths.pt", parts_dir=tmp_path / "parts", num_images=4,
            embedding=nn.Flatten(), min_distance_quantile=0.5,
        )  # fmt: skip


def test_walk_without_a_warning(case, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger=stages.__name__):
        walk_anchors(
            walk=make_walk(case.generator), anchors_file=case.files.anchors, dataset=case.dataset,
            output_file=tmp_path / "paths.pt", parts_dir=tmp_path / "parts", num_images=8, balance="balanced",
        )  # fmt: skip
    assert caplog.records == []


# synthesize ------------------------------------------------------------------------------------------------------


def test_release_holds_the_inner_points(case):
    release = case.files.release
    items = load_decathlon_datalist(str(release / "datalist.json"), is_segmentation=False, data_list_key="training")
    paths = load_artifact(case.files.paths, kind="paths")
    assert Counter(item["label"] for item in items) == {0: 4, 1: 3}
    assert {item["subject"] for item in items} == {"synthetic_000000", "synthetic_000001"}
    points = select_points(paths["labels"], kept=paths["kept"], num_images=paths["num_images"])
    expected = synthesize_images(case.generator, paths["paths"][points[:, 0], points[:, 1]])
    ends = synthesize_images(case.generator, paths["paths"][:, [0, -1]].flatten(0, 1))
    transform = reading(case.dims)
    for item, image, (path, _) in zip(items, expected, points.tolist(), strict=True):
        found = transform({"image": item["image"]})["image"].as_tensor()
        torch.testing.assert_close(found, image, rtol=0, atol=1e-5)
        assert item["label"] == paths["labels"][path]
        assert item["subject"] == f"synthetic_{path:06d}"
        for other in [*case.dataset.images, *ends]:
            assert (found - other).abs().max() > 2 / 255
    if case.dims == 3:
        volume = nibabel.load(items[0]["image"])
        assert volume.shape == (8, 8, 8)
        assert volume.header.get_zooms() == (2.0, 3.0, 4.0)  # the geometry of the real volumes
        assert volume.get_data_dtype() == np.uint8


def test_release_names_no_patient(case):
    """No file name, subject, key or private path in any file of the release."""
    private = {"secret", "patientfile", "private", str(case.files.release.parent), case.files.latents.name}
    private |= set(case.dataset.subjects) | set(case.dataset.keys)
    files = [file for file in case.files.release.rglob("*") if file.is_file()]
    assert len(files) == 7 + 2
    for file in files:
        text = str(file.relative_to(case.files.release)) + file.read_bytes().decode("latin-1")
        assert [name for name in private if name in text] == [], file
    assert {file.suffix for file in files} == {".json", ".md", ".png" if case.dims == 2 else ".nii"}


def test_card(case):
    card = (case.files.release / "dataset_card.md").read_text()
    assert card.startswith("# tiny {synthetic}\n\n7 synthetic images, " + " × ".join(["8"] * case.dims))
    assert "| 0 | normal | 4 |\n| 1 | lesion | 3 |\n" in card
    assert "Made from 20 real images of 10 patients" in card
    assert "2 walks between 4 anchors; an anchor is the average of at least 2 patients" in card.replace("\n  ", " ")
    walk = make_walk(case.generator).settings
    assert f"Walk: {walk}; seed 0. Final check of the distance: none." in " ".join(card.split())
    assert "anonymous" not in card


def test_release_is_replaced_whole(case, tmp_path):
    paths = load_artifact(case.files.paths, kind="paths")
    options = {
        "generator": case.generator, "anchors_file": case.files.anchors, "dataset": case.dataset,
        "release_dir": tmp_path / "release", "name": "tiny",
    }  # fmt: skip
    synthesize(paths_file=case.files.paths, **options)
    paths["num_images"] = {0: 1, 1: 1}
    header = paths.pop("header")
    save_artifact(tmp_path / "paths.pt", kind="paths", data=paths, made_by=header["made_by"])
    synthesize(paths_file=tmp_path / "paths.pt", **options)
    assert len(list((tmp_path / "release" / "images").iterdir())) == 2
    assert "2 synthetic images" in (tmp_path / "release" / "dataset_card.md").read_text()


def test_synthesize_refuses_other_files(case, tmp_path):
    with pytest.raises(ArtifactError, match="holds anchors, but paths was expected"):
        synthesize(
            generator=case.generator, paths_file=case.files.anchors, anchors_file=case.files.anchors,
            dataset=case.dataset, release_dir=tmp_path / "release", name="x",
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []
