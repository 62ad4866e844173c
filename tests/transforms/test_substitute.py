"""The substituting transforms by themselves: which sample, what is given, what is left of the real item."""

from __future__ import annotations

import pickle
import warnings
from collections import Counter
from copy import deepcopy
from pathlib import Path

import monai
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.bundle import ConfigParser
from monai.data import MetaTensor, set_track_meta
from monai.data.utils import pickle_hashing
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    Flipd,
    LoadImage,
    LoadImaged,
    RandFlipd,
    Randomizable,
    Resized,
    ScaleIntensityd,
)
from release_fakes import MARKS, make_release, parts, pixel_marks, real_items, sample_of

from monai_plan.release import SyntheticBank
from monai_plan.transforms import (
    RandSubstituteSynthetic,
    RandSubstituteSyntheticd,
    SubstituteSynthetic,
    SubstituteSyntheticD,
    SubstituteSyntheticd,
    SubstituteSyntheticDict,
)
from monai_plan.transforms.substitute import _warn_of_loaded_image
from monai_plan.utils import ConfigError, DataError, PLANError

LABELS = [0, 1, 0, 1, 1, 0, 1, 0, 1, 1]  # 4 and 6


@pytest.fixture(autouse=True)
def _each_test_may_warn():
    _warn_of_loaded_image.cache_clear()


# As autouse: to be ignored, unless a test looks for it.
pytestmark = pytest.mark.filterwarnings("ignore:A real image was loaded")


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return make_release(tmp_path_factory.mktemp("made") / "release", LABELS)


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    return make_release(tmp_path_factory.mktemp("made") / "volumes", LABELS, shape=(1, 4, 6, 8))


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    return real_items(tmp_path_factory.mktemp("source"), [0, 1, 1, 0, 1, 1, 0])


def loaded(item):
    return LoadImaged("image", ensure_channel_first=True)(item)


# ------------------------------------------------------------------------------------------------- what is given


def test_first_in_a_pipeline_no_real_file_is_opened(release):
    item = {"image": "there_is_no_such_file.png", "label": 1}
    pipeline = Compose(
        [SubstituteSyntheticd("image", "label", release), LoadImaged("image"), EnsureChannelFirstd("image")]
    )
    result = pipeline(item)
    assert result["image"].shape == (1, 16, 16)
    assert LABELS[sample_of(result["image"])] == 1
    assert result["label"] == 1
    assert set(result) == {"image", "label"}
    assert item == {"image": "there_is_no_such_file.png", "label": 1}


@pytest.mark.parametrize("give", ["path", "pathlike", "files", "tensor", "meta", "array"])
@pytest.mark.parametrize("output", ["like", "image", "path"])
def test_like_for_like_or_as_asked(release, output, give):
    image = torch.rand(1, 4, 4)
    given = {
        "path": "a.png",
        "pathlike": Path("a.png"),
        "files": ["a.png", "b.png"],
        "tensor": image,
        "meta": MetaTensor(image, meta={"filename_or_obj": "a.png"}),
        "array": image.numpy(),
    }[give]
    result = SubstituteSynthetic(release, output=output)(given, 1, "a.png")
    in_memory = give in ("tensor", "meta", "array")
    assert type(result) is (MetaTensor if output == "image" or (output == "like" and in_memory) else str)
    assert LABELS[sample_of(result)] == 1
    # However the image comes, the same item gets the same sample.
    assert sample_of(result) == sample_of(SubstituteSynthetic(release)("a.png", 1))


def test_an_image_in_memory_is_known_by_its_file_name(release, items):
    substitute = SubstituteSyntheticd("image", "label", release)
    for item in items:
        assert sample_of(substitute(loaded(item))["image"]) == sample_of(substitute(item)["image"])


