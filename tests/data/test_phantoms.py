from __future__ import annotations

import filecmp

import nibabel
import numpy as np
import pytest
import torch
from monai.transforms import Compose, LoadImaged, ScaleIntensityRanged
from torch.nn.functional import avg_pool2d, avg_pool3d

from monai_plan.data import CheckedDataset, make_phantoms, phantom_image, read_datalist
from monai_plan.utils import ConfigError, DataError

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")


@pytest.mark.parametrize(("spatial_dims", "img_size"), [(2, 32), (2, (48, 32)), (3, 16), (3, (16, 20, 24))])
def test_shape_range_and_repeatability(spatial_dims, img_size):
    arguments = {"subject": 3, "image": 1, "label": 1, "img_size": img_size, "spatial_dims": spatial_dims, "seed": 5}
    picture = phantom_image(**arguments)
    size = (img_size,) * spatial_dims if isinstance(img_size, int) else img_size
    assert picture.shape == (1, *size)
    assert picture.dtype == torch.float32
    assert picture.min() >= 0.0
    assert picture.max() <= 1.0
    torch.manual_seed(99)  # the global state plays no part
    assert torch.equal(picture, phantom_image(**arguments))
    for other in ({"subject": 4}, {"image": 2}, {"label": 0}, {"seed": 6}):
        assert not torch.equal(picture, phantom_image(**{**arguments, **other}))


@pytest.mark.parametrize(("spatial_dims", "pool"), [(2, avg_pool2d), (3, avg_pool3d)])
def test_another_size_shows_the_same_anatomy(spatial_dims, pool):
    differences = []
    for subject in range(4):
        small, large = (
            phantom_image(subject=subject, image=0, label=1, img_size=n, spatial_dims=spatial_dims) for n in (24, 48)
        )
        differences.append((pool(large[None], 2)[0] - small).abs().mean())
    assert max(differences) < 0.02  # noise alone makes 0.009; another subject 0.06 or more
    other = phantom_image(subject=9, image=0, label=1, img_size=24, spatial_dims=spatial_dims)
    assert (other - small).abs().mean() > 2 * max(differences)


@pytest.mark.parametrize(("spatial_dims", "img_size"), [(2, 32), (2, 64), (3, 24)])
def test_the_lesion_is_one_bright_blob_in_a_lung(spatial_dims, img_size):
    for subject in range(12):
        without, with_lesion = (
            phantom_image(subject=subject, image=0, label=label, img_size=img_size, spatial_dims=spatial_dims)[0]
            for label in (0, 1)
        )
        change = with_lesion - without
        blob = change > 0.2
        assert change.min() > -0.05
        # A ball of radius 0.10 to 0.14 half fields of view, 1.6 times that in 3D; its soft edge gives the margin.
        radius = (
            (blob.sum() / torch.pi).sqrt() if spatial_dims == 2 else (blob.sum() * 3 / (4 * torch.pi)) ** (1 / 3)
        ) * (2 / img_size)
        assert 0.06 < radius < (0.18 if spatial_dims == 2 else 0.27)
        assert without[blob].mean() < 0.5  # lung below it, be it crossed by a rib
        assert with_lesion[blob].max() > 0.7
        distances = (blob.nonzero() - blob.nonzero().float().mean(0)).norm(dim=1) * (2 / img_size)
        assert distances.max() < 0.30


def test_images_of_a_subject_resemble_each_other_more_than_those_of_others():
    pictures = [[phantom_image(subject=s, image=i, label=0, img_size=32) for i in range(3)] for s in range(20)]
    stack = torch.stack([p for of_subject in pictures for p in of_subject]).flatten(1)
    stack = (stack - stack.mean(1, keepdim=True)) / stack.std(1, keepdim=True)
    distance = torch.cdist(stack, stack)
    identity = torch.arange(20).repeat_interleave(3)
    same = identity[:, None] == identity[None]
    within = distance[same & ~torch.eye(60, dtype=torch.bool)].mean()
    between = distance[~same].mean()
    assert within < 0.75 * between
    distance.fill_diagonal_(torch.inf)
    assert (identity[distance.argmin(1)] == identity).float().mean() > 0.8  # chance is 0.03


