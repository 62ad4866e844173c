from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn.tree import DecisionTreeClassifier

from monai_plan.audit import membership
from monai_plan.audit.membership import _features, _folds, _wilson, membership_attack
from monai_plan.utils import DataError


def confident(labels, share, num_classes=2):
    """Probabilities that give ``share`` [N] to the true label and spread the rest."""
    p = torch.full((len(labels), num_classes), 0.0) + ((1 - share) / (num_classes - 1))[:, None]
    p[torch.arange(len(labels)), labels] = share
    return p


def attack(member, nonmember, *, member_labels, nonmember_labels, images_per_subject=1, seed=0):
    return membership_attack(
        member_probabilities=member,
        member_labels=member_labels,
        member_subjects=[f"m{i // images_per_subject}" for i in range(len(member))],
        nonmember_probabilities=nonmember,
        nonmember_labels=nonmember_labels,
        nonmember_subjects=[f"n{i // images_per_subject}" for i in range(len(nonmember))],
        seed=seed,
    )


@pytest.mark.parametrize("num_classes", [2, 5])
def test_an_overfitted_classifier_is_found_out(num_classes):
    g = torch.Generator().manual_seed(0)
    y_m, y_n = torch.arange(120) % num_classes, torch.arange(60) % num_classes
    member = confident(y_m, 0.99 + 0.01 * torch.rand(120, generator=g), num_classes)
    nonmember = confident(y_n, 0.3 + 0.6 * torch.rand(60, generator=g), num_classes)
    result = attack(member, nonmember, member_labels=y_m, nonmember_labels=y_n)
    assert result.accuracy > 0.95
    assert result.low > 0.85
    assert "95 % interval" in str(result)


@pytest.mark.parametrize("sizes", [(100, 100), (150, 40)])
def test_like_distributions_give_nothing_away(sizes):
    """The interval holds 0.5 about 95 times in 100, also where the sides differ in size."""
    held, accuracies = 0, []
    for seed in range(12):
        g = torch.Generator().manual_seed(seed)
        y_m, y_n = (torch.randint(0, 2, (n,), generator=g) for n in sizes)
        p_m, p_n = (torch.rand(n, generator=g) for n in sizes)
        result = attack(confident(y_m, p_m), confident(y_n, p_n), member_labels=y_m, nonmember_labels=y_n, seed=seed)
        held += result.low <= 0.5 <= result.high
        accuracies.append(result.accuracy)
    assert held >= 10
    assert np.mean(accuracies) == pytest.approx(0.5, abs=0.03)


def test_half_a_leak_lies_between():
    """Half of the members stand out perfectly: the best attack is right on them and on all non-members: 75 %."""
    g = torch.Generator().manual_seed(1)
    y = torch.arange(400) % 2
    share = 0.5 + 0.2 * torch.rand(400, generator=g)
    leak = torch.where(torch.rand(400, generator=g) < 0.5, 0.999, share)
    result = attack(confident(y, leak), confident(y, share), member_labels=y, nonmember_labels=y)
    assert 0.68 < result.accuracy < 0.8
    assert result.low > 0.5


def test_a_class_commoner_in_training_is_no_leak():
    """The classifier is surer of class 1; members are mostly of class 1. Without weights the attack would be right."""
    g = torch.Generator().manual_seed(2)
    y_m = (torch.rand(300, generator=g) < 0.9).long()
    y_n = (torch.rand(300, generator=g) < 0.2).long()
    shares = [torch.where(y == 1, 0.95, 0.7) + 0.05 * torch.rand(300, generator=g) for y in (y_m, y_n)]
    result = attack(confident(y_m, shares[0]), confident(y_n, shares[1]), member_labels=y_m, nonmember_labels=y_n)
    assert result.low <= 0.5 <= result.high


