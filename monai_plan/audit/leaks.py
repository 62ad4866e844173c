"""Attackers who have more than the images: the generator, a classifier trained on the release, all patients but one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from monai_plan.audit.attacks import People
from monai_plan.audit.rows import LEAKS, Row
from monai_plan.audit.statistics import area_under_curve, exact_interval, residual_risk, smallest_rate, wilson_interval

__all__ = ["GENERATOR_FIGURES", "differencing_row", "generator_row", "membership_row"]

GENERATOR_FIGURES = ("area", "area_low", "area_high")


def membership_row(released: Mapping[str, Any], real: Mapping[str, Any]) -> Row:
    """The row of the attack on a classifier that was trained on the release.

    Args:
        released, real: "accuracy", "low" and "high" of ``membership_attack``, each a list of one value per classifier;
            of classifiers trained on the release, and on the members themselves: the positive control.
    """
    (accuracy, low, high), (control, control_low, control_high) = (
        tuple(sum(result[key]) / len(result[key]) for key in ("accuracy", "low", "high")) for result in (released, real)
    )
    if control_low <= 0.5:
        verdict = "No answer"
        sentence = (
            "No answer: not even a classifier trained on the patients' own images gives them away here "
            f"({_percent(control, control_low, control_high)}), so that one trained on the release could not."
        )
    elif low > 0.5:
        verdict = "Attention"
        sentence = (
            "Attention: a classifier trained on the release knows who took part better than chance "
            f"({_percent(accuracy, low, high)})."
        )
    else:
        verdict = "Nothing found"
        sentence = (
            f"Nothing found: {_percent(accuracy, low, high)}, where a classifier trained on the patients' own images "
            f"gives {_percent(control, control_low, control_high)}. The attack is weak."
        )
    return Row(
        name="membership",
        title="Membership, through a classifier",
        category="inference",
        attacker="a classifier trained on the release, and images and class of the person sought",
        main=_percent(accuracy, low, high),
        control="held-out patients are one half of what is told apart",
        baseline="50 %",
        power=f"{_percent(control, control_low, control_high)} for a classifier trained on the patients' own images",
        verdict=verdict,
        sentence=sentence,
        figures={
            "accuracy": accuracy,
            "accuracy_low": low,
            "accuracy_high": high,
            "planted": control,
            "planted_low": control_low,
            "planted_high": control_high,
        },
    )


def _percent(value: float, low: float, high: float) -> str:
    return f"{100 * value:.0f} % right ({100 * low:.0f} to {100 * high:.0f})"


def generator_row(
    members: People,
    held_out: People,
    released: Tensor,
    *,
    attacker: str = "the generator, the released images' latents, and images of the person sought",
) -> Row:
    """The row of the attacker who has the generator, and projects the person sought into its latent space.

    A member's projection lies nearer to a released point than a stranger's, if the release is made of members.

    Args:
        members, held_out: projections [N, L] in the place of images, all made alike, and whose they are.
        released: latents of the released images, [R, L].
        attacker: what its attacker has.
    """
    nearness = [_nearness(side, released) for side in (members, held_out)]
    area = area_under_curve(*(values.numpy() for values in nearness))
    half = area_under_curve(*(side.numpy() for side in (nearness[1][::2], nearness[1][1::2])))
    found = area.low > 0.5
    return Row(
        name="generator",
        title="The generator leaks",
        category="inference",
        attacker=attacker,
        main=f"members nearer with a chance of {area}",
        control=f"one half of the held-out patients nearer than the other: {half}",
        baseline="0.5",
        power=f"{len(nearness[0])} and {len(nearness[1])} patients; chances within the interval's width are not told "
        "from a half",
        verdict=LEAKS,
        sentence=(
            "If the generator leaks, it can be told who took part better than by chance: keep it private."
            if found
            else "If the generator leaks, this attack does not tell who took part; others may. Keep it private."
        ),
        figures={"area": area.value, "area_low": area.low, "area_high": area.high},
        told_by_generator=found,
    )


def _nearness(side: People, released: Tensor) -> Tensor:
    """[patients]: minus the least distance of a patient's projections to a released point."""
    least = torch.cat([torch.cdist(part, released).amin(1) for part in side.images.flatten(1).split(256)])
    numbers = side.numbers
    return -least.new_zeros(int(numbers.max()) + 1).scatter_reduce(0, numbers, least, "amin", include_self=False)


def differencing_row(people: People, labels: Sequence[int], groups: Sequence[Sequence[int]], released: Tensor) -> Row:
    """The row of the attacker who has the generator, and knows all patients behind an average but one.

    From each average he takes what he knows, k · w less the others, and looks who lies nearest to what is left: among
    all patients whom he does not know to be in it.

    Args:
        people: mean latents [P, L] of every patient, in the place of images.
        labels: the class of each, which an average does not mix.
        groups: the patients (rows of ``people``) behind each average.
        released: latents of the released images, [R, L].
    """
    latents = people.images.flatten(1)
    hits, trials, chance = 0, 0, 0.0
    for group in groups:
        k = len(group)
        for hidden in group:
            known = latents[[row for row in group if row != hidden]].sum(0)
            others = (row for row in range(len(latents)) if row not in group and labels[row] == labels[hidden])
            candidates = [hidden, *others]
            left = k * released - known
            distances = torch.cdist(latents[candidates], left).amin(1)
            hits += int(distances.argmin() == 0 and (distances[1:] > distances[0]).all())
            trials, chance = trials + 1, chance + 1 / len(candidates)
    share, guess = exact_interval(hits, trials), chance / max(trials, 1)
    control = wilson_interval(round(guess * trials), trials)
    risk = residual_risk(wilson_interval(hits, trials), control)
    found = share.low > guess and trials > 0
    return Row(
        name="differencing",
        title="All patients of an average but one",
        category="linkability",
        attacker="the generator, the released images' latents, and all patients behind an average but one",
        main=f"the last one found first in {share}",
        control="the same patients among those who are not behind the average",
        baseline=f"{100 * guess:.2g} %",
        power=f"{trials} patients; rates below {100 * smallest_rate(trials):.2g} % would not be seen",
        verdict=LEAKS,
        sentence=(
            f"If the generator leaks, who knows all patients behind an average but one finds the last one more often "
            f"than by guessing (residual risk {risk}): keep it private."
            if found
            else "If the generator leaks, who knows all patients behind an average but one does not find the last one."
        ),
        figures={"rate": share.value, "rate_low": share.low, "rate_high": share.high, "guess": guess},
        told_by_generator=found,
    )