@pytest.mark.parametrize(
    "change", [{"label": 2}, {"spatial_dims": 4}, {"img_size": (32, 32, 32)}, {"img_size": 4}, {"img_size": (32, 0)}]
)
def test_impossible_phantoms(change):
    with pytest.raises(ConfigError):
        phantom_image(**{"subject": 0, "image": 0, "label": 0, "img_size": 32, **change})


@pytest.mark.parametrize(("spatial_dims", "suffix"), [(2, ".png"), (3, ".nii")])
def test_population(tmp_path, spatial_dims, suffix):
    arguments = {
        "spatial_dims": spatial_dims,
        "img_size": 16,
        "num_subjects": 7,
        "num_test_subjects": 4,
        "num_known_images": 2,
        "seed": 1,
    }
    path = make_phantoms(tmp_path / "a", **arguments)
    datalist = read_datalist(path)
    training, test, known = (datalist.sections[name] for name in ("training", "test", "test_known"))
    by_subject = {name: [i["subject"] for i in items] for name, items in datalist.sections.items()}
    assert len(set(by_subject["training"])) == 7
    assert len(set(by_subject["test"])) == 4
    assert set(by_subject["test_known"]) == set(by_subject["training"])
    assert all(by_subject["test_known"].count(subject) == 2 for subject in by_subject["training"])
    assert all(1 <= by_subject["training"].count(subject) <= 4 for subject in by_subject["training"])
    for items, carriers in ((training, 3), (test, 2)):
        assert len({item["subject"] for item in items if item["label"] == 1}) == carriers
    labels = {item["subject"]: item["label"] for item in training}
    assert all(labels[item["subject"]] == item["label"] for item in known)
    assert all(item["image"].endswith(suffix) for item in training)
    listed = {item["key"] for items in datalist.sections.values() for item in items}
    assert listed == {f"images/{file.name}" for file in (tmp_path / "a/images").iterdir()}

    again = make_phantoms(tmp_path / "b", **arguments)
    assert path.read_bytes() == again.read_bytes()
    names = [file.name for file in (tmp_path / "a/images").iterdir()]
    assert filecmp.cmpfiles(tmp_path / "a/images", tmp_path / "b/images", names, shallow=False)[0] == names

    data = CheckedDataset(
        datalist_file=path,
        transform=Compose(
            [LoadImaged("image", ensure_channel_first=True), ScaleIntensityRanged("image", 0, 255, -1, 1)]
        ),
        img_size=(16,) * spatial_dims,
        img_channels=1,
        num_classes=2,
    )
    first = phantom_image(
        subject=0, image=0, label=data[0]["label"], img_size=16, spatial_dims=spatial_dims, seed=arguments["seed"]
    )
    assert ((data[0]["image"] + 1) / 2 - first).abs().max() <= 0.5 / 255 + 1e-6


def test_a_smaller_population_replaces_a_larger_one_but_never_foreign_images(tmp_path):
    make_phantoms(tmp_path / "out", img_size=8, num_subjects=6, num_test_subjects=0)
    make_phantoms(tmp_path / "out", img_size=8, num_subjects=2, num_test_subjects=0, images_per_subject=(1, 1))
    assert len(list((tmp_path / "out/images").iterdir())) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    (tmp_path / "out/images/patient.png").write_bytes(b"precious")
    with pytest.raises(DataError, match=r"patient\.png"):
        make_phantoms(tmp_path / "out", img_size=8, num_subjects=2)
    assert (tmp_path / "out/images/patient.png").read_bytes() == b"precious"


def test_the_axes_of_a_volume(tmp_path):
    path = make_phantoms(tmp_path, spatial_dims=3, img_size=16, num_subjects=2, num_test_subjects=0)
    volume = nibabel.load(read_datalist(path).sections["training"][0]["image"])
    assert nibabel.aff2axcodes(volume.affine) == ("L", "P", "I")
    assert np.allclose(volume.header.get_zooms(), 320 / 16)
    pixels = volume.get_fdata()
    assert pixels[:, :, -1].mean() > 2 * pixels[:, :, 0].mean()  # the trunk is wider than the neck: last is the foot


@pytest.mark.parametrize(
    "change",
    [{"num_subjects": 1}, {"num_test_subjects": -1}, {"images_per_subject": (0, 2)}, {"images_per_subject": (3, 2)}],
)
def test_impossible_populations(tmp_path, change):
    with pytest.raises(ConfigError):
        make_phantoms(tmp_path, img_size=8, **change)