@pytest.mark.parametrize("shape", [(1, 8, 10), (3, 8, 10), (1, 4, 6, 8)])
@pytest.mark.parametrize("cached", [True, False])
def test_an_image_is_what_load_image_gives_with_the_sample_s_own_metadata(tmp_path, shape, cached):
    release = make_release(tmp_path / "release", [0], shape=shape, noise=True)
    source = SyntheticBank(release, cache=cached)
    image = SubstituteSynthetic(source=source, output="image")("a.png", 0)
    file = LoadImage(ensure_channel_first=True)(source.path(0))
    assert torch.equal(image.as_tensor(), file.as_tensor())
    assert image.dtype == torch.float32
    assert torch.equal(image.affine, file.affine)
    assert torch.equal(image.pixdim, file.pixdim)
    assert image.meta["filename_or_obj"] == file.meta["filename_or_obj"]
    assert set(image.meta) == {
        "filename_or_obj",
        "spatial_shape",
        "original_channel_dim",
        "synthetic",
        "affine",
        "space",
    }
    assert image.meta["synthetic"] is True
    assert image.meta["spatial_shape"].tolist() == list(shape[1:])
    assert image.applied_operations == image.pending_operations == []
    assert EnsureChannelFirstd("image")({"image": image})["image"].shape == shape


def test_an_image_may_be_changed_in_place(release):
    substitute = SubstituteSynthetic(release, output="image")
    first = substitute("a.png", 0)
    number = sample_of(first)
    first.add_(100)
    first.meta["affine"].add_(1)
    first.meta["spatial_shape"].add_(1)
    again = substitute("a.png", 0)
    assert sample_of(again) == number
    assert torch.equal(again.affine, torch.eye(4, dtype=torch.float64))
    assert again.meta["spatial_shape"].tolist() == [16, 16]


@pytest.mark.parametrize("value_range", [(-1, 1), (0.0, 1.0), [0, 4095]])
def test_values_are_scaled_with_exact_ends(tmp_path, value_range):
    release = make_release(tmp_path / "release", [0] * 256, shape=(1, 2, 2))
    substitute = SubstituteSynthetic(
        release, output="image", value_range=value_range, data=[(n, 0) for n in range(256)]
    )
    values = torch.stack([substitute("a.png", 0, n) for n in range(256)]).as_subclass(torch.Tensor)
    low, high = value_range
    assert (values.min(), values.max()) == (low, high)
    expected = torch.linspace(low, high, 256)
    torch.testing.assert_close(values[:, 0, 0, 0].sort().values, expected)


@pytest.mark.parametrize(
    ("options", "dtype", "unit"),
    [
        ({"dtype": torch.uint8}, torch.uint8, 1),
        ({"dtype": torch.float16, "value_range": (0, 1)}, torch.float16, 1 / 255),
        ({"dtype": torch.float16}, torch.float16, 1),
        ({}, torch.float32, 1),
    ],
)
def test_values_are_of_the_dtype_and_never_the_bank_s_own_memory(release, options, dtype, unit):
    substitute = SubstituteSynthetic(release, output="image", **options)
    stored = substitute.source.image(substitute._choose("a.png", 0)).clone()
    image = substitute("a.png", 0)
    assert image.dtype == dtype
    torch.testing.assert_close(image.as_tensor().double(), stored.double() * unit, rtol=2**-11, atol=0)
    image.zero_()
    assert torch.equal(substitute.source.image(substitute._choose("a.png", 0)), stored)
    assert stored.any()


def test_plain_tensors_by_option_or_by_monai_s_switch(release):
    assert type(SubstituteSynthetic(release, output="image", track_meta=False)("a.png", 0)) is torch.Tensor
    set_track_meta(False)
    try:
        assert type(SubstituteSynthetic(release, output="image")("a.png", 0)) is torch.Tensor
    finally:
        set_track_meta(True)


# ------------------------------------------------------------------------------------------------- which sample


@given(counts=st.tuples(st.integers(0, 9), st.integers(0, 14)), seed=st.integers(0, 3), shuffle=st.randoms())
@settings(max_examples=25, deadline=None)
def test_an_epoch_deals_out_each_sample_before_any_comes_twice(release, counts, seed, shuffle):
    data = [{"image": f"{label}_{n}.png", "label": label} for label, count in enumerate(counts) for n in range(count)]
    shuffled = shuffle.sample(data, len(data))
    substitute = SubstituteSyntheticd("image", "label", release, data=data, seed=seed)
    other = SubstituteSyntheticd("image", "label", release, data=shuffled, seed=seed)
    results = {item["image"]: substitute(item) for item in shuffled}
    assert results == {item["image"]: other(item) for item in data}
    for label, (count, available) in enumerate(zip(counts, (4, 6), strict=True)):
        used = Counter(sample_of(result["image"]) for result in results.values() if result["label"] == label)
        assert all(LABELS[number] == label for number in used)
        assert len(used) == min(count, available)
        if used:
            assert max(used.values()) - min(used.values()) <= 1


