"""Safe end points: k-same aggregation of inverted latents by patient, and the choice of pairs to walk between.

Part 6 of the method of PLAN (Pennisi et al., MICCAI 2023, arXiv 2307.02984). Here k counts patients, not images.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from monai_plan.utils import ConfigError, DataError, derive_seed, seeded_generator


@dataclass(frozen=True, eq=False)
class Anchors:
    """Safe end points, ordered by class: k-same centroids, or points of G's own distribution (``PriorAnchors``).

    Attributes:
        latents: [A, w_dim], or [A, num_ws, w_dim] in W+, on the CPU.
        labels: [A] int64, the class of each.
        members: for each centroid the ascending indices of the images behind it; every image belongs to exactly one.
            Empty for points of G's own distribution.
        k: the least number of subjects behind a centroid; None for points of G's own distribution.
        less_sure: how many of the points φ_class is less sure of than was asked for.
    """

    latents: Tensor
    labels: Tensor
    members: list[list[int]]
    k: int | None
    less_sure: int = 0


def k_same(latents: Tensor, labels: Tensor, subjects: Sequence[str], k: int, *, seed: int = 0) -> Anchors:
    """Group the latents of each class into clusters of k to 2k − 1 subjects, and average each cluster.

    With W_s the set of latents of subject s in the class, and S a cluster of subjects, the anchor is

        w_S = 1/|S| · Σ_{s ∈ S} w_s,    w_s = 1/|W_s| · Σ_{w ∈ W_s} w,    |S| ≥ k

    the mean over the *subjects'* means: a patient with four images does not weigh four times. Subjects stay whole:
    all images that a subject has in a class belong to one cluster. Clusters are found by MDAV (Domingo-Ferrer and
    Torra, 2005), the usual microaggregation for k-anonymity, on the w_s.

    The result does not depend on the order of the inputs.

    Args:
        latents: [N, w_dim], one w per image, or [N, num_ws, w_dim] in W+; finite.
        labels: [N] int, the class of each image.
        subjects: N identifiers, the patient of each image.
        k: the least number of subjects behind an anchor, at least 2.
        seed: decides between subjects at equal distances.

    Returns:
        The anchors; each class of n subjects gives between n / (2k − 1) and n / k of them.

    Raises:
        ConfigError: if k is less than 2 or the lengths and shapes do not fit together.
        DataError: if a latent is not finite, a subject is no string, or a class has fewer than k subjects.
    """
    _check_inputs(latents, labels, subjects, k)
    images: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, (label, subject) in enumerate(zip(labels.tolist(), subjects, strict=True)):
        images[label][subject].append(index)
    _check_counts({label: len(of_subject) for label, of_subject in images.items()}, k)

    values = latents.detach().as_subclass(Tensor).to("cpu", torch.float64).flatten(1)
    centroids, anchor_labels, members = [], [], []
    for label, of_subject in sorted(images.items()):
        # An order that depends on the seed alone, so that ties in MDAV do not depend on the order of the input.
        names = sorted(of_subject, key=lambda name: (derive_seed(seed, name), name))
        means = torch.stack([_mean(values[of_subject[name]]) for name in names])
        for cluster in _mdav(means, k):
            centroids.append(means[cluster].mean(0))
            anchor_labels.append(label)
            members.append(sorted(index for s in cluster for index in of_subject[names[s]]))
    anchors = torch.stack(centroids).to(latents.dtype).unflatten(1, latents.shape[1:])
    return Anchors(anchors, torch.tensor(anchor_labels), members, k)


def choose_pairs(anchor_labels: Tensor, *, num_pairs: Mapping[int, int], seed: int = 0) -> Tensor:
    """Choose pairs of anchors of one class, to walk from one to the other.

    Within a class of n anchors the uses of any two anchors differ by at most one, every anchor is used, and no pair
    comes twice before all n(n − 1)/2 have come once. A pair that comes twice gives the same path twice: more points
    on a path, or a smaller k, give more different images.

    Args:
        anchor_labels: [A] int, the class of each anchor.
        num_pairs: for each class among the labels, how many pairs to choose; at least ⌈n/2⌉ are returned, for less
            would leave an anchor out.
        seed: decides which anchors meet.

    Returns:
        [P, 2] int64, indices of anchors, ordered by class.

    Raises:
        ConfigError: if the labels are not [A] integers, or ``num_pairs`` lacks a class or has a negative number.
        DataError: if a class has one anchor or, though pairs of it are asked for, none.
    """
    if anchor_labels.ndim != 1 or anchor_labels.is_floating_point():
        raise ConfigError(f"anchor_labels must be [A] integers: got {_describe(anchor_labels)}.")
    anchors: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(anchor_labels.tolist()):
        anchors[label].append(index)
    for label, count in num_pairs.items():
        if count < 0:
            raise ConfigError(f"num_pairs asks for {count} pairs of class {label}: give 0 or more.")
        if count > 0 and label not in anchors:
            raise DataError(f"num_pairs asks for {count} pairs of class {label}, which has no anchor: leave it out.")

    pairs: list[tuple[int, int]] = []
    for label, members in sorted(anchors.items()):
        if label not in num_pairs:
            raise ConfigError(f"num_pairs does not say how many pairs of class {label} to choose: add it.")
        if len(members) == 1:
            raise DataError(
                f"Class {label} has one anchor, but a walk needs two, that is at least 2k subjects in the class: "
                "lower k, add subjects of this class, or leave the class out."
            )
        generator = seeded_generator(seed, "pairs", label)
        order = torch.randperm(len(members), generator=generator).tolist()
        schedule = _pair_schedule(len(members))
        for turn in range(max(num_pairs[label], (len(members) + 1) // 2)):
            a, b = schedule[turn % len(schedule)]
            pairs.append((members[order[a]], members[order[b]]))
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)


def _mdav(points: Tensor, k: int) -> list[list[int]]:
    """Maximum distance to average vector: [n, d] with n ≥ k → clusters of k … 2k − 1 rows.

    The point farthest from the centre of what is left, and the point farthest from that one, each take their k − 1
    nearest neighbours, until fewer than 2k are left.
    """
    left = list(range(len(points)))
    clusters: list[list[int]] = []

    def farthest_from(point: Tensor) -> Tensor:
        return points[left[int(_squared_distances(points[left], point).argmax())]]

    def take_nearest_to(point: Tensor) -> None:
        nearest = _squared_distances(points[left], point).argsort(stable=True)[:k].tolist()
        clusters.append([left[i] for i in nearest])
        left[:] = [i for i in left if i not in clusters[-1]]

    while len(left) >= 2 * k:
        r = farthest_from(points[left].mean(0))
        take_nearest_to(r)
        if len(left) >= 2 * k:
            take_nearest_to(farthest_from(r))
    clusters.append(left)
    return clusters


def _pair_schedule(n: int) -> list[tuple[int, int]]:
    """All pairs of 0 … n − 1, in an order in which after each pair no two numbers differ by more than one in use."""
    m = n // 2
    if n % 2 == 0:
        # The round robin: n − 1 rounds, in each of which everyone meets someone.
        ring = n - 1
        rounds = ([(ring, r), *(((r + i) % ring, (r - i) % ring) for i in range(1, m))] for r in range(ring))
        return [pair for one in rounds for pair in one]
    # Walecki's m Hamiltonian cycles: a zigzag over 2m numbers and back through the last one. Of each cycle every
    # second edge first: these touch everyone, then the others.
    zigzag = [(i + 1) // 2 if i % 2 else -(i // 2) for i in range(2 * m)]
    cycles = ([*((j + step) % (2 * m) for step in zigzag), 2 * m] for j in range(m))
    edges = (*range(0, n, 2), *range(1, n, 2))
    return [(cycle[e], cycle[(e + 1) % n]) for cycle in cycles for e in edges]


def _squared_distances(points: Tensor, point: Tensor) -> Tensor:
    return (points - point).square().sum(1)


def _mean(rows: Tensor) -> Tensor:
    """The mean of [n, d] over n, summed in an order that does not depend on that of the rows: it breaks ties."""
    return torch.tensor(sorted(rows.tolist()), dtype=rows.dtype).mean(0)


def _check_inputs(latents: Tensor, labels: Tensor, subjects: Sequence[str], k: int) -> None:
    if k < 2:
        raise ConfigError(f"k must be at least 2, got {k}: an anchor of one subject is that subject.")
    if latents.ndim not in (2, 3) or not latents.is_floating_point() or len(latents) == 0:
        raise ConfigError(
            f"latents must be [N, w_dim] or [N, num_ws, w_dim] floating point numbers, N ≥ 1: got {_describe(latents)}."
        )
    if labels.shape != latents.shape[:1] or labels.is_floating_point():
        raise ConfigError(f"labels must be [N] integers with N = {len(latents)}: got {_describe(labels)}.")
    if isinstance(subjects, str) or len(subjects) != len(latents):
        raise ConfigError(f"subjects must name the patient of each of the {len(latents)} latents: got {len(subjects)}.")
    for index, subject in enumerate(subjects):
        if not isinstance(subject, str):
            # 7 and "7" would count as two patients.
            raise DataError(f"Subject {subject!r} of latent {index} is no string: write all subjects as strings.")
    bad = (~latents.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
    if bad:
        raise DataError(f"Latent {bad[0]} is not finite ({len(bad)} in all): repeat the inversion of these images.")


def _check_counts(counts: Mapping[int, int], k: int) -> None:
    fewest = min(counts.values())
    remedy = f"the largest k that works for all classes is {fewest}; or add subjects of this class."
    if fewest < 2:
        remedy = "no k of 2 or more works for all classes: add subjects of this class or leave it out."
    for label, count in sorted(counts.items()):
        if count < k:
            raise DataError(f"Class {label} has {count} subject(s), but k = {k} needs at least {k}: {remedy}")


def _describe(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