def test_the_attack_is_tested_on_other_patients(monkeypatch):
    """A patient's images are alike and nothing else differs: an attacker with a memory must gain nothing from it."""
    monkeypatch.setattr(membership, "LogisticRegression", lambda max_iter: DecisionTreeClassifier(random_state=0))
    g = torch.Generator().manual_seed(3)
    y = torch.zeros(160, dtype=torch.long)
    p = confident(y, torch.rand(40, generator=g).repeat_interleave(4))
    q = confident(y, torch.rand(40, generator=g).repeat_interleave(4))
    result = attack(p, q, member_labels=y, nonmember_labels=y, images_per_subject=4)
    assert result.low <= 0.5 <= result.high
    assert (result.num_member_subjects, result.num_nonmember_subjects) == (40, 40)
    assert attack(p, q, member_labels=y, nonmember_labels=y).accuracy > 0.9  # were each image a patient of its own


def test_folds_part_patients_and_hold_as_many_of_either_side():
    side = np.repeat([1, 0], [90, 25])
    subjects = np.array([f"m{i % 11}" for i in range(90)] + [f"n{i % 8}" for i in range(25)])
    first, second = (_folds(subjects, side, 5, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert not np.array_equal(first, second)
    pairs = {*zip(subjects.tolist(), first.tolist(), strict=True)}
    assert len(pairs) == 11 + 8
    for kind, counts in (("m", [2, 2, 2, 2, 3]), ("n", [1, 1, 2, 2, 2])):
        assert sorted(sum(name[0] == kind and of == fold for name, of in pairs) for fold in range(5)) == counts


def test_the_interval_counts_patients():
    y = torch.arange(80) % 2
    g = torch.Generator().manual_seed(4)
    p, q = confident(y, torch.rand(80, generator=g)), confident(y, torch.rand(80, generator=g))
    single = attack(p, q, member_labels=y, nonmember_labels=y)
    grouped = attack(p, q, member_labels=y, nonmember_labels=y, images_per_subject=8)
    assert grouped.high - grouped.low > 1.5 * (single.high - single.low)


def test_the_result_follows_the_seed():
    g = torch.Generator().manual_seed(5)
    y = torch.arange(60) % 2
    p, q = confident(y, torch.rand(60, generator=g)), confident(y, torch.rand(60, generator=g))
    results = [attack(p, q, member_labels=y, nonmember_labels=y, seed=s) for s in (7, 7)]
    assert results[0] == results[1]


def test_features_by_hand():
    cross_entropy, top, entropy, margin = _features(
        torch.tensor([[0.25, 0.5, 0.25]]), torch.tensor([0]), ["a"], "member"
    )[0]
    assert cross_entropy == pytest.approx(np.log(4))
    assert top == pytest.approx(0.5)
    assert entropy == pytest.approx(1.5 * np.log(2))
    assert margin == pytest.approx(-0.25)


@pytest.mark.parametrize(("right", "n"), [(7, 20), (50, 100), (20, 20), (0, 5)])
def test_wilson_agrees_with_scipy(right, n):
    expected = binomtest(right, n).proportion_ci(method="wilson")
    assert _wilson(right / n, n) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_bad_input_is_refused():
    y = torch.tensor([0, 1])
    p = confident(y, torch.tensor([0.6, 0.7]))
    ok = {
        "member_probabilities": p,
        "member_labels": y,
        "member_subjects": ["a", "b"],
        "nonmember_probabilities": p,
        "nonmember_labels": y,
        "nonmember_subjects": ["c", "d"],
    }
    membership_attack(**ok)
    for change, message in (
        ({"nonmember_subjects": ["b", "d"]}, "subject b is a member and a non-member"),
        ({"member_probabilities": p * 2}, "softmax"),
        ({"member_labels": torch.tensor([0, 2])}, "must lie in"),
        ({"member_subjects": ["a"]}, "must fit"),
        ({"member_subjects": ["a", "a"]}, "two patients or more"),
        ({"nonmember_labels": y.clone().fill_(0), "member_labels": y.clone().fill_(1)}, "common label"),
    ):
        with pytest.raises(DataError, match=message):
            membership_attack(**(ok | change))