def test_items_of_one_key_share_their_sample_and_a_key_in_two_classes_is_two_items(release):
    data = [("a", 0), ("a", 0), ("b", 0), ("a", 1)]
    substitute = SubstituteSynthetic(release, data=data)
    numbers = [sample_of(substitute("x.png", label, key)) for key, label in data]
    assert numbers[0] == numbers[1] != numbers[2]
    assert LABELS[numbers[3]] == 1


def test_without_data_every_item_draws_for_itself(tmp_path):
    release = make_release(tmp_path / "release", [0] * 250, shape=(1, 2, 2))
    substitute = SubstituteSynthetic(release)
    numbers = [sample_of(substitute(f"{n}.png", 0)) for n in range(250)]
    assert 0.53 < len(set(numbers)) / 250 < 0.73
    assert numbers == [sample_of(substitute(f"{n}.png", 0)) for n in range(250)]


def test_samples_come_in_shuffled_order_that_depends_on_the_seed(tmp_path):
    release = make_release(tmp_path / "release", [0] * 50, shape=(1, 2, 2))
    data = [(f"{n:02d}.png", 0) for n in range(50)]
    orders = [
        [sample_of(SubstituteSynthetic(release, data=data, seed=seed)(*item)) for item in data] for seed in (0, 1)
    ]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(50))
    assert orders[0] not in (orders[1], list(range(50)))


def test_paths_are_the_same_key_however_they_are_written(release):
    substitute = SubstituteSynthetic(release, data=[(Path("ward/a.png"), 0), ("~/b.png", 0)])
    assert substitute("ward//a.png", 0) == substitute(["./ward/a.png"], 0)
    assert substitute(Path("~/b.png"), 0) == substitute(str(Path.home() / "b.png"), 0)


@pytest.mark.parametrize("key", [7, "seven", torch.tensor(7), np.int64(7), np.array([7]), MetaTensor(torch.tensor(7))])
def test_an_item_s_key_can_be_another_of_its_values(release, key):
    item = {"image": torch.rand(1, 4, 4), "label": 0, "id": key}
    substitute = SubstituteSyntheticd("image", "label", release, item_key="id", data=[item])
    result = substitute(item)
    assert set(result) == {"image", "label"}
    plain = {**item, "id": "seven" if key == "seven" else 7}
    assert sample_of(result["image"]) == sample_of(substitute(plain)["image"])


def test_the_seed_follows_determinism_at_construction(release):
    assert SubstituteSynthetic(release).seed == 0
    monai.utils.set_determinism(seed=12)
    try:
        assert SubstituteSynthetic(release).seed == 12
        assert SubstituteSynthetic(release, seed=3).seed == 3
    finally:
        monai.utils.set_determinism(seed=None)


@pytest.mark.parametrize("random", [True, False])
def test_a_compose_does_not_change_the_seed(release, random):
    kind = RandSubstituteSyntheticd if random else SubstituteSyntheticd
    transform = kind("image", "label", release, seed=5)
    assert not isinstance(transform, Randomizable)
    Compose([transform, RandFlipd("image")]).set_random_state(seed=77)
    assert transform.substitute.seed == 5


# ------------------------------------------------------------------------------------------------- labels and classes


@pytest.mark.parametrize(
    "label", [1, 1.0, True, "lesion", np.int64(1), np.array([1]), torch.tensor(1), torch.tensor([1.0])]
)
def test_labels_come_back_as_they_were(release, label):
    result = SubstituteSyntheticd("image", "label", release)({"image": "a.png", "label": label})
    assert LABELS[sample_of(result["image"])] == 1
    assert type(result["label"]) is type(label)
    assert result["label"] == label


