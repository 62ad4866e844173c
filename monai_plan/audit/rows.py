"""The rows of the privacy report: what each attack found, in words that can be acted on."""

from __future__ import annotations

from dataclasses import dataclass

from monai_plan.audit.attacks import CopyAttack
from monai_plan.audit.findings import ALARM, CopyFindings
from monai_plan.audit.statistics import (
    Share,
    exact_interval,
    fewest_noticed,
    rank_test,
    residual_risk,
    smallest_rate,
    wilson_interval,
)

__all__ = ["ATTENTION", "CATEGORIES", "COPY_FIGURES", "ENOUGH", "LEAKS", "Row", "copy_row"]

ATTENTION = 0.05  # p below which a row asks to be looked at, though it does not alarm
ENOUGH = 0.8  # of the planted copies of a disguise that an attack must find, or it has no say
LEAKS = "If the generator leaks"  # the verdict of rows that say nothing of the release by itself
CATEGORIES = ("singling out", "linkability", "inference")  # Article 29 Working Party, opinion 05/2014 (WP216)
COPY_FIGURES = (  # and of every disguise what was found of those planted, such as "planted_exact"
    "p", "found", "tested", "rate", "rate_low", "rate_high", "residual_risk", "residual_risk_low",
    "residual_risk_high", "rank_p", "rank_above", "strangers", "control_found", "control_tested", "planted_found",
    "planted", "fewest_noticed", "bias",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One attack in the report.

    Attributes:
        name: on the command line and in files.
        title: in the report.
        category: one of ``CATEGORIES``.
        attacker: what the attacker has.
        main: what the attack found.
        control: what it finds where there is nothing to find.
        baseline: what a guess would find.
        power: what it found of what was planted, and what it would have noticed.
        verdict: "Alarm", "Attention", "Nothing found", "No answer" or ``LEAKS``.
        sentence: the verdict in full.
        figures: by name, for JSON and ``--fail-on``; None where there is no value.
        told_by_generator: whether it found somebody, of an attack that needs the generator: no verdict on the release.
    """

    name: str
    title: str
    category: str
    attacker: str
    main: str
    control: str
    baseline: str
    power: str
    verdict: str
    sentence: str
    figures: dict[str, float | None]
    told_by_generator: bool = False


def copy_row(attack: CopyAttack, found: CopyFindings, *, gallery: bool = True) -> Row:
    """The row of an attack on copies.

    Args:
        attack: the attack.
        found: what it found.
        gallery: whether there is a private folder, which shows who was found.
    """
    hits, planted = found.num_planted
    tail = attack.alarm == "tail"
    alarming = found.num_alarming if tail else found.rank.above
    tested = len(found.p_values) if tail else found.rank.tested
    p_value = min(found.p_values) if tail else found.rank.p_value
    share = exact_interval(alarming, tested)
    needed = 1 if tail else _needed(found)
    fewest = fewest_noticed(hits, planted, needed=needed)
    by_kind = ", ".join(f"{kind} {part.hits} of {part.trials}" for kind, part in found.planted.items())
    blindness = _blindness(attack, fewest, tested)
    verdict, sentence = _verdict(attack, found, p_value, blindness, gallery=gallery)
    residual = residual_risk(wilson_interval(alarming, tested), _wilson(found.control))
    return Row(
        name=attack.name,
        title=attack.title,
        category="singling out",
        attacker=attack.attacker,
        main=(
            f"{alarming} of {tested} {'images' if tail else 'groups'}, p = {_p(p_value)}"
            f"{f' (by rank {_p(found.rank.p_value)})' if tail else ''}; residual risk {residual}"
        ),
        control=(
            f"{found.control.hits} of {found.control.trials} held-out patients; are these as near to members as "
            f"members to each other? {found.bias}, 0.5 is fair"
        ),
        baseline="none",
        power=(
            f"{hits} of {planted} planted copies ({by_kind}).{f' It {blindness}.' if blindness else ''}"
            f"{_alone(attack, found, needed)} With {found.strangers} strangers, rates of "
            f"false positives below {100 * smallest_rate(found.strangers):.2g} % cannot be seen."
        ),
        verdict=verdict,
        sentence=sentence,
        figures={
            "p": None if verdict == "No answer" else p_value,
            "found": alarming,
            "tested": tested,
            "rate": share.value,
            "rate_low": share.low,
            "rate_high": share.high,
            "residual_risk": residual.value,
            "residual_risk_low": residual.low,
            "residual_risk_high": residual.high,
            "rank_p": found.rank.p_value,
            "rank_above": found.rank.above,
            "strangers": found.strangers,
            "control_found": found.control.hits,
            "control_tested": found.control.trials,
            "planted_found": hits,
            "planted": planted,
            "fewest_noticed": fewest,
            "bias": found.bias.value,
            **{f"planted_{kind}": part.hits for kind, part in found.planted.items()},
        },
    )


def _alone(attack: CopyAttack, found: CopyFindings, needed: int) -> str:
    """How many groups an alarm takes, where one is too few whatever it shows."""
    if attack.alarm == "tail" or needed == 1:
        return ""
    return f" One group alone cannot alarm: {needed} of {found.rank.tested} must lie above all strangers."


def _blindness(attack: CopyAttack, fewest: int | None, tested: int) -> str:
    """Of how many copies the planted ones say that it may miss them; empty where a single one would be noticed."""
    if fewest is None or fewest == 1:
        return ""
    if fewest > tested:
        return f"might miss them even were all {tested} {'images' if attack.alarm == 'tail' else 'groups'} copies"
    return f"would not notice fewer than {fewest} in the release"


def _verdict(
    attack: CopyAttack, found: CopyFindings, p_value: float, blindness: str, *, gallery: bool
) -> tuple[str, str]:
    hits, planted = found.num_planted
    # a copy that stands out alone is one whatever the split; that many lie a little nearer may be the split itself
    if p_value < ALARM and not (found.biased and attack.alarm == "rank"):
        who = (
            f"{_images(found.num_alarming)} one patient more than any of {found.strangers} strangers' images does"
            if attack.alarm == "tail"
            else f"{found.rank.above} of {found.rank.tested} groups of images lie nearer to one patient than any of "
            f"{found.strangers} strangers does"
        )
        look = "Look at exposed.png in the private folder" if gallery else "To see who, run again with --private"
        return "Alarm", f"Alarm: {who} (p = {_p(p_value)}). {look}; do not release."
    if found.biased:
        small = f", though p = {_p(p_value)}" if p_value < ALARM else ""
        return "No answer", (
            f"No answer{small}: held-out patients and those who took part differ by more than chance "
            f"(area under the curve {found.bias}), so what tells them apart may not be the release. Split the data "
            "list anew by patient, all images made and processed alike."
        )
    weak = [kind for kind, share in found.planted.items() if share.hits < ENOUGH * share.trials]
    missed = [kind for kind in weak if kind in attack.must_find]
    if missed:
        first = found.planted[missed[0]]
        return "No answer", (
            f"No answer: of {first.trials} planted copies that were {missed[0]} the attack found {first.hits} only, so "
            "that it says nothing of this data set. More patients in both sections help."
        )
    if attack.alarm == "rank" and rank_test([1.0] * found.rank.tested, [0.5] * found.rank.null).p_value >= ALARM:
        return "No answer", (
            f"No answer: were all {found.rank.tested} groups nearer to one patient than {found.strangers} strangers, "
            "chance could explain it. More patients help, or more released images."
        )
    blind = f" Copies that are {' or '.join(weak)} may escape it." if weak else ""
    but = f", but {blindness}" if blindness else ""
    sentence = f"No copy found: it found {hits} of {planted} planted copies{but}.{blind}"
    if attack.limits:
        sentence = f"{sentence} Not looked for: {attack.limits}."
    tail = attack.alarm == "tail"
    if tail and p_value < ATTENTION:
        return "Attention", f"{sentence} Attention: p = {_p(p_value)} is no alarm, but seldom chance."
    if found.rank.p_value < ATTENTION:
        told = f"{'by rank' if tail else 'p ='} {_p(found.rank.p_value)}"
        return "Attention", (
            f"{sentence} Attention: {found.rank.above} of {found.rank.tested} lie above all {found.strangers} "
            f"strangers ({told}): images that are blurred or coarser than real ones do, too."
        )
    return "Nothing found", sentence


def _images(count: int) -> str:
    return "1 image resembles" if count == 1 else f"{count} images resemble"


def _needed(found: CopyFindings) -> int:
    """How many groups above all strangers make the rank test alarm."""
    tested, null = found.rank.tested, found.rank.null
    return next(
        (n for n in range(1, tested + 1) if rank_test([1.0] * n + [0.0] * (tested - n), [0.5] * null).p_value < ALARM),
        tested,
    )


def _wilson(share: Share) -> Share:
    return wilson_interval(share.hits, share.trials, confidence=share.confidence)


def _p(value: float) -> str:
    return f"{value:.2g}"
