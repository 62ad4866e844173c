"""A mixture of real and synthetic items, and the dealing of samples: like cards, none twice before all have come."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from monai_plan.utils import ConfigError, DataError, derive_seed, seeded_generator

__all__ = ["mix"]


def mix(
    real: Sequence[Mapping[str, Any]],
    synthetic: Sequence[Mapping[str, Any]],
    ratio: float,
    *,
    seed: int = 0,
    subject_key: str = "subject",
    label_key: str = "label",
) -> list[dict[str, Any]]:
    """Replace a share of the real items by synthetic ones, for those who may keep a part of the real data.

    Every class keeps its number of items. Real items go by whole patients as far as the numbers allow, so that fewer
    patients are used, and not only fewer images of each; what whole patients cannot make up goes image by image,
    patient by patient. A synthetic item comes twice only after all of its class have come.

    Args:
        real: items with ``label_key`` and, where the patient is known, ``subject_key``; without it in any item, each
            is a patient of its own.
        synthetic: items with ``label_key``, for instance ``SyntheticDataset(release_dir).data``. A share of a small
            set repeats items; a share of a large one leaves some out.
        ratio: the share of each class that is synthetic, in [0, 1], rounded to whole items.
        seed: of the choice and of the order.
        subject_key: the key of the patient.
        label_key: the key of the class.

    Returns:
        As many items as ``real`` has, in random order.

    Raises:
        ConfigError: if ``ratio`` lies outside [0, 1].
        DataError: if an item has no label, only some real items name a patient, or a class to be replaced has no
            synthetic item.
    """
    if not 0.0 <= ratio <= 1.0:
        raise ConfigError(f"ratio is {ratio}, but must lie in [0, 1]: the share of each class that is synthetic.")
    for kind, items in (("real", real), ("synthetic", synthetic)):
        unlabelled = [number for number, item in enumerate(items) if label_key not in item]
        if unlabelled:
            raise DataError(f"The {kind} item {unlabelled[0]} has no {label_key!r}: name the right label_key.")
    with_subject = sum(subject_key in item for item in real)
    if 0 < with_subject < len(real):
        raise DataError(
            f"{with_subject} of {len(real)} real items have {subject_key!r}: name the patient of all, or of none if "
            "every image is of another patient."
        )

    wanted = {
        label: math.floor(ratio * number + 0.5) for label, number in Counter(item[label_key] for item in real).items()
    }
    pools: dict[Hashable, list[Mapping[str, Any]]] = defaultdict(list)
    for item in synthetic:
        pools[item[label_key]].append(item)
    lacking = [label for label, number in wanted.items() if number and label not in pools]
    if lacking:
        raise DataError(
            f"There is no synthetic item of class {lacking[0]!r}, only of {sorted(pools, key=repr)}: name classes "
            "alike on both sides, or make samples of it."
        )
    subjects = [item[subject_key] if with_subject else number for number, item in enumerate(real)]
    dropped = _dropped(subjects, [item[label_key] for item in real], wanted, seed)
    mixed = [dict(item) for number, item in enumerate(real) if number not in dropped]
    for label, number in wanted.items():
        pool = pools[label]
        key = ("mix", repr(label))
        mixed += [dict(pool[dealt(place, len(pool), seed=seed, key=key)]) for place in range(number)]
    order = torch.randperm(len(mixed), generator=seeded_generator(seed, "mix order"))
    return [mixed[index] for index in order.tolist()]


def _dropped(
    subjects: Sequence[Hashable], labels: Sequence[Hashable], wanted: Mapping[Hashable, int], seed: int
) -> set[int]:
    """Positions to drop: ``wanted`` of each label, by whole subjects as far as that goes."""
    positions: dict[Hashable, list[int]] = defaultdict(list)
    for position, subject in enumerate(subjects):
        positions[subject].append(position)
    names = sorted(positions, key=repr)
    drawn = torch.randperm(len(names), generator=seeded_generator(seed, "mix subjects")).tolist()
    left = Counter(wanted)
    dropped: set[int] = set()
    kept: list[Hashable] = []
    for subject in (names[index] for index in drawn):
        sizes = Counter(labels[position] for position in positions[subject])
        if sizes <= left:
            left -= sizes
            dropped.update(positions[subject])
        else:
            kept.append(subject)
    for position in (position for subject in kept for position in positions[subject]):
        if left[labels[position]] > 0:
            left[labels[position]] -= 1
            dropped.add(position)
    return dropped


def dealt(place: int, size: int, *, seed: int, key: tuple[int | str, ...]) -> int:
    """What lies at ``place`` when seeded permutations of 0 … size − 1 are dealt out one after another.

    No number comes twice before all have come.

    Args:
        place: from 0.
        size: at least 1.
        seed, key: of the permutations.
    """
    turn, position = divmod(place, size)
    return int(_permutation(size, derive_seed(seed, *key, turn))[position])


@lru_cache(maxsize=256)
def _permutation(size: int, seed: int) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))
