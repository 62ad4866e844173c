"""What the line sees around itself: other data sets, caches that were filled before, what follows, odd labels."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import torch
from monai.data import CacheDataset, DataLoader, Dataset, PersistentDataset
from monai.data.utils import pickle_hashing
from monai.transforms import Compose, LoadImaged, Resized, ScaleIntensityRanged, Spacingd
from release_fakes import make_release, read_back, real_items, sample_of

from monai_plan.transforms import RandSubstituteSyntheticd, SubstituteSynthetic, SubstituteSyntheticd
from monai_plan.utils import ConfigError, DataError

LABELS = [0, 1, 0, 1, 1, 0]


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return make_release(tmp_path_factory.mktemp("made") / "release", LABELS)


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    return make_release(tmp_path_factory.mktemp("made") / "volumes", LABELS, shape=(1, 4, 4, 4))


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    return real_items(tmp_path_factory.mktemp("source"), [0, 1, 1, 0])


def said(action) -> list[str]:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        action()
    return [str(warning.message) for warning in told if "substitut" in str(warning.message) or "release" in
            str(warning.message) or "line" in str(warning.message)]  # fmt: skip


# ------------------------------------------------------------------------------------------- validation


@pytest.mark.parametrize("kind", [Dataset, CacheDataset])
def test_a_validation_that_shares_the_line_is_warned_of_once(release, items, kind):
    transform = Compose([SubstituteSyntheticd("image", "label", release), LoadImaged("image")])

    def both():
        options = {"progress": False} if kind is CacheDataset else {}
        for part in (items[:2], items[2:]):
            for _ in range(2):
                list(kind(part, transform, **options))

    (text,) = said(both)
    assert "it is synthetic as well" in text
    assert "training items as data" in text


def test_one_data_set_read_again_and_again_is_no_two(release, items):
    transform = Compose([SubstituteSyntheticd("image", "label", release), LoadImaged("image")])
    assert said(lambda: [list(Dataset(items, transform)) for _ in range(3)]) == []


@pytest.mark.filterwarnings("error:Two data sets")
def test_a_validation_in_workers_is_warned_of(release, items):
    """Each worker of either loader sees one data set alone."""
    transform = Compose([SubstituteSyntheticd("image", "label", release), LoadImaged("image")])
    train, validation = (
        DataLoader(Dataset(part, transform), num_workers=1, multiprocessing_context="fork")
        for part in (items[:2], items[2:])
    )
    list(train)
    with pytest.raises(Exception, match="it is synthetic as well"):
        list(validation)


def test_with_the_training_items_given_a_validation_is_an_error(release, items):
    transform = SubstituteSyntheticd("image", "label", release, data=items[:2])
    with pytest.raises(DataError, match="If the item is one of the validation"):
        transform(items[3])


# ------------------------------------------------------------------------------------------- caches


@read_back
def test_a_cache_that_was_filled_before_is_warned_of(release, items, tmp_path):
    """As far as it can be: where all items are in it, the line is never asked."""
    list(PersistentDataset(items[:2], Compose([LoadImaged("image")]), tmp_path))
    with_line = Compose([SubstituteSyntheticd("image", "label", release), LoadImaged("image")])
    (text,) = said(lambda: list(PersistentDataset(items, with_line, tmp_path)))
    assert "holds 2 items that were cached before this line" in text
    assert "hash_transform=monai.data.utils.pickle_hashing" in text


@read_back
def test_with_hash_transform_a_cache_notices_the_line(release, items, tmp_path):
    """Named in the docs: real images that were cached before do not come back."""
    real = list(PersistentDataset(items, Compose([LoadImaged("image")]), tmp_path, hash_transform=pickle_hashing))
    with_line = Compose([SubstituteSyntheticd("image", "label", release, data=items), LoadImaged("image")])
    data = PersistentDataset(items, with_line, tmp_path, hash_transform=pickle_hashing)
    assert said(lambda: list(data)) == []
    for item, before, after in zip(items, real, data, strict=True):
        assert LABELS[sample_of(after["image"])] == item["label"]
        assert not torch.equal(torch.as_tensor(before["image"]), torch.as_tensor(after["image"]))


# ------------------------------------------------------------------------------------------- what follows


@pytest.mark.parametrize(
    ("follows", "text"),
    [
        (
            ScaleIntensityRanged("image", -1000, 400, 0, 1),
            "scales from -1000 to 400, and the samples have values",
        ),
        (ScaleIntensityRanged("image", 0, 4095, 0, 1), "scales from 0 to 4095"),
        (Resized("image", (8, 8, 8)), "has a spatial_size of 3 numbers, and the samples have 2 axes"),
        (Spacingd("image", (1.0, 1.0, 1.0)), "has a pixdim of 3 numbers"),
        (ScaleIntensityRanged("image", 0, 255, 0, 1), None),
        (Resized("image", (8, 8)), None),
    ],
)
def test_what_follows_in_the_pipeline(release, items, follows, text):
    line = SubstituteSyntheticd("image", "label", release)
    pipeline = Compose([line, LoadImaged("image", ensure_channel_first=True), follows])

    def run():
        for _ in range(2):
            try:
                pipeline(items[0])
            except (ValueError, RuntimeError):
                continue  # of what does not fit: the warning came before

    told = said(run)
    assert len(told) == (text is not None)
    assert text is None or text in told[0]


def test_what_goes_before_is_not_looked_at(release, items):
    before = [LoadImaged("image", ensure_channel_first=True), ScaleIntensityRanged("image", -1000, 400, 0, 1)]
    pipeline = Compose([*before, SubstituteSyntheticd("image", "label", release)])
    assert [text for text in said(lambda: pipeline(items[0])) if "scales" in text] == []


def test_images_of_other_axes(release, volumes):
    for folder, image in (
        (release, "ct.nii.gz"),
        (release, ["a.mha", "b.mha"]),
        (volumes, "xray.png"),
        (volumes, np.zeros((4, 4))),
        (release, torch.zeros(1, 4, 4, 4)),
    ):
        substitute = SubstituteSynthetic(folder)
        told = said(lambda substitute=substitute, image=image: [substitute(image, 1, item) for item in ("a", "b")])
        assert len([text for text in told if "was it made from such data" in text]) == 1
    for folder, image in ((release, "a.png"), (volumes, "a.nii"), (volumes, torch.zeros(1, 4, 4, 4))):
        told = said(lambda folder=folder, image=image: SubstituteSynthetic(folder)(image, 1, "a"))
        assert [text for text in told if "was it made" in text] == []


def test_allow_missing_keys_is_refused(release):
    SubstituteSyntheticd("image", "label", release, allow_missing_keys=False)
    with pytest.raises(ConfigError, match="every item needs its image and its label"):
        SubstituteSyntheticd("image", "label", release, allow_missing_keys=True)


# ------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize(
    "label",
    [1, "1", "1.0", " 1 ", "lesion", 1.0, torch.tensor([0, 1]), torch.tensor([[0.0, 1.0]]), np.array([0, 1]), [0, 1],
     (0.0, 1.0), np.array("1")],
)  # fmt: skip
def test_labels_that_are_read(release, label):
    substitute = SubstituteSynthetic(release)
    assert LABELS[sample_of(substitute("a.png", label))] == 1
    own = substitute.own_label(label)
    assert type(own) is (np.ndarray if isinstance(label, np.ndarray) else type(label))
    assert np.array_equal(np.asarray(own), np.asarray(label))


@pytest.mark.parametrize(
    ("label", "text"),
    [
        (7, r"a int, 7, names no class: labels can be \[0, 1, 'normal', 'lesion'\]"),
        (0.5, r"a float, 0\.5"),
        ([0.2, 0.8], r"\[0\.2, 0\.8\], names no class \(one-hot\? That would be 2 numbers, one of them 1"),
        (torch.tensor([0, 0, 1]), r"of the shape \[3\], \[0\.0, 0\.0, 1\.0\], names no class \(one-hot\?"),
        ([1, 1], "one-hot"),
        (
            torch.zeros(1, 8, 8),
            r"of the shape \[1, 8, 8\], names no class \(a mask: this is for classification",
        ),
        ("1.5", "a str, names no class"),
    ],
)
def test_labels_that_are_not(release, label, text):
    with pytest.raises(DataError, match=text):
        SubstituteSynthetic(release)("a.png", label)


def test_names_go_before_numbers_as_text(tmp_path):
    """A class may be called "1"."""
    release = make_release(tmp_path / "odd", [0, 1])
    content = (release / "datalist.json").read_text()
    (release / "datalist.json").write_text(content.replace('"normal"', '"1"').replace('"lesion"', '"0"'))
    assert sample_of(SubstituteSynthetic(release)("a.png", "1")) == 0
    assert sample_of(SubstituteSynthetic(release)("a.png", 1)) == 1


def test_repr_tells_the_release_and_the_choice(release):
    text = repr(SubstituteSyntheticd("image", "label", release, seed=3))
    assert text == (
        f"SubstituteSyntheticd(keys='image', label_key='label', SubstituteSynthetic('{release}', 6 samples, 2 classes, "
        "[16, 16]; output='like', seed=3))"
    )
    drawn = RandSubstituteSyntheticd("image", "label", release, output="image")
    assert "RandSubstituteSynthetic(" in repr(drawn)
    assert repr(pickle.loads(pickle.dumps(drawn))) == repr(drawn)