@pytest.mark.parametrize("target", [1, "lesion"])
def test_labels_are_mapped_and_come_back_unmapped(release, target):
    label_map = {"tumour": target, ("a", "b"): 0, 1: 0}
    substitute = SubstituteSyntheticd("image", "label", release, label_map=label_map)
    for label, number in (("tumour", 1), (("a", "b"), 0), (1, 0)):
        result = substitute({"image": "a.png", "label": label})
        assert LABELS[sample_of(result["image"])] == number
        assert result["label"] == label
    with pytest.raises(DataError, match=r"label, a int, \d+, names no class"):
        substitute({"image": "a.png", "label": 0})


def test_a_label_loses_what_its_object_holds(release):
    class Text(str):
        pass

    text = Text("lesion")
    text.patient = "Mustermann"
    base = torch.tensor([1, 7, 7, 7])
    for label in (text, MetaTensor(base[0], meta={"filename_or_obj": "mustermann.png"}), base[:1], base.numpy()[:1]):
        own = SubstituteSynthetic(release).own_label(label)
        assert not any("ustermann" in part for part in parts(own) if isinstance(part, str))
        assert type(own) in (str, torch.Tensor, np.ndarray)
        if isinstance(own, torch.Tensor):
            assert own.untyped_storage().nbytes() == own.element_size()
        assert own == label


# ------------------------------------------------------------------------------------------------- nothing is left


EXTRA = {"subject": "Mustermann-01", "report": "cough since may", "seg": torch.ones(1)}


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({}, set()),
        ({"keep_keys": "seg"}, {"seg"}),
        ({"keep_keys": ("seg", "absent")}, {"seg"}),
        ({"other_keys": "keep"}, {"subject", "report", "seg"}),
        ({"other_keys": "keep", "item_key": "subject"}, {"report", "seg"}),
        ({"keep_keys": "image_meta_dict"}, {"image_meta_dict"}),
        ({"other_keys": "refuse", "keep_keys": ("subject", "report", "seg")}, {"subject", "report", "seg"}),
        ({"other_keys": "refuse", "keep_keys": ("report", "seg"), "item_key": "subject"}, {"report", "seg"}),
    ],
)
def test_other_keys_are_dropped_or_kept(release, options, left):
    item = {"image": "a.png", "label": 0, **EXTRA, "image_meta_dict": {"a": "Mustermann"}, "image_transforms": []}
    result = SubstituteSyntheticd("image", "label", release, **options)(item)
    assert set(result) == {"image", "label"} | left
    assert all(result[key] is item[key] for key in left)


def test_other_keys_are_refused_by_name_and_not_by_value(release):
    substitute = SubstituteSyntheticd("image", "label", release, other_keys="refuse", keep_keys="seg")
    with pytest.raises(DataError, match=r"'subject'.*keep_keys") as error:
        substitute({"image": "a.png", "label": 0, **EXTRA})
    assert "ustermann" not in str(error.value)


@given(
    output=st.sampled_from(["like", "image", "path"]),
    in_memory=st.booleans(),
    other_keys=st.sampled_from(["drop", "refuse"]),
    item_key=st.sampled_from([None, "subject"]),
    with_data=st.booleans(),
    as_tensor=st.booleans(),
    index=st.integers(0, 6),
)
@settings(max_examples=40, deadline=None)
def test_nothing_of_the_item_is_left(
    release, items, output, in_memory, other_keys, item_key, with_data, as_tensor, index
):
    item = items[index]
    pixels = loaded(item)["image"].numpy()
    if other_keys == "refuse":
        item = {key: item[key] for key in ("image", "label", "subject")}
        item_key = "subject"
    real = loaded(item) if in_memory else dict(item)
    if in_memory:
        real = Flipd("image", 0)(real)  # leaves an operation to invert
        assert real["image"].applied_operations
    if as_tensor:
        real["label"] = MetaTensor(torch.tensor(real["label"]), meta=dict(getattr(real["image"], "meta", {})))
    substitute = SubstituteSyntheticd(
        "image",
        "label",
        release,
        output=output,
        other_keys=other_keys,
        item_key=item_key,
        data=items if with_data else None,
    )
    result = substitute(real)
    assert LABELS[sample_of(result["image"])] == int(result["label"]) == items[index]["label"]
    found = list(parts(result))
    for part in found:
        if isinstance(part, str):
            assert not any(mark in part.lower() for mark in MARKS)
        if isinstance(part, torch.Tensor) and part.numel() > 20:
            assert part.as_subclass(torch.Tensor).unique().numel() == 1  # the real one is noise
            assert part.untyped_storage().nbytes() < 2 * pixels.nbytes
        if isinstance(part, MetaTensor):
            assert part.applied_operations == part.pending_operations == []


