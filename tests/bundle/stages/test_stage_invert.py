"""The inversion of a data set by parts, stopped, shared over ranks, in 2D and 3D."""

from __future__ import annotations

import json
import logging

import ignite.distributed as idist
import pytest
import torch
import torch.multiprocessing as mp
from stage_fakes import (
    K,
    Spy,
    average,
    invert,
    make_dataset,
    make_generator,
    make_inverter,
    out_files,
    reading,
)
from torch import nn

import monai_plan.bundle.stages.invert as invert_module
from monai_plan.bundle.stages import TrainIdentityStage, reproduction_distances
from monai_plan.data import CheckedDataset
from monai_plan.engines import ClassifierSettings
from monai_plan.latent import InversionSettings
from monai_plan.utils import load_artifact


def test_invert_gives_what_the_inverter_gives(case):
    data = load_artifact(case.files.latents, kind="latents")
    dataset = case.dataset
    expected = make_inverter(case.generator)(dataset.images[:], dataset.labels, dataset.keys)
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


@pytest.mark.parametrize("content", [b"", b"half"])
def test_a_damaged_part_is_made_again(case, tmp_path, content, caplog):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "part_000000.pt").write_bytes(content)
    invert(inverter=make_inverter(case.generator), dataset=case.dataset, **out_files(tmp_path))
    assert len([record for record in caplog.records if "part_000000.pt is damaged" in record.getMessage()]) == 1
    result, whole = (load_artifact(file, kind="latents") for file in (tmp_path / "latents.pt", case.files.latents))
    assert torch.equal(result["latents"], whole["latents"])


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_what_counts_as_reproduced(spatial_dims, tmp_path):
    """Latents are images here: a copy is reproduced, also where the patient has a second image just like it."""
    dataset = make_dataset(tmp_path, spatial_dims)
    dataset.images = dataset.images[:]
    latents = dataset.images.flatten(1).clone()
    dataset.images[1] = dataset.images[0]  # of the same subject
    latents[2] = dataset.images[5].flatten()  # another patient's image
    latents[3] = 0.9 * latents[3]

    class Identity(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))
            self.img_channels, *self.img_size = dataset.images.shape[1:]

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
    monkeypatch.setattr(invert_module, "reproduction_distances", lambda *_, **__: distances)
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
    average(latents_file=tmp_path / "latents.pt", output_file=tmp_path / "anchors.pt", k=K)
    anchors = load_artifact(tmp_path / "anchors.pt", kind="anchors")
    assert anchors["latents"].shape == (len(anchors["labels"]), layers, 6)
    best = data["latents"][torch.arange(20), data["best"]]
    for latent, members in zip(anchors["latents"], anchors["members"], strict=True):
        torch.testing.assert_close(latent, best[members].mean(0))  # all patients have as many images
    stage = TrainIdentityStage(
        generator=case.generator, latents_file=tmp_path / "latents.pt", dataset=case.dataset, network=nn.Identity,
        settings=ClassifierSettings(1), augment=None, output_file=tmp_path / "net.pt", work_dir=tmp_path,
    )  # fmt: skip
    (images, _), _ = stage.data()
    with torch.no_grad():
        expected = case.generator.synthesis(data["latents"][:, 0]).clamp(-1, 1)
    assert (images[20:] - expected).abs().max() <= 1 / 255 + 1e-6


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
    idist.barrier()
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
