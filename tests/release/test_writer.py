from __future__ import annotations

import nibabel
import numpy as np
import pytest
import torch
from monai.data import load_decathlon_datalist
from monai.transforms import Compose, LoadImaged, ScaleIntensityRanged
from PIL import Image

import monai_plan.data.writers as writers
import monai_plan.release.writer as release_writer
from monai_plan.data import CheckedDataset, read_datalist, write_image
from monai_plan.release import shared_affine, write_synthetic
from monai_plan.utils import ConfigError, DataError

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")

AFFINE = [[-2.0, 0.0, 0.0, 5.0], [0.0, 3.0, 0.0, 6.0], [0.0, 0.0, 4.0, 7.0], [0.0, 0.0, 0.0, 1.0]]
SHAPES = [(1, 8, 10), (3, 8, 10), (1, 6, 8, 10)]


def images(count, shape, seed=0):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def synthetic(folder, batch, **change):
    count = len(batch)
    arguments = {
        "labels": [n % 2 for n in range(count)],
        "label_names": {0: "normal", 1: "lesion"},
        "groups": [n // 2 for n in range(count)],
        "name": "synthetic",
        "description": "A test.",
    }
    return write_synthetic(folder, images=batch, **{**arguments, **change})


@pytest.mark.parametrize("shape", SHAPES)
def test_round_trip_through_monai(tmp_path, shape):
    batch = images(5, shape)
    path = synthetic(tmp_path / "release", batch, affine=AFFINE)
    transform = Compose([LoadImaged("image", ensure_channel_first=True), ScaleIntensityRanged("image", 0, 255, -1, 1)])
    loaded = load_decathlon_datalist(path, is_segmentation=False)
    assert [item["label"] for item in loaded] == [0, 1, 0, 1, 0]
    for item, image in zip(loaded, batch, strict=True):
        back = transform(item)["image"]
        assert back.shape == shape  # the same axes in the same order
        assert (back.as_tensor() - image).abs().max() <= 1.001 / 255
        assert np.allclose(back.affine, AFFINE) == (len(shape) == 4)
    data = CheckedDataset(
        datalist_file=path, transform=transform, img_size=shape[1:], img_channels=shape[0], num_classes=2
    )
    assert data.subjects == ["synthetic_000000"] * 2 + ["synthetic_000001"] * 2 + ["synthetic_000002"]


def test_real_and_written_png_have_the_same_orientation(tmp_path):
    rows = np.random.default_rng(0).integers(0, 256, (6, 9), dtype=np.uint8)
    Image.fromarray(rows).save(tmp_path / "real.png")
    seen = LoadImaged("image", ensure_channel_first=True)({"image": tmp_path / "real.png"})["image"]
    write_image(tmp_path / "written.png", seen.as_tensor() / 255.0)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "written.png")), rows)


def test_values_are_rounded_and_clipped(tmp_path):
    batch = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0, 1.0 - 1.0 / 255]).reshape(1, 1, 6, 1)
    synthetic(tmp_path, batch)
    assert np.asarray(Image.open(tmp_path / "images/000000.png"))[0].tolist() == [0, 0, 128, 255, 255, 254]


def test_groups_lose_their_names(tmp_path):
    path = synthetic(tmp_path, images(3, (1, 4, 4)), groups=["patient_Smith", "patient_Jones", "patient_Smith"])
    assert "patient" not in path.read_text()
    subjects = [item["subject"] for item in read_datalist(path).sections["training"]]
    assert subjects[0] == subjects[2] != subjects[1]


def test_an_earlier_release_is_replaced_and_other_files_stay(tmp_path):
    synthetic(tmp_path / "release", images(6, (1, 4, 4)))
    (tmp_path / "release/card.md").write_text("card")
    synthetic(tmp_path / "release", images(2, (1, 4, 4), seed=1))
    assert sorted(path.name for path in (tmp_path / "release/images").iterdir()) == ["000000.png", "000001.png"]
    assert (tmp_path / "release/card.md").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["release"]