def test_the_search_for_what_is_left_finds_it(items):
    real = Flipd("image", 0)(loaded(items[0]))
    assert any("mustermann" in part for part in parts(real) if isinstance(part, str))
    assert any(isinstance(part, torch.Tensor) and part.unique().numel() > 20 for part in parts(real))
    assert len(pixel_marks(items)) > 100


def test_a_loaded_image_is_warned_of_once(release, items):
    substitute = SubstituteSyntheticd("image", "label", release)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for item in items:
            substitute(item)
        assert not caught
        for item in items:
            substitute(loaded(item))
    (warning,) = (w for w in caught if "real image" in str(w.message))
    assert "before LoadImage" in str(warning.message)
    assert not any(mark in str(warning.message).lower() for mark in MARKS)


# ------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"output": "tensor"}, ConfigError, "output is 'tensor'"),
        ({"release_dir": None}, ConfigError, "either release_dir or source"),
        ({"release_dir": "nowhere"}, DataError, "nowhere holds no datalist"),
        ({"value_range": (-1, 1)}, ConfigError, "value_range.*'image'"),
        ({"track_meta": False, "output": "path"}, ConfigError, "track_meta=False.*'image'"),
        ({"dtype": torch.uint8}, ConfigError, "dtype=torch.uint8.*'image'"),
        ({"dtype": torch.int16, "output": "image"}, ConfigError, "dtype is torch.int16"),
        ({"dtype": torch.uint8, "output": "image", "value_range": (0, 1)}, ConfigError, "leave out value_range"),
        ({"value_range": (1, -1), "output": "image"}, ConfigError, r"value_range is \[1, -1\]"),
        ({"value_range": (0, 1, 2), "output": "image"}, ConfigError, "two numbers"),
        ({"img_size": (32, 32)}, ConfigError, r"img_size is \[32, 32\].*\[16, 16\]"),
        ({"img_size": (16, 16, 16)}, ConfigError, r"\[16, 16, 16\].*\[16, 16\]"),
        ({"img_channels": 3}, ConfigError, "img_channels is 3.*1 channels"),
        ({"classes": [0, 1, 2]}, ConfigError, r"no class 2.*\[0, 1, 'normal', 'lesion'\]"),
        ({"classes": ["lesion", "benign"]}, ConfigError, "no class 'benign'"),
        ({"label_map": {"a": 0, "b": 7}}, ConfigError, "label_map leads to class 7"),
        ({"label_map": {"a": 0}, "classes": ["a", 0]}, ConfigError, r"no class 0.*\['a'\]"),
        ({"keys": ["image", "image2"]}, ConfigError, "name one key"),
        ({"keys": []}, ConfigError, "name one key"),
        ({"other_keys": "maybe"}, ConfigError, "other_keys is 'maybe'"),
        (
            {"data": [{"image": "a", "label": 0}, {"image": "a", "label": 2}]},
            DataError,
            "Item 1 of data.*a int, [0-9]+, names",
        ),
        ({"data": [{"image": "a"}]}, DataError, "no key 'label'"),
        ({"data": [{"image": torch.rand(1, 2, 2), "label": 0}]}, ConfigError, "Item 0 of data.*item_key"),
    ],
)
def test_what_cannot_work_is_an_error_at_construction(release, change, error, message):
    arguments = {"keys": "image", "label_key": "label", "release_dir": release, **change}
    with pytest.raises(error, match=message):
        SubstituteSyntheticd(**arguments)


