"""Membership inference: can an attacker tell from a classifier which real images were behind its training set?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from monai_plan.utils import DataError, seeded_generator

__all__ = ["MembershipResult", "membership_attack"]

MAX_FOLDS = 5
REPEATS = 5  # of the cross-validation: one alone swings with the choice of folds, more than the interval allows for
Z_95 = 1.959964  # standard normal quantile of a two-sided 95 % interval
SMALLEST = 1e-7  # probabilities are clipped here before their logarithm


@dataclass(frozen=True)
class MembershipResult:
    """What the attack could tell.

    Attributes:
        accuracy: share of images put on the right side, both sides and the labels within them weighing alike, in
            [0, 1]; 0.5 is chance and the ideal.
        low, high: ends of the 95 % interval.
        num_member_subjects, num_nonmember_subjects: patients behind those that took part.
    """

    accuracy: float
    low: float
    high: float
    num_member_subjects: int
    num_nonmember_subjects: int

    def __str__(self) -> str:
        return (
            f"membership attack: {100 * self.accuracy:.1f} % right (95 % interval {100 * self.low:.1f} to "
            f"{100 * self.high:.1f}, chance 50; {self.num_member_subjects} member and {self.num_nonmember_subjects} "
            "held-out patients)"
        )


def membership_attack(
    *,
    member_probabilities: Tensor,
    member_labels: Tensor,
    member_subjects: Sequence[str],
    nonmember_probabilities: Tensor,
    nonmember_labels: Tensor,
    nonmember_subjects: Sequence[str],
    seed: int = 0,
) -> MembershipResult:
    """Attack a classifier by what it says about members and non-members (the column MIA of arXiv 2307.02984).

    Members are the real training images, non-members real test images, whether the classifier saw the real images or
    synthetic ones made from them. The attacker sees the cross entropy of the true label, the highest probability, the
    entropy and the margin of the true label, and learns a logistic regression on other patients than those it is
    tested on (repeated cross-validation with folds disjoint by patient). Images are weighed so that both sides count
    alike and hold the labels in the same shares: a guess is right half of the time, and a class that is commoner in
    training tells nothing. The interval is Wilson's, counting patients, not images, widened for cross-validation.

    Args:
        member_probabilities, nonmember_probabilities: [N, K] and [M, K], the classifier's class probabilities.
        member_labels, nonmember_labels: [N] and [M], the true labels.
        member_subjects, nonmember_subjects: N and M patients, nobody on both sides.
        seed: of the folds.

    Raises:
        DataError: if shapes do not fit, a probability is no probability, a patient is on both sides, no label is on
            both sides, or a side has fewer than two patients.
    """
    member = _features(member_probabilities, member_labels, member_subjects, "member")
    nonmember = _features(nonmember_probabilities, nonmember_labels, nonmember_subjects, "nonmember")
    both = set(member_subjects) & set(nonmember_subjects)
    if both:
        raise DataError(
            f"subject {min(both)} is a member and a non-member ({len(both)} such): split training and test by subject."
        )
    x = np.concatenate([member, nonmember])
    labels = np.concatenate([member_labels.cpu().numpy(), nonmember_labels.cpu().numpy()])
    side = np.repeat([1, 0], [len(member), len(nonmember)])
    subjects = np.array([*member_subjects, *nonmember_subjects])

    # Labels of one side alone cannot be weighed to equal shares, and would give their side away.
    common = np.intersect1d(labels[side == 1], labels[side == 0])
    keep = np.isin(labels, common)
    x, labels, side, subjects = x[keep], labels[keep], side[keep], subjects[keep]
    num_subjects = [len(set(subjects[side == s])) for s in (1, 0)]
    if min(num_subjects) < 2:
        raise DataError(
            "a membership attack needs two patients or more with a common label on both sides, got "
            f"{num_subjects[0]} members and {num_subjects[1]} non-members: use a larger training or test set."
        )
    weights = _weights(labels, side)
    num_folds = min(MAX_FOLDS, *num_subjects)
    right = np.zeros(len(x))
    for repeat in range(REPEATS):
        folds = _folds(subjects, side, num_folds, seeded_generator(seed, "folds", repeat))
        for fold in range(num_folds):
            fit, test = folds != fold, folds == fold
            attacker = Pipeline([("scale", StandardScaler()), ("decide", LogisticRegression(max_iter=1000))])
            attacker.fit(x[fit], side[fit], decide__sample_weight=_weights(labels[fit], side[fit]))
            right[test] += (attacker.predict(x[test]) == side[test]) / REPEATS
    accuracy = float((weights * right).sum() / weights.sum())
    # Patients' worth of information on a side: (Σ w)² / Σ w² over its patients; then a mean of two shares.
    worth = [_effective_number(weights[side == s], subjects[side == s]) for s in (1, 0)]
    n = 4 / (1 / worth[0] + 1 / worth[1])
    # The attackers of different folds share most of their training data, which widens the spread of their mean
    # (Nadeau and Bengio, Machine Learning 2003).
    low, high = _wilson(accuracy, n / (num_folds * (1 / (REPEATS * num_folds) + 1 / (num_folds - 1))))
    return MembershipResult(accuracy, low, high, *num_subjects)


def _features(probabilities: Tensor, labels: Tensor, subjects: Sequence[str], side: str) -> np.ndarray:
    """[N, 4]: cross entropy of the true label, top probability, entropy, margin of the true label."""
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or len(subjects) != len(probabilities):
        raise DataError(
            f"{side}_probabilities [N, K], {side}_labels [N] and {side}_subjects must fit, got "
            f"{tuple(probabilities.shape)}, {tuple(labels.shape)} and {len(subjects)}."
        )
    p = probabilities.detach().cpu().double().numpy()
    y = labels.cpu().numpy()
    if not (np.isfinite(p).all() and (p >= 0).all() and np.allclose(p.sum(1), 1, atol=1e-3)):
        raise DataError(f"{side}_probabilities must be probabilities that sum to 1 in each row: apply softmax first.")
    if p.shape[1] < 2 or (len(y) and (y.min() < 0 or y.max() >= p.shape[1])):
        raise DataError(f"{side}_labels must lie in 0 … {p.shape[1] - 1}, for two classes or more.")
    rows = np.arange(len(p))
    true = p[rows, y]
    others = p.copy()
    others[rows, y] = -1
    log = np.log(p.clip(SMALLEST))
    return np.stack([-log[rows, y], p.max(1), -(p * log).sum(1), true - others.max(1)], axis=1)


def _folds(subjects: np.ndarray, side: np.ndarray, num_folds: int, generator: torch.Generator) -> np.ndarray:
    """The fold of every image, [N]: the patients of each side, shuffled, are dealt out in turn."""
    folds = np.empty(len(subjects), dtype=int)
    for s in (1, 0):
        names, patients = np.unique(subjects[side == s], return_inverse=True)
        folds[side == s] = (torch.randperm(len(names), generator=generator) % num_folds).numpy()[patients]
    return folds


def _weights(labels: np.ndarray, side: np.ndarray) -> np.ndarray:
    """Weights of mean 1, alike in sum on both sides, that give a label the same share of both: the members' share."""
    weights = np.zeros(len(labels))
    members = max((side == 1).sum(), 1)
    for label in np.unique(labels):
        share = ((labels == label) & (side == 1)).sum() / members
        for s in (0, 1):
            cell = (labels == label) & (side == s)
            weights[cell] = share / max(cell.sum(), 1) * len(labels) / 2
    return weights


def _effective_number(weights: np.ndarray, subjects: np.ndarray) -> float:
    _, index = np.unique(subjects, return_inverse=True)
    per_subject = np.bincount(index, weights)
    return float(per_subject.sum() ** 2 / np.square(per_subject).sum())


def _wilson(share: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a share seen in n independent trials."""
    z2 = Z_95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * np.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(float(centre - half), 0.0), min(float(centre + half), 1.0)
