"""The bank and the data set of a release."""

from __future__ import annotations

import json
import pickle
from copy import deepcopy
from multiprocessing.reduction import ForkingPickler

import nibabel
import numpy as np
import pytest
import torch
from monai.data import load_decathlon_datalist, set_track_meta
from monai.transforms import LoadImage
from PIL import Image

from monai_plan.release import SyntheticBank, SyntheticDataset, read_release, write_synthetic
from monai_plan.utils import DataError

AFFINE = [[-2.0, 0.0, 0.0, 5.0], [0.0, 3.0, 0.0, 6.0], [0.0, 0.0, 4.0, 7.0], [0.0, 0.0, 0.0, 1.0]]
SHAPES = pytest.mark.parametrize("shape", [(1, 8, 10), (3, 8, 10), (1, 4, 5, 6)])


@pytest.fixture
def make_release(tmp_path):
    def make(shape=(1, 8, 10), labels=(0, 1, 0, 1, 1), seed=0):
        noise = torch.rand(len(labels), *shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
        write_synthetic(
            tmp_path / "release",
            images=noise,
            labels=labels,
            label_names={0: "normal", 1: "lesion"},
            groups=[n // 2 for n in range(len(labels))],
            affine=AFFINE,
            name="synthetic",
            description="A test.",
        )
        return tmp_path / "release"

    return make


@SHAPES
def test_monais_switch_to_plain_tensors_changes_nothing(make_release, shape):
    release = make_release(shape)
    before = read_release(release)
    set_track_meta(False)
    try:
        after, banks = read_release(release), [SyntheticBank(release, cache=cache) for cache in (False, True)]
        assert torch.equal(before.images, after.images)
        assert np.array_equal(before.affine, after.affine)
        for bank in banks:
            assert torch.equal(torch.stack([bank.image(n) for n in range(5)]), before.stored_images())
            assert np.array_equal(bank.affine, before.affine)
    finally:
        set_track_meta(True)
    assert np.array_equal(before.affine, AFFINE if len(shape) == 4 else np.eye(4))


@SHAPES
@pytest.mark.parametrize("how", ["read", "cached", "mapped"])
def test_a_bank_gives_what_load_image_gives(make_release, tmp_path, shape, how):
    release = make_release(shape)
    options = {"read": {}, "cached": {"cache": True}, "mapped": {"cache_dir": tmp_path / "cache"}}[how]
    bank = SyntheticBank(release, **options)
    items = load_decathlon_datalist(release / "datalist.json", is_segmentation=False)
    assert bank.labels == [item["label"] for item in items]
    assert bank.label_names == {0: "normal", 1: "lesion"}
    assert bank.groups == [f"synthetic_{n // 2:06d}" for n in range(5)]
    assert (bank.spatial_dims, bank.img_size, bank.img_channels) == (len(shape) - 1, shape[1:], shape[0])
    for copy in (bank, pickle.loads(pickle.dumps(bank)), deepcopy(bank)):
        for index, item in enumerate(items):
            loaded = LoadImage(ensure_channel_first=True)(item["image"])
            assert copy.path(index) == copy.name(index) == item["image"]
            assert copy.image(index).dtype == torch.uint8
            assert torch.equal(copy.image(index).float(), loaded.as_tensor())
            assert np.array_equal(copy.affine, loaded.affine)


def test_a_mapped_bank_is_decoded_once_and_pickled_without_its_images(make_release, tmp_path):
    release, cache = make_release((1, 64, 64)), tmp_path / "cache"
    first = SyntheticBank(release, cache_dir=cache)
    (file,) = cache.iterdir()
    written = file.stat().st_mtime_ns
    second = SyntheticBank(release, cache_dir=cache)
    assert file.stat().st_mtime_ns == written
    assert torch.equal(first.image(3), second.image(3))
    assert len(pickle.dumps(first)) < 5 * 64 * 64 < len(pickle.dumps(SyntheticBank(release, cache=True)))
    assert first.digest[:32] in file.name
    for bank in (first, SyntheticBank(release, cache=True)):
        assert len(ForkingPickler.dumps(bank)) < 5 * 64 * 64  # spawned workers share the images
    make_release((1, 64, 64), seed=1)
    assert SyntheticBank(release, cache_dir=cache).digest != first.digest
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("content", [b"", b"damaged", np.lib.format.magic(1, 0) + b"\x10\x00{"])
def test_a_damaged_cache_file_is_named(make_release, tmp_path, content):
    release = make_release()
    SyntheticBank(release, cache_dir=tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(content)
    with pytest.raises(DataError, match=rf"{file.name}.*delete it"):
        SyntheticBank(release, cache_dir=tmp_path / "cache")
    np.save(file, np.zeros((5, 1, 8, 9), np.uint8))
    with pytest.raises(DataError, match=r"\(5, 1, 8, 9\).*delete it"):
        SyntheticBank(release, cache_dir=tmp_path / "cache")


def test_the_digest_changes_with_pixels_and_labels(make_release):
    release = make_release()
    digests = [SyntheticBank(release).digest, SyntheticBank(release, cache=True).digest]
    assert len(set(digests)) == 1
    content = json.loads((release / "datalist.json").read_text())
    content["training"][0]["label"] = 1
    (release / "datalist.json").write_text(json.dumps(content))
    digests.append(SyntheticBank(release).digest)
    pixels = np.asarray(Image.open(release / "images/000002.png")).copy()
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(release / "images/000002.png")
    digests.append(SyntheticBank(release).digest)
    assert len(set(digests)) == 3


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "datalist.json").unlink(), "holds no datalist.json.*give the folder of a release"),
        (lambda folder: (folder / "datalist.json").write_text("{"), "cannot be read as a data list"),
        (
            lambda folder: (folder / "datalist.json").write_text('{"labels": {"0": "normal"}, "training": []}'),
            "no samples",
        ),
        (lambda folder: (folder / "images/000003.png").unlink(), r"000003\.png.*1 of 5 are missing"),
        (lambda folder: (folder / "images/000003.png").write_bytes(b"no image"), r"000003\.png cannot be read"),
        (
            lambda folder: Image.new("L", (8, 11)).save(folder / "images/000003.png"),
            r"000003\.png has the shape \[1, 8, 11\].*\[1, 8, 10\]",
        ),
        (lambda folder: Image.new("RGB", (8, 10)).save(folder / "images/000003.png"), r"\[3, 8, 10\]"),
    ],
)
def test_a_bad_release_is_an_error_at_construction(make_release, damage, message, cache):
    release = make_release()
    damage(release)
    with pytest.raises(DataError, match=message):
        SyntheticBank(release, cache=cache)


