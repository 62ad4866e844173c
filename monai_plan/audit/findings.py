"""What an attack on copies found, with its controls: one result for each attack, by patient."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monai_plan.audit.attacks import CopyAttack, People, Scores
from monai_plan.audit.controls import disguise
from monai_plan.audit.statistics import (
    Estimate,
    RankTest,
    Share,
    Tail,
    area_under_curve,
    exact_interval,
    rank_test,
    tail_of,
)
from monai_plan.progress import Progress
from monai_plan.utils import DataError, finished_part, seeded_generator

__all__ = ["ALARM", "CopyFindings", "find_copies", "judge"]

ALARM = 0.01  # p below which an attack alarms; several attacks together stay below one false alarm in twenty
PLANTED = 5  # members whose copies are planted
MOST_STRANGERS = 1000  # images of a side of the null
BLOCK = 128  # images that are scored, and kept, at a time
BIAS_CONFIDENCE = 0.99
BIAS = 0.1  # by which the area under the curve differs from a half before the split counts as biased
FEWEST_PATIENTS = 2  # of either side; below 50 in all there is no tail, and a row that needs it has no answer


@dataclass(frozen=True)
class CopyFindings:
    """What one attack found.

    Attributes:
        rank: released groups above all strangers.
        p_values: of every released image, by the null's tail; 1 where the null is too small for one.
        nearest: of every released image, the row of the member that it resembles most.
        scores: of every released image, in mean excesses over the 90 % quantile of strangers.
        strangers: patients behind the null.
        control: held-out patients that the attack takes for copies when they are tested as a release.
        planted: found copies by disguise.
        bias: the chance that a held-out patient resembles a member more than a member resembles another one; a half
            where the split is fair. With an interval of 99 %.
    """

    rank: RankTest
    p_values: tuple[float, ...]
    nearest: tuple[int, ...]
    scores: tuple[float, ...]
    strangers: int
    control: Share
    planted: dict[str, Share]
    bias: Estimate

    @property
    def num_alarming(self) -> int:
        """Images whose p-value is below ``ALARM``."""
        return sum(p < ALARM for p in self.p_values)

    @property
    def num_planted(self) -> tuple[int, int]:
        """Planted copies that were found, and all of them."""
        return sum(share.hits for share in self.planted.values()), sum(share.trials for share in self.planted.values())

    @property
    def biased(self) -> bool:
        """Whether held-out patients and members differ as no random split makes them."""
        return not self.bias.low <= 0.5 <= self.bias.high and abs(self.bias.value - 0.5) > BIAS


class _Null:
    """Strangers' scores, and what they make of the scores of others."""

    def __init__(self, sides: Sequence[tuple[Tensor, Sequence[str]]]) -> None:
        """``sides``: scores [N, S] and patients of each."""
        peaks = torch.cat([_by_patient(values, subjects, "amax") for values, subjects in sides])
        tails = [tail_of(column.numpy()) for column in peaks.T]
        # too few strangers for a tail: their spread alone
        self.starts = torch.tensor([t.start if t else float(c.median()) for t, c in zip(tails, peaks.T, strict=True)])
        spreads = [t.mean_excess if t else float(c.std()) for t, c in zip(tails, peaks.T, strict=True)]
        self.spreads = torch.tensor(spreads).clamp_min(1e-6)
        self.peaks = self.unit(peaks).numpy()
        self.tail: Tail | None = tail_of(self.peaks)

    def unit(self, values: Tensor) -> Tensor:
        """[N, S] → [N]: the most conspicuous of the statistics, each in units of the null's mean excess."""
        return ((values - self.starts) / self.spreads).amax(1)

    def p_values(self, units: Tensor, num_tested: int) -> list[float]:
        """Of each image among ``num_tested``."""
        return [1.0 if self.tail is None else self.tail.p_value(unit, num_tested) for unit in units.tolist()]

    def found(self, units: Tensor, num_tested: int, alarm: str) -> list[bool]:
        """Whether each image alone would be taken for a copy: it alarms, or lies above all strangers."""
        if alarm == "rank":
            return (units > float(self.peaks.max())).tolist()
        return [p < ALARM for p in self.p_values(units, num_tested)]


def _by_patient(values: Tensor, subjects: Sequence[str], reduce: str) -> Tensor:
    """[N, S] → [patients, S], patients in sorted order."""
    numbers = People(values, subjects).numbers
    shape = (int(numbers.max()) + 1, values.shape[1])
    index = numbers[:, None].expand_as(values)
    return values.new_zeros(shape).scatter_reduce(0, index, values, reduce, include_self=False)