def test_names_that_are_not_unique_are_refused(tmp_path):
    release = make_release(tmp_path / "release", [0, 1])
    file = release / "datalist.json"
    file.write_text(file.read_text().replace("lesion", "normal"))
    with pytest.raises(DataError, match="look alike, 'normal' and 'normal': rename one"):
        SubstituteSynthetic(release)


def test_a_class_that_is_named_but_has_no_sample_is_an_error_at_construction(tmp_path):
    release = make_release(tmp_path / "release", [0, 0])
    for label in (1, "lesion"):
        with pytest.raises(ConfigError, match="no class"):
            SubstituteSynthetic(release, classes=[label])


SECRET = "Mustermann"


@pytest.mark.parametrize(
    ("options", "change", "error", "message"),
    [
        ({}, {"label": SECRET}, DataError, "a str, names no class"),
        ({}, {"label": 71177}, DataError, "a int, names no class"),
        ({}, {"label": [SECRET]}, DataError, "a list, names no class"),
        ({}, {"label": torch.full((3,), 71177)}, DataError, "a Tensor of the shape .3., names no class"),
        ({}, {"image": None}, ConfigError, "NoneType"),
        ({}, {"image": 71177}, ConfigError, "a int, but must be a path"),
        ({}, {"image": [SECRET, 1]}, ConfigError, "a list, but must be a path"),
        ({}, {"image": torch.full((1, 2, 2), 71177)}, ConfigError, "item_key"),
        ({}, {"image": MetaTensor(torch.full((1, 2, 2), 71177))}, ConfigError, "item_key"),
        ({"item_key": "id"}, {}, DataError, "no key 'id'"),
        ({"item_key": "id"}, {"id": 7.1177}, ConfigError, "a float is none"),
        ({"item_key": "id"}, {"id": {SECRET: 1}}, ConfigError, "a dict is none"),
        ({"label_key": "grade"}, {}, DataError, "no key 'grade'"),
        ({"keys": "img"}, {}, DataError, "no key 'img'"),
        ({"data": [{"image": "a.png", "label": 0}]}, {}, DataError, "not in the data"),
        ({"data": [{"image": f"{SECRET}.png", "label": 1}]}, {}, DataError, "has another label there"),
        ({"other_keys": "refuse"}, {"report": SECRET}, DataError, "'report'"),
    ],
)
def test_errors_at_a_call_hold_no_value_of_the_item(release, options, change, error, message):
    substitute = SubstituteSyntheticd(**{"keys": "image", "label_key": "label", "release_dir": release, **options})
    with pytest.raises(error, match=message) as caught:
        substitute({"image": f"{SECRET}.png", "label": 0, **change})
    shown: BaseException | None = caught.value
    while shown is not None:  # a traceback shows what came before, too
        assert isinstance(shown, PLANError)
        assert SECRET not in str(shown)
        assert "71177" not in str(shown)
        shown = shown.__cause__ or shown.__context__


# ------------------------------------------------------------------------------------------------- in MONAI's machinery


@pytest.mark.parametrize("output", ["like", "image", "path"])
def test_copies_do_the_same(release, items, output):
    substitute = SubstituteSyntheticd("image", "label", release, output=output, data=items, seed=3)
    for copy in (pickle.loads(pickle.dumps(substitute)), deepcopy(substitute)):
        assert [sample_of(copy(item)["image"]) for item in items] == [
            sample_of(substitute(item)["image"]) for item in items
        ]


@pytest.mark.parametrize("output", ["like", "image"])
def test_the_hash_of_the_transform_knows_the_release_and_the_seed_and_not_the_use(tmp_path, items, output):
    def hashed(labels, **options):
        release = make_release(tmp_path / "release", labels)
        substitute = SubstituteSyntheticd("image", "label", release, output=output, data=items, **options)
        before = pickle_hashing([substitute])
        for item in items:
            substitute(item)
        assert pickle_hashing([substitute]) == before
        return before

    assert hashed(LABELS) == hashed(LABELS)
    assert len({hashed(LABELS), hashed(LABELS[::-1]), hashed(LABELS, seed=1)}) == 3