def test_volumes_of_another_geometry_are_an_error_at_construction(make_release):
    release = make_release((1, 4, 5, 6))
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6), np.uint8), np.eye(4)), release / "images/000001.nii")
    with pytest.raises(DataError, match=r"000001\.nii.*their affines differ"):
        SyntheticBank(release)


def test_what_only_decoding_shows_is_found_where_images_are_decoded(make_release):
    release = make_release()
    file = release / "images/000003.png"
    file.write_bytes(file.read_bytes()[:-30])
    bank = SyntheticBank(release)
    with pytest.raises(DataError, match=r"000003\.png cannot be read"):
        bank.image(3)
    with pytest.raises(DataError, match=r"000003\.png cannot be read"):
        SyntheticBank(release, cache=True)
    Image.new("L", (80, 100)).save(file)  # after the headers were read
    with pytest.raises(DataError, match=r"000003\.png is no longer an image of 1 x \[8, 10\] values"):
        bank.image(3)


def test_the_data_set_of_a_release(make_release):
    release = make_release()
    data = SyntheticDataset(release)
    assert data[1] == {"image": str(release / "images/000001.png"), "label": 1, "subject": "synthetic_000000"}
    assert len(data) == 5
    loaded = SyntheticDataset(release, lambda item: LoadImage(ensure_channel_first=True)(item["image"]))
    assert loaded[1].shape == (1, 8, 10)
    (release / "images/000001.png").unlink()
    with pytest.raises(DataError, match="1 of 5"):
        SyntheticDataset(release)