class _Scorer:
    """Scores of images against the members, block by block, each kept in a file."""

    def __init__(self, attack: CopyAttack, members: People, cache_dir: str | os.PathLike[str], bar: Progress) -> None:
        self.attack, self.members, self.cache_dir, self.bar = attack, members, Path(cache_dir), bar
        self.made_by = [attack.settings(), members.images, list(members.subjects)]

    @cached_property
    def index(self) -> Any:
        return self.attack.index(self.members)

    def __call__(self, name: str, images: Tensor, own: Tensor | None = None) -> Scores:
        owns = [None] * len(images.split(BLOCK)) if own is None else own.split(BLOCK)
        found = []
        for number, (block, of_block) in enumerate(zip(images.split(BLOCK), owns, strict=True)):
            part = finished_part(
                self.cache_dir / f"{self.attack.name}-{name}-{number:04d}.pt",
                kind="part of the audit",
                made_by=[*self.made_by, block, of_block],
                make=lambda block=block, of_block=of_block: (  # type: ignore[misc]
                    self.attack.scores(self.index, block, own=of_block)._asdict()
                ),
            )
            found.append(part)
            self.bar.update(len(block))
        return Scores(*(torch.cat([part[key] for part in found]) for key in ("values", "nearest")))


def find_copies(
    attack: CopyAttack,
    *,
    members: People,
    held_out: People,
    released: Tensor,
    groups: Sequence[str],
    cache_dir: str | os.PathLike[str],
    seed: int = 0,
    progress: bool = True,
) -> CopyFindings:
    """Play an attack on a release, and on its controls.

    Strangers are held-out patients compared with all members, and members compared with the other ones; the null has
    the maximum of each patient.

    Args:
        attack: the attack.
        members: real images from which the release was made.
        held_out: real images of other patients.
        released: [N, C, *spatial] in [-1, 1].
        groups: of every released image; images of one group resemble each other and count once in the rank test.
        cache_dir: private folder; finished blocks are read again when the same inputs come back.
        seed: of the members that are planted, and of the strangers where there are too many.
        progress: show a progress bar.

    Raises:
        DataError: if a patient is on both sides, or there are fewer than two patients on one.
    """
    _check(members, held_out)
    some = _draw(len(members.images), MOST_STRANGERS, seed, "members")
    others = _draw(len(held_out.images), MOST_STRANGERS, seed, "held out")
    rows = _draw(len(members.images), PLANTED, seed, "planted")
    total = len(released) + len(others) + len(some) + len(rows) * len(attack.planted)
    with Progress(total=total, desc=f"audit, {attack.title.lower()}", disable=not progress) as bar:
        score = _Scorer(attack, members, cache_dir, bar)
        return judge(
            score("released", released),
            groups=groups,
            outside=score("held-out", held_out.images[others]).values,
            outside_subjects=[held_out.subjects[i] for i in others.tolist()],
            inside=score("members", members.images[some], members.numbers[some]).values,
            inside_subjects=[members.subjects[i] for i in some.tolist()],
            planted={
                kind: score(f"planted-{kind}", disguise(members.images[rows], kind, seed=seed)).values
                for kind in attack.planted
            },
            alarm=attack.alarm,
        )


def judge(
    main: Scores,
    *,
    groups: Sequence[str],
    outside: Tensor,
    outside_subjects: Sequence[str],
    inside: Tensor,
    inside_subjects: Sequence[str],
    planted: Mapping[str, Tensor],
    alarm: str,
) -> CopyFindings:
    """Say what scores mean.

    Args:
        main: of the released images.
        groups: of each of them.
        outside: scores [N, S] of held-out images against all members.
        inside: of members against the other ones.
        outside_subjects, inside_subjects: whose they are.
        planted: scores of planted copies by disguise.
        alarm: see ``CopyAttack``.
    """
    sides = [(outside, outside_subjects), (inside, inside_subjects)]
    null, members_null, tested = _Null(sides), _Null(sides[1:]), len(main.values)
    units = null.unit(main.values)
    peaks = _by_patient(members_null.unit(outside)[:, None], outside_subjects, "amax")[:, 0]
    means = [_by_patient(null.unit(values)[:, None], subjects, "mean")[:, 0].numpy() for values, subjects in sides]
    return CopyFindings(
        rank=rank_test(_by_patient(units[:, None], groups, "amax")[:, 0].numpy(), null.peaks),
        p_values=tuple(null.p_values(units, tested)),
        nearest=tuple(main.nearest.tolist()),
        scores=tuple(units.tolist()),
        strangers=len(null.peaks),
        control=exact_interval(sum(members_null.found(peaks, len(peaks), alarm)), len(peaks)),
        planted={
            kind: exact_interval(sum(null.found(null.unit(values), tested, alarm)), len(values))
            for kind, values in planted.items()
        },
        bias=area_under_curve(*means, confidence=BIAS_CONFIDENCE),
    )


def _check(members: People, held_out: People) -> None:
    both = set(members.subjects) & set(held_out.subjects)
    if both:
        raise DataError(
            f"subject {min(both)} is a member and held out ({len(both)} such): split the data list by subject."
        )
    least = min(len(set(side.subjects)) for side in (members, held_out))
    if least < FEWEST_PATIENTS:
        raise DataError(
            f"an audit needs two patients or more who took part and as many who did not, got {least} on one side: add "
            "images of patients to that section of the data list."
        )


def _draw(count: int, most: int, seed: int, key: str) -> Tensor:
    """At most so many rows, in order."""
    return torch.randperm(count, generator=seeded_generator(seed, "audit", key))[:most].sort().values
