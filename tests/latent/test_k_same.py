"""k-same by patient, and the choice of pairs."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_plan.latent import choose_pairs, k_same
from monai_plan.latent.k_same import _mdav, _pair_schedule
from monai_plan.utils import ConfigError, DataError


@st.composite
def cohorts(draw):
    """(latents, labels, subjects, k): one to three classes with at least k subjects each, one to four images each."""
    k = draw(st.integers(2, 5))
    labels, subjects = [], []
    for label in range(draw(st.integers(1, 3))):
        for subject in range(draw(st.integers(k, 4 * k))):
            count = draw(st.integers(1, 4))
            labels += [label] * count
            subjects += [f"s{subject}"] * count  # the same patient may occur in several classes
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    latents = torch.randn(len(labels), 3, generator=rng)
    if draw(st.booleans()):
        latents = latents.round()  # ties
    order = torch.randperm(len(labels), generator=rng).tolist()
    return latents[order], torch.tensor(labels)[order], [subjects[i] for i in order], k


@settings(max_examples=60, deadline=None)
@given(cohorts())
def test_clusters_hold_k_subjects_of_one_class_and_everyone_once(cohort):
    latents, labels, subjects, k = cohort
    anchors = k_same(latents, labels, subjects, k)
    assert sorted(i for members in anchors.members for i in members) == list(range(len(latents)))
    home = {}
    for number, (label, members) in enumerate(zip(anchors.labels.tolist(), anchors.members, strict=True)):
        assert k <= len({subjects[i] for i in members}) <= 2 * k - 1
        assert {int(labels[i]) for i in members} == {label}
        assert members == sorted(members)
        for i in members:
            assert home.setdefault((label, subjects[i]), number) == number  # a subject stays whole in a class
    assert anchors.k == k
    assert anchors.labels.tolist() == sorted(anchors.labels.tolist())


@settings(max_examples=40, deadline=None)
@given(cohorts())
def test_centroids_are_means_of_subject_means(cohort):
    latents, labels, subjects, k = cohort
    anchors = k_same(latents, labels, subjects, k)
    assert anchors.latents.shape == (len(anchors.members), 3)
    assert anchors.latents.dtype == latents.dtype
    for centroid, members in zip(anchors.latents, anchors.members, strict=True):
        of_subject = defaultdict(list)
        for i in members:
            of_subject[subjects[i]].append(latents[i])
        means = [sum(ws) / len(ws) for ws in of_subject.values()]
        torch.testing.assert_close(centroid, sum(means) / len(means))


@settings(max_examples=40, deadline=None)
@given(cohorts(), st.integers(0, 2**31), st.integers(0, 3))
def test_order_of_inputs_does_not_matter(cohort, shuffle, seed):
    latents, labels, subjects, k = cohort
    latents = 0.1 * latents.double()  # sums that round differently in another order
    order = torch.randperm(len(latents), generator=torch.Generator().manual_seed(shuffle)).tolist()
    one = k_same(latents, labels, subjects, k, seed=seed)
    two = k_same(latents[order], labels[order], [subjects[i] for i in order], k, seed=seed)
    assert [set(m) for m in one.members] == [{order[i] for i in m} for m in two.members]
    assert torch.equal(one.latents, two.latents)


def test_known_clusters_and_weight_of_a_patient_with_four_images():
    # Two groups far apart; patient a has four images at 0, patients b and c one each at 3: the mean over subjects is
    # (0 + 3 + 3) / 3 = 2, the mean over images would be 1.
    latents = torch.tensor([[0.0], [0.0], [0.0], [0.0], [3.0], [3.0], [100.0], [101.0], [105.0]])
    subjects = ["a", "a", "a", "a", "b", "c", "d", "e", "f"]
    anchors = k_same(latents, torch.full((9,), 4), subjects, 3)
    assert sorted(zip(anchors.latents.flatten().tolist(), anchors.members, strict=True)) == [
        (2.0, [0, 1, 2, 3, 4, 5]),
        (102.0, [6, 7, 8]),
    ]
    assert anchors.labels.tolist() == [4, 4]


def test_seed_decides_ties():
    latents, labels, subjects = torch.zeros(6, 2), torch.zeros(6).long(), list("abcdef")
    groupings = {str(sorted(k_same(latents, labels, subjects, 2, seed=seed).members)) for seed in range(8)}
    assert len(groupings) > 1


def slow_mdav(points: list[list[float]], k: int) -> list[list[int]]:
    """MDAV as Domingo-Ferrer and Torra write it down, step by step."""

    def d(p, q):
        return sum((a - b) ** 2 for a, b in zip(p, q, strict=True))

    def mean(ids):
        return [sum(points[i][axis] for i in ids) / len(ids) for axis in range(len(points[0]))]

    left, clusters = list(range(len(points))), []
    while len(left) >= 3 * k:
        r = max(left, key=lambda i: d(points[i], mean(left)))
        near_r = sorted(left, key=lambda i: d(points[i], points[r]))[:k]
        left = [i for i in left if i not in near_r]
        s = max(left, key=lambda i: d(points[i], points[r]))
        near_s = sorted(left, key=lambda i: d(points[i], points[s]))[:k]
        left = [i for i in left if i not in near_s]
        clusters += [near_r, near_s]
    if len(left) >= 2 * k:
        r = max(left, key=lambda i: d(points[i], mean(left)))
        near_r = sorted(left, key=lambda i: d(points[i], points[r]))[:k]
        left = [i for i in left if i not in near_r]
        clusters.append(near_r)
    return [*clusters, left]


@pytest.mark.parametrize(("n", "k"), [(4, 3), (6, 3), (8, 3), (9, 3), (17, 4), (40, 5)])
def test_mdav_equals_the_published_steps(n, k):
    points = torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    assert _mdav(points, k) == slow_mdav(points.tolist(), k)


def test_clusters_are_tighter_than_random_ones():
    rng = torch.Generator().manual_seed(0)
    points = torch.randn(60, 4, generator=rng)

    def spread(clusters):
        return sum(float((points[c] - points[c].mean(0)).square().sum()) for c in clusters)

    ours = spread(k_same(points, torch.zeros(60).long(), [str(i) for i in range(60)], 5).members)
    assert ours < 0.7 * spread(torch.randperm(60, generator=rng).reshape(12, 5).tolist())


def test_too_few_subjects_names_class_count_and_largest_k():
    latents, labels = torch.zeros(9, 2), torch.tensor([0] * 6 + [7] * 3)
    subjects = ["a", "b", "c", "d", "e", "f", "a", "a", "b"]  # class 7: three images of two subjects
    with pytest.raises(DataError, match=r"Class 7 has 2 subject\(s\), but k = 3 .* largest k .* is 2"):
        k_same(latents, labels, subjects, 3)
    assert k_same(latents, labels, subjects, 2).members[-1] == [6, 7, 8]
    with pytest.raises(DataError, match=r"Class 7 has 1 subject\(s\).*no k of 2 or more"):
        k_same(latents, labels, ["a", "b", "c", "d", "e", "f", "a", "a", "a"], 2)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"k": 1}, ConfigError, "at least 2"),
        ({"latents": torch.zeros(4)}, ConfigError, "latents must be"),
        ({"latents": torch.zeros(0, 2)}, ConfigError, "latents must be"),
        ({"labels": torch.zeros(3).long()}, ConfigError, "labels must be"),
        ({"labels": torch.zeros(4)}, ConfigError, "labels must be"),
        ({"subjects": ["a", "b"]}, ConfigError, "subjects must name"),
        ({"subjects": "abcd"}, ConfigError, "subjects must name"),
        ({"subjects": ["7", 7, "8", "9"]}, DataError, "Subject 7 of latent 1 is no string"),
        ({"latents": torch.tensor([[0.0], [1.0], [float("nan")], [2.0]])}, DataError, "Latent 2 is not finite"),
    ],
)
def test_bad_input(change, error, message):
    good = {"latents": torch.zeros(4, 2), "labels": torch.zeros(4).long(), "subjects": list("abcd"), "k": 2}
    k_same(**good)
    with pytest.raises(error, match=message):
        k_same(**{**good, **change})


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(2, 9), min_size=1, max_size=3), st.data())
def test_pairs_use_every_anchor_evenly_and_repeat_late(sizes, data):
    labels = torch.tensor([label for label, n in enumerate(sizes) for _ in range(n)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(len(labels)))]
    asked = {label: data.draw(st.integers(0, n * n)) for label, n in enumerate(sizes)}
    pairs = choose_pairs(labels, num_pairs=asked, seed=data.draw(st.integers(0, 5)))
    assert torch.equal(labels[pairs[:, 0]], labels[pairs[:, 1]])
    assert (pairs[:, 0] != pairs[:, 1]).all()
    for label, n in enumerate(sizes):
        ours = pairs[labels[pairs[:, 0]] == label]
        assert len(ours) == max(asked[label], -(-n // 2))
        uses = torch.bincount(ours.flatten(), minlength=len(labels))[labels == label]
        assert uses.min() >= 1
        assert uses.max() - uses.min() <= 1
        repeats = Counter(frozenset(p) for p in ours.tolist())
        every = [repeats[frozenset(p)] for p in combinations((labels == label).nonzero().flatten().tolist(), 2)]
        assert max(every) - min(every) <= 1


@pytest.mark.parametrize("n", range(2, 16))
def test_schedule_holds_all_pairs_and_stays_even(n):
    schedule = _pair_schedule(n)
    assert sorted(tuple(sorted(p)) for p in schedule) == list(combinations(range(n), 2))
    uses = [0] * n
    for a, b in schedule:
        uses[a] += 1
        uses[b] += 1
        assert max(uses) - min(uses) <= 1


def test_pairs_follow_the_seed():
    labels = torch.zeros(12).long()
    first = choose_pairs(labels, num_pairs={0: 6}, seed=1)
    assert torch.equal(first, choose_pairs(labels, num_pairs={0: 6}, seed=1))
    assert not torch.equal(first, choose_pairs(labels, num_pairs={0: 6}, seed=2))


@pytest.mark.parametrize(
    ("labels", "num_pairs", "error", "message"),
    [
        ([0, 0, 5], {0: 1, 5: 1}, DataError, "Class 5 has one anchor.*2k subjects"),
        ([0, 0, 5, 5], {0: 1}, ConfigError, "class 5"),
        ([0, 0], {0: -1}, ConfigError, "-1 pairs"),
        ([0, 0], {0: 1, 3: 2}, DataError, "class 3, which has no anchor"),
        ([0.0, 0.0], {0: 1}, ConfigError, "integers"),
    ],
)
def test_bad_pairs(labels, num_pairs, error, message):
    with pytest.raises(error, match=message):
        choose_pairs(torch.tensor(labels), num_pairs=num_pairs)


def test_latents_of_every_layer_are_averaged_like_one_long_one():
    """W+: the same groups and, layer by layer, the same centroids."""
    rng = torch.Generator().manual_seed(0)
    layers = torch.randn(12, 3, 4, generator=rng)
    labels, subjects = torch.arange(12) % 2, [str(i // 2 * 2 + i % 2) for i in range(12)]
    flat = k_same(layers.flatten(1), labels, subjects, 2)
    anchors = k_same(layers, labels, subjects, 2)
    assert anchors.members == flat.members
    assert torch.equal(anchors.latents, flat.latents.reshape(-1, 3, 4))