def test_a_killed_run_leaves_the_earlier_release(tmp_path, monkeypatch):
    batch = images(3, (1, 4, 4))
    path = synthetic(tmp_path / "release", batch)
    before = path.read_bytes()
    calls = []

    def killed(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return write_image(*args, **kwargs)

    monkeypatch.setattr(release_writer, "write_image", killed)
    with pytest.raises(KeyboardInterrupt):
        synthetic(tmp_path / "release", images(2, (1, 4, 4), seed=1))
    assert path.read_bytes() == before
    assert len(list((tmp_path / "release/images").iterdir())) == 3
    # Killed so hard that nothing could be tidied up: the next run starts from an empty folder.
    (tmp_path / ".release.tmp/images").mkdir(parents=True)
    (tmp_path / ".release.tmp/images/999999.png").write_bytes(b"")
    monkeypatch.undo()
    synthetic(tmp_path / "release", images(2, (1, 4, 4), seed=1))
    assert len(list((tmp_path / "release/images").iterdir())) == 2


@pytest.mark.parametrize("moves", [0, 1, 2])
def test_killed_while_moving_in_there_is_no_data_list(tmp_path, monkeypatch, moves):
    synthetic(tmp_path / "release", images(3, (1, 4, 4)))
    replace, made = writers.os.replace, []

    def killed(source, target):
        if len(made) == moves:
            raise KeyboardInterrupt
        made.append(target)
        replace(source, target)

    batch = images(2, (1, 4, 4), seed=1)
    with monkeypatch.context() as patch:
        patch.setattr(release_writer, "write_datalist", lambda path, **_: path.write_text("{}"))
        patch.setattr(writers.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            synthetic(tmp_path / "release", batch)
    assert not (tmp_path / "release/datalist.json").exists()
    path = synthetic(tmp_path / "release", batch)
    assert len(read_datalist(path).sections["training"]) == len(list((tmp_path / "release/images").iterdir())) == 2


def test_a_foreign_data_set_is_not_overwritten(tmp_path):
    (tmp_path / "datalist.json").write_text('{"labels": {}, "training": [{"image": "images/p7.png", "label": 0}]}')
    with pytest.raises(DataError, match=r"p7\.png.*another output folder"):
        synthetic(tmp_path, images(2, (1, 4, 4)))


@pytest.mark.parametrize(
    ("batch", "change", "error", "message"),
    [
        (images(2, (1, 4, 4)), {"labels": [0]}, ConfigError, "1 labels"),
        (images(2, (1, 4, 4)), {"groups": [0]}, ConfigError, "1 groups"),
        (images(0, (1, 4, 4)), {}, ConfigError, "at least one"),
        (images(2, (1, 4, 4)), {"labels": [0, 5]}, ConfigError, "Label 5"),
        (images(2, (2, 4, 4)), {}, ConfigError, "PNG"),
        (images(2, (3, 4, 4, 4)), {}, ConfigError, "NIfTI"),
        (images(2, (1, 4, 4)) / 0.0, {}, DataError, "image 0.*2 of 2"),
    ],
)
def test_what_cannot_be_written(tmp_path, batch, change, error, message):
    with pytest.raises(error, match=message):
        synthetic(tmp_path / "release", batch, **change)
    assert list(tmp_path.iterdir()) == []


def test_volumes_without_an_affine_get_the_identity(tmp_path):
    synthetic(tmp_path, images(1, (1, 4, 5, 6)), labels=torch.tensor([0]))
    assert np.array_equal(nibabel.load(tmp_path / "images/000000.nii").affine, np.eye(4))


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
    found = shared_affine(torch.as_tensor(affine)[None])
    torch.testing.assert_close(torch.tensor(found), torch.as_tensor(shared, dtype=torch.float32))


def test_the_shared_geometry_is_that_of_most_patients():
    fine, odd = torch.diag(torch.tensor([0.46875, 0.46875, 0.05, 1.0])), torch.diag(torch.tensor([-3.3, 2.7, 1.9, 1.0]))
    odd[:3, 3] = 77.0
    for order in ([odd, fine, fine], [fine, odd, fine], [fine, fine, odd]):
        found = torch.tensor(shared_affine(torch.stack(order)))
        torch.testing.assert_close(found, torch.diag(torch.tensor([0.4688, 0.4688, 0.05, 1.0])))
    # where all differ, none leaves as it is
    each = torch.stack([torch.diag(torch.tensor([1 + 0.01234 * n, 0.5, 2.0 + n, 1.0])) for n in range(9)])
    assert shared_affine(each) == torch.diag(torch.tensor([1.0, 0.5, 6.0, 1.0])).tolist()
    each[:, 1, 1] = 0.46875  # but what most share along one axis is nobody's own
    assert shared_affine(each)[1][1] == 0.4688