def test_lazy_pipelines_and_lists_of_items(volumes, items):
    steps = [
        EnsureChannelFirstd("image"),
        Flipd("image", 0),
        Resized("image", (8, 8, 8)),
        ScaleIntensityd("image"),
    ]
    substitute = SubstituteSyntheticd("image", "label", volumes)
    lazy = Compose([substitute, LoadImaged("image"), *steps], lazy=True)(items[:3])
    eager = [Compose([substitute, LoadImaged("image"), *steps])(item) for item in items[:3]]
    assert len(lazy) == 3
    for one, other in zip(lazy, eager, strict=True):
        assert one["image"].shape == (1, 8, 8, 8)
        torch.testing.assert_close(one["image"], other["image"])
    # Operations that wait for a real image are not left for the synthetic one.
    late = Compose([LoadImaged("image", ensure_channel_first=True), Flipd("image", 0), substitute], lazy=True)
    assert all(not item["image"].has_pending_operations for item in late(items[:2]))


def test_the_array_transform_in_a_pipeline_of_tuples(release):
    pipeline = Compose([SubstituteSynthetic(release, output="image")], map_items=False, unpack_items=True)
    assert LABELS[sample_of(pipeline(("a.png", "lesion")))] == 1


def test_in_a_bundle(release):
    config = {
        "substitute": {
            "_target_": "monai_plan.transforms.SubstituteSyntheticd",
            "keys": "image",
            "label_key": "label",
            "release_dir": str(release),
        },
        "mapped": {
            "_target_": "monai_plan.transforms.SubstituteSyntheticd",
            "keys": "image",
            "label_key": "label",
            "release_dir": str(release),
            "output": "image",
            "value_range": [-1, 1],
            "label_map": "${0: 1, 1: 0}",
        },
    }
    parser = ConfigParser(config)
    parser.parse()
    result = parser.get_parsed_content("substitute")({"image": "a.png", "label": 1})
    assert LABELS[sample_of(result["image"])] == 1
    result = parser.get_parsed_content("mapped")({"image": "a.png", "label": 1})
    assert LABELS[sample_of(((result["image"] + 1) * 127.5).round())] == 0


def test_aliases():
    assert SubstituteSyntheticD is SubstituteSyntheticDict is SubstituteSyntheticd


# ------------------------------------------------------------------------------------------------- epochs


@pytest.mark.parametrize("dictionary", [True, False])
def test_an_epoch_changes_the_samples_and_gives_each_once(release, dictionary):
    data = [(f"{n}.png", label) for n, label in enumerate(LABELS)]
    items = [{"image": key, "label": label} for key, label in data]
    if dictionary:
        transform = RandSubstituteSyntheticd("image", "label", release, data=items)
    else:
        transform = RandSubstituteSynthetic(release, data=data)

    def epoch(number):
        transform.set_epoch(number)
        if dictionary:
            return [sample_of(transform(item)["image"]) for item in items]
        return [sample_of(transform(*item)) for item in data]

    epochs = [epoch(number) for number in (0, 1, 2, 1)]
    for numbers in epochs:
        assert sorted(numbers) == list(range(10))
        assert [LABELS[number] for number in numbers] == LABELS
    assert epochs[1] == epochs[3]
    assert len({tuple(numbers) for numbers in epochs}) == 3
    with pytest.raises(ConfigError, match="epoch is -1"):
        transform.set_epoch(-1)


def test_epoch_0_is_what_the_transform_without_epochs_gives(release, items):
    random = RandSubstituteSyntheticd("image", "label", release, data=items)
    fixed = SubstituteSyntheticd("image", "label", release, data=items)
    assert [random(item) for item in items] == [fixed(item) for item in items]


@pytest.mark.parametrize("copied", [deepcopy, lambda transform: pickle.loads(pickle.dumps(transform))])
def test_a_copy_has_an_epoch_of_its_own(release, copied):
    transform = RandSubstituteSynthetic(release)
    transform.set_epoch(4)
    copy = copied(transform)
    transform.set_epoch(5)
    assert (copy.epoch, transform.epoch) == (4, 5)
    copy.set_epoch(6)
    assert (copy.epoch, transform.epoch) == (6, 5)
    assert copy._epoch.is_shared()
