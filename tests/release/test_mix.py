"""Mixtures of real and synthetic items, and the dealing of samples."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_plan.release import mix
from monai_plan.release.mix import dealt
from monai_plan.utils import ConfigError, DataError


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
