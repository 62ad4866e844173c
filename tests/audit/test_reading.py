"""What is read of releases that others made: one class, other files, damaged ones, and patients who are one."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from monai_plan.audit.reading import read_real, read_released
from monai_plan.data import make_phantoms, write_image
from monai_plan.utils import DataError


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reading")
    return make_phantoms(folder, img_size=16, num_subjects=6, num_test_subjects=4, images_per_subject=(1, 1))


@pytest.fixture(scope="module")
def members(real, tmp_path_factory):
    return read_real(real, work_dir=tmp_path_factory.mktemp("work"))[0]


def release(folder, count=3, labels=None):
    (folder / "images").mkdir(parents=True)
    for number in range(count):
        picture = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(number))
        write_image(folder / "images" / f"{number}.png", picture)
    if labels is not None:
        items = [{"image": f"images/{number}.png", "label": label} for number, label in enumerate(labels)]
        (folder / "datalist.json").write_text(json.dumps({"labels": {"0": "a", "5": "b"}, "training": items}))
    return folder


def test_a_release_of_one_class_is_read_with_its_names(members, tmp_path):
    read = read_released(release(tmp_path / "r", labels=[5, 5, 5]), like=members, work_dir=tmp_path)
    assert read.labels.tolist() == [5, 5, 5]
    assert read.label_names == {0: "a", 5: "b"}
    assert read.keys == ["images/0.png", "images/1.png", "images/2.png"]
    assert not read.has_subjects
    assert len(set(read.subjects)) == 3
    assert read.unlisted == []


@pytest.mark.parametrize("odd", [17, 0])
@pytest.mark.parametrize("deep", [False, True])
def test_one_file_of_another_depth_is_read_by_its_own(real, members, tmp_path, deep, odd):
    """A copy with 16 bits among many files of 8, or of 16 of which 12 are in use, is no white image."""
    folder = release(tmp_path / "r", count=40)
    if deep:
        for file in (folder / "images").iterdir():
            Image.fromarray(np.asarray(Image.open(file)).astype("uint16") * 16).save(file)
    copied = np.asarray(Image.open(real.parent / members.keys[0]))
    Image.fromarray(copied.astype("uint16") * 257).save(folder / "images" / f"{odd}.png")
    read = read_released(folder, like=members, work_dir=tmp_path)
    copy = read.images[read.keys.index(f"images/{odd}.png")]
    assert (copy - members.images[0]).abs().max() < 0.01
    assert all(image.std() > 0.01 for image in read.images), "dark at most, none white"
    assert read.depths == (["16 bits"] if deep else ["16 bits", "8 bits"])


@pytest.mark.parametrize("own", [12, 8])
def test_a_file_that_uses_few_of_its_bits_is_not_dark_beside_files_that_use_all(real, members, tmp_path, own):
    folder = release(tmp_path / "r", count=40)
    for file in (folder / "images").iterdir():
        Image.fromarray(np.asarray(Image.open(file)).astype("uint16") * 257).save(file)
    copied = np.asarray(Image.open(real.parent / members.keys[0])).astype("uint16")
    Image.fromarray(copied * 16 if own == 12 else copied).save(folder / "images" / "17.png")
    read = read_released(folder, like=members, work_dir=tmp_path)
    assert read.depths == ["16 bits"]
    assert (read.images[read.keys.index("images/17.png")] - members.images[0]).abs().max() < 0.01
    dim = Image.fromarray(copied * 64)  # 14 of 16 bits may as well be a dim picture
    dim.save(folder / "images" / "17.png")
    read = read_released(folder, like=members, work_dir=tmp_path)
    assert read.images[read.keys.index("images/17.png")].max() < -0.4


def test_what_lies_beside_and_elsewhere_is_counted_and_not_named(members, tmp_path):
    folder = release(tmp_path / "r", labels=[0, 0, 0])
    for name in ("more.npy", "about.md"):
        (folder / name).write_bytes(b"x")
    (tmp_path / "Anna.png").write_bytes(b"")
    content = json.loads((folder / "datalist.json").read_text())
    (folder / "images" / "1.png").write_bytes(b"")
    content["training"] = [{"image": str(folder / item["image"]), "label": 0} for item in content["training"]]
    content["training"].append({"image": str(tmp_path / "Anna.png"), "label": 0})
    (folder / "datalist.json").write_text(json.dumps(content))
    read = read_released(folder, like=members, work_dir=tmp_path / "work", skip_bad_images=True)
    assert read.skipped == ["images/1.png", ""]
    assert read.unread == [".npy"]


def test_the_folder_of_the_real_images_is_taken_as_its_data_list(real, members, tmp_path):
    assert read_real(real.parent, work_dir=tmp_path)[0].keys == members.keys


def test_images_that_the_list_leaves_out_are_told(members, tmp_path):
    read = read_released(release(tmp_path / "r", labels=[0]), like=members, work_dir=tmp_path)
    assert len(read.images) == 1
    assert [file.rsplit("/", 1)[-1] for file in read.unlisted] == ["1.png", "2.png"]


def test_a_damaged_image_is_refused_or_left_out_by_name(members, tmp_path):
    folder = release(tmp_path / "r")
    (folder / "images" / "1.png").write_bytes(b"")
    (folder / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match=r"1\.png"):
        read_released(folder, like=members, work_dir=tmp_path)
    read = read_released(folder, like=members, work_dir=tmp_path, skip_bad_images=True)
    assert read.skipped == ["images/1.png"]
    assert read.keys == ["images/0.png", "images/2.png"]
    assert len(read.images) == len(read.files) == len(read.digests) == 2


def test_a_folder_without_an_image_is_refused(members, tmp_path):
    (tmp_path / "r").mkdir()
    with pytest.raises(DataError, match=r"neither datalist\.json nor images"):
        read_released(tmp_path / "r", like=members, work_dir=tmp_path)


def test_patients_who_share_a_picture_are_one_and_held_out_copies_are_left_out(real, tmp_path):
    content = json.loads(real.read_text())
    first, second = content["training"][0], content["training"][1]
    for place, item in (("again.png", second), ("test.png", content["test"][0])):
        shutil.copy(real.parent / first["image"], tmp_path / place)
        item["image"] = str(tmp_path / place)
    for item in (item for side in ("training", "test") for item in content[side]):
        item["image"] = str(real.parent / item["image"])
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    members, held_out = read_real(tmp_path / "datalist.json", work_dir=tmp_path / "work")
    assert len(members.images) == 6
    assert len(set(members.subjects)) == 5
    assert len(held_out.images) == 3
    assert not set(members.digests) & set(held_out.digests)


@pytest.mark.parametrize("size", [24, (24, 16)])
def test_the_real_images_are_brought_to_the_size_that_is_asked_for(real, tmp_path, size):
    for side in read_real(real, work_dir=tmp_path, img_size=size):
        assert tuple(side.images.shape[2:]) == ((24, 24) if size == 24 else size)
