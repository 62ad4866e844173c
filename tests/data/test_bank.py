"""The bank and the data set of a release, and mixtures with real items."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from copy import deepcopy
from multiprocessing.reduction import ForkingPickler

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import load_decathlon_datalist
from monai.transforms import LoadImage
from PIL import Image

from monai_plan.data import SyntheticBank, SyntheticDataset, mix, write_synthetic
from monai_plan.data.bank import dealt
from monai_plan.utils import ConfigError, DataError

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
    Image.fromarray(np.full((10, 8), 300, np.uint16)).save(file)
    with pytest.raises(DataError, match=r"000003\.png is not an image of 1 x \[8, 10\] values of 8 bits"):
        SyntheticBank(release, cache=True)


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


@given(places=st.integers(1, 40), size=st.integers(1, 12), seed=st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_dealing_uses_all_before_any_twice_and_depends_on_the_seed_alone(places, size, seed):
    hand = [dealt(place, size, seed=seed, key=("a", 1)) for place in range(places)]
    assert hand == [dealt(place, size, seed=seed, key=("a", 1)) for place in reversed(range(places))][::-1]
    for first in range(0, places, size):
        turn = hand[first : first + size]
        assert len(set(turn)) == len(turn)
        assert set(turn) <= set(range(size))


def test_dealing_shuffles_every_turn_anew():
    hand = [dealt(place, 50, seed=0, key=()) for place in range(150)]
    turns = [hand[:50], hand[50:100], hand[100:], [dealt(place, 50, seed=1, key=()) for place in range(50)]]
    assert len({tuple(turn) for turn in turns}) == 4
    assert list(range(50)) not in turns


def real_items(sizes, **extra):
    """Items of patients 0, 1, …, with so many images of each class."""
    return [
        {"image": f"{patient}_{label}_{n}.png", "label": label, "subject": f"p{patient}", **extra}
        for patient, of_patient in enumerate(sizes)
        for label, count in of_patient.items()
        for n in range(count)
    ]


def synthetic_items(counts):
    return [{"image": f"s{label}_{n}.png", "label": label} for label, count in counts.items() for n in range(count)]


patients = st.lists(
    st.dictionaries(st.sampled_from([0, 1]), st.integers(1, 3), min_size=1, max_size=2), min_size=1, max_size=12
)


@given(
    sizes=patients, ratio=st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0]), pool=st.integers(1, 6), seed=st.integers(0, 3)
)
@settings(max_examples=60, deadline=None)
def test_a_mixture_keeps_the_classes_and_the_share(sizes, ratio, pool, seed):
    real = real_items(sizes)
    mixed = mix(real, synthetic_items({0: pool, 1: pool}), ratio, seed=seed)
    assert Counter(item["label"] for item in mixed) == Counter(item["label"] for item in real)
    made = [item for item in mixed if "subject" not in item]
    for label in (0, 1):
        number = sum(item["label"] == label for item in real)
        used = Counter(item["image"] for item in made if item["label"] == label)
        assert abs(sum(used.values()) - ratio * number) <= 0.5
        assert not used or max(used.values()) - (min(used.values()) if len(used) == pool else 0) <= 1
    kept = Counter(item["image"] for item in mixed if "subject" in item)
    assert max(kept.values(), default=1) == 1
    # Images that went singly were too few to be any of the patients that are still there.
    there = {item["subject"] for item in mixed if "subject" in item}
    single = Counter(i["label"] for i in real if i["subject"] in there and i["image"] not in kept)
    assert not any(Counter(sizes[int(subject[1:])]) <= single for subject in there)
    assert mixed == mix(list(real), synthetic_items({0: pool, 1: pool}), ratio, seed=seed)


def test_a_mixture_drops_whole_patients():
    real = real_items([{0: 4}] * 10)
    left = [item for item in mix(real, synthetic_items({0: 40}), 0.5) if "subject" in item]
    assert set(Counter(item["subject"] for item in left).values()) == {4}
    assert len({item["subject"] for item in left}) == 5
    # 18 of 40 are four whole patients and two images of a fifth.
    left = [item for item in mix(real, synthetic_items({0: 40}), 0.45) if "subject" in item]
    assert sorted(Counter(item["subject"] for item in left).values()) == [2, 4, 4, 4, 4, 4]
    # Patients with images of both classes count for both.
    real = real_items([{0: 2, 1: 1}] * 6)
    left = [item for item in mix(real, synthetic_items({0: 40, 1: 40}), 0.5) if "subject" in item]
    assert len({item["subject"] for item in left}) == 3


def test_a_mixture_is_shuffled_by_its_seed():
    real, synthetic = real_items([{0: 1}] * 40), synthetic_items({0: 40})
    mixtures = [mix(real, synthetic, 0.5, seed=seed) for seed in (0, 1)]
    assert mixtures[0] != mixtures[1]
    is_real = ["subject" in item for item in mixtures[0]]
    assert is_real not in (sorted(is_real), sorted(is_real, reverse=True))
    assert {item["image"] for item in mixtures[0] if "subject" in item} != {
        item["image"] for item in mixtures[1] if "subject" in item
    }


def test_without_patients_every_image_is_one():
    real = [{"image": f"{n}.png", "grade": "a"} for n in range(10)]
    mixed = mix(real, [{"image": "s.png", "grade": "a"}], 0.3, label_key="grade")
    assert sum(item["image"] == "s.png" for item in mixed) == 3


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"ratio": 1.5}, ConfigError, r"ratio is 1\.5"),
        ({"ratio": float("nan")}, ConfigError, "ratio is nan"),
        ({"label_key": "grade"}, DataError, "real item 0 has no 'grade'"),
        ({"synthetic": [{"image": "s.png"}]}, DataError, "synthetic item 0 has no 'label'"),
        ({"synthetic": synthetic_items({0: 3})}, DataError, r"no synthetic item of class 1, only of \[0\]"),
        ({"real": [{"image": "a", "label": 0, "subject": "p"}, {"image": "b", "label": 0}]}, DataError, "1 of 2"),
    ],
)
def test_mixtures_that_cannot_be(change, error, message):
    arguments = {
        "real": real_items([{0: 2}, {1: 2}]),
        "synthetic": synthetic_items({0: 3, 1: 3}),
        "ratio": 0.5,
        **change,
    }
    with pytest.raises(error, match=message):
        mix(**arguments)
