"""What counts say: pure functions on numbers of hits and on scores, without images, networks or draws.

Results are named tuples that print their interval. All are defined at no hit and at all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import betainc, betaincinv, ndtri

from monai_plan.utils import ConfigError, DataError

__all__ = [
    "Estimate",
    "RankTest",
    "Share",
    "Tail",
    "area_under_curve",
    "exact_interval",
    "fewest_noticed",
    "guessed",
    "rank_test",
    "residual_risk",
    "smallest_rate",
    "tail_of",
    "wilson_interval",
]

CONFIDENCE = 0.95
TAIL_SHARE = 0.1  # of the null that its tail is fitted to
MOST_COPIES = 10_000
FEWEST_IN_TAIL = 5  # values from which a tail can be fitted: of 50 in all


class Share(NamedTuple):
    """A share of independent trials, with the interval of the rate behind it.

    Attributes:
        hits, trials: what was counted.
        low, high: ends of the interval, in [0, 1].
        confidence: of the interval, in (0, 1).
    """

    hits: int
    trials: int
    low: float
    high: float
    confidence: float = CONFIDENCE

    @property
    def value(self) -> float:
        """The share itself; not a number without trials."""
        return self.hits / self.trials if self.trials else math.nan

    def __str__(self) -> str:
        low, high = f"{100 * self.low:.3g}", f"{100 * self.high:.3g}"
        return f"{self.hits} of {self.trials} ({100 * self.confidence:g} % interval {low} to {high} %)"


class Estimate(NamedTuple):
    """A number with its interval.

    Attributes:
        value, low, high: the number and the ends of its interval.
        confidence: of the interval, in (0, 1).
    """

    value: float
    low: float
    high: float
    confidence: float = CONFIDENCE

    def __str__(self) -> str:
        return f"{self.value:.3g} ({100 * self.confidence:g} % interval {self.low:.3g} to {self.high:.3g})"


class RankTest(NamedTuple):
    """How many tested values lie above all of the null.

    Attributes:
        above: tested values above the greatest of the null.
        tested, null: how many values there are on either side.
        p_value: of so many or more, if all come from one distribution.
    """

    above: int
    tested: int
    null: int
    p_value: float

    def __str__(self) -> str:
        return f"{self.above} of {self.tested} above all of {self.null}, p = {self.p_value:.3g}"


class Tail(NamedTuple):
    """The upper tail of a null distribution, exponential beyond a quantile.

    Attributes:
        start: where the tail begins.
        mean_excess: mean of what lies beyond it, less ``start``.
        share: of the null beyond ``start``.
        beyond: how many values lie beyond ``start``.
    """

    start: float
    mean_excess: float
    share: float
    beyond: int

    def p_value(self, value: float, num_tested: int = 1) -> float:
        """The chance that one or more of ``num_tested`` values of the null's distribution reach ``value``, at most.

        The tail is exponential with a mean known from ``beyond`` values alone, and so a further excess over their mean
        follows F(2, 2 n): (1 + x / (n · mean))^−n instead of exp(−x / mean), which would be too sure.
        Bonferroni's bound over the tested ones. Below ``start`` it is 1.
        """
        if value < self.start:
            return 1.0
        if self.mean_excess <= 0:  # all of the tail in one point: what lies above is unlike it, but by how much?
            return 1.0 if value == self.start else min(1.0, num_tested / (self.beyond / self.share + 1))
        excess = (value - self.start) / (self.beyond * self.mean_excess)
        return min(1.0, num_tested * self.share * math.exp(-self.beyond * math.log1p(excess)))


def wilson_interval(hits: int, trials: int, *, confidence: float = CONFIDENCE) -> Share:
    """Wilson's score interval of a rate (Journal of the American Statistical Association 22, 1927).

    Args:
        hits: 0 … ``trials``.
        trials: independent ones; none leave the interval [0, 1].
        confidence: in (0, 1).

    Raises:
        ConfigError: if a number is out of range.
    """
    _check(hits, trials, confidence)
    if not trials:
        return Share(hits, trials, 0.0, 1.0, confidence)
    z2 = _z(confidence) ** 2
    centre, half = _wilson(hits / trials, trials, z2)
    # at the ends one limit is the end itself, which rounding would miss
    low = 0.0 if hits == 0 else max(centre - half, 0.0)
    return Share(hits, trials, low, 1.0 if hits == trials else min(centre + half, 1.0), confidence)


def exact_interval(hits: int, trials: int, *, confidence: float = CONFIDENCE) -> Share:
    """The exact interval of a rate (Clopper and Pearson, Biometrika 26, 1934), never too short.

    Args, Raises:
        see ``wilson_interval``.
    """
    _check(hits, trials, confidence)
    tail = (1 - confidence) / 2
    low = 0.0 if hits == 0 else float(betaincinv(hits, trials - hits + 1, tail))
    high = 1.0 if hits == trials else float(betaincinv(hits + 1, trials - hits, 1 - tail))
    return Share(hits, trials, low, high, confidence)


def residual_risk(attack: Share, control: Share) -> Estimate:
    """The share of successes that taking part made possible: (attack − control) / (1 − control).

    As in anonymeter (Giomi et al., PoPETs 2023): rates and their errors are Wilson's centres and half widths, the
    errors are propagated, and the interval ends at 0 and 1. Wilson's centre is never 1, so that it is always defined.

    Args:
        attack: successes on those who took part.
        control: successes of the same attack on those who did not.
    """
    z2 = _z(attack.confidence) ** 2
    a, a_half = _wilson(attack.value if attack.trials else 0.5, attack.trials, z2)
    c, c_half = _wilson(control.value if control.trials else 0.5, control.trials, z2)
    value = (a - c) / (1 - c)
    half = math.hypot(a_half / (1 - c), c_half * (1 - a) / (1 - c) ** 2)
    low, high = (min(max(end, 0.0), 1.0) for end in (value - half, value + half))
    return Estimate(min(max(value, 0.0), 1.0), low, high, attack.confidence)


def rank_test(tested: Sequence[float] | np.ndarray, null: Sequence[float] | np.ndarray) -> RankTest:
    """How likely the greatest values are all tested ones, if tested and null come from one distribution.

    With a tested and b null values, the j greatest are all tested with the chance ∏ (a − i) / (a + b − i), i < j: the
    draws without replacement of the hypergeometric distribution (Rosenbaum, Annals of Mathematical Statistics 25,
    1954). Nothing is assumed of the distribution.

    Args:
        tested, null: scores, each of an independent trial; equal ones do not count as above.

    Raises:
        DataError: if a score is not a number.
    """
    a, b = _scores(tested), _scores(null)
    above = int((a > b.max()).sum()) if len(b) else 0
    i = np.arange(above)
    log_p = np.log((len(a) - i) / (len(a) + len(b) - i)).sum() if above else 0.0
    return RankTest(above, len(a), len(b), float(np.exp(log_p)))


def tail_of(null: Sequence[float] | np.ndarray, *, share: float = TAIL_SHARE) -> Tail | None:
    """Fit the upper tail of a null distribution, so that values beyond all of it get a p-value each.

    Excesses over a high quantile are exponential for all distributions whose tail is no power law (Pickands, Annals of
    Statistics 3, 1975, with the shape 0).

    Args:
        null: scores, each of an independent trial.
        share: of them that makes the tail, in (0, 1).

    Returns:
        The tail, or None where fewer than five values would make it.

    Raises:
        ConfigError: if ``share`` is out of range.
        DataError: if a score is not a number.
    """
    if not 0 < share < 1:
        raise ConfigError(f"share must lie between 0 and 1, both excluded, got {share}.")
    values = np.sort(_scores(null))
    count = int(len(values) * share)
    if count < FEWEST_IN_TAIL:
        return None
    start = float(values[-count - 1])
    return Tail(start, float(values[-count:].mean()) - start, count / len(values), count)


def smallest_rate(trials: int, *, confidence: float = CONFIDENCE) -> float:
    """The smallest rate that would have shown at least once in so many trials, with this confidence.

    1 − (1 − confidence)^(1 / trials); about 3 / trials (Hanley and Lippman-Hand, JAMA 249, 1983). It is the smallest
    false positive rate that a sample of so many strangers can speak of, and the smallest rate of copies that an attack
    on so many images would have found. 1 without trials.
    """
    _check(0, trials, confidence)
    return -math.expm1(math.log1p(-confidence) / trials) if trials else 1.0


def guessed(right: int, trials: int) -> float:
    """The chance of so many right answers or more by tossing a coin, P(Binomial(trials, ½) ≥ right)."""
    _check(right, trials, CONFIDENCE)
    return float(betainc(right, trials - right + 1, 0.5)) if right else 1.0


def fewest_noticed(found: int, planted: int, *, needed: int = 1, confidence: float = CONFIDENCE) -> int | None:
    """How many copies there must be for an attack to notice them, judged by copies that were planted.

    The attack finds a copy with a chance of at least the exact one-sided bound at ``found`` of ``planted``; so many
    copies are needed for ``needed`` found ones with this confidence.

    Args:
        found, planted: of the positive control.
        needed: copies that must be found before the attack says so.
        confidence: of the bound and of the finding.

    Returns:
        The number; None if nothing was found, or it would be more than ``MOST_COPIES``.
    """
    _check(found, planted, confidence)
    chance = float(betaincinv(found, planted - found + 1, 1 - confidence)) if found else 0.0
    for copies in range(needed, MOST_COPIES + 1) if chance > 0 else ():
        if betainc(needed, copies - needed + 1, chance) >= confidence:  # P(Binomial(copies, chance) >= needed)
            return copies
    return None


def area_under_curve(
    positive: Sequence[float] | np.ndarray, negative: Sequence[float] | np.ndarray, *, confidence: float = CONFIDENCE
) -> Estimate:
    """The chance that a positive's score exceeds a negative's, ties by half: the area under the ROC curve.

    The interval is Newcombe's fifth (Statistics in Medicine 25, 2006): the areas whose variance by Hanley and McNeil
    (Radiology 143, 1982) makes the one seen likely enough. It has a width at 0 and at 1, too.

    Args:
        positive, negative: scores, each of an independent trial.
        confidence: in (0, 1).

    Raises:
        ConfigError: if ``confidence`` is out of range.
        DataError: if a score is not a number, or a side has none.
    """
    _check(0, 0, confidence)
    a, b = _scores(positive), np.sort(_scores(negative))
    if not len(a) or not len(b):
        raise DataError(f"an area under the curve needs scores on both sides, got {len(a)} and {len(b)}.")
    below = np.searchsorted(b, a, "left") + np.searchsorted(b, a, "right")
    value = float(below.sum() / (2 * len(a) * len(b)))
    z, more = _z(confidence), (len(a) + len(b)) / 2 - 1

    def too_far(area: float) -> bool:
        """Whether the area seen would lie outside the interval around this one."""
        spread = 1 + more * ((1 - area) / (2 - area) + area / (1 + area))
        return abs(value - area) > z * math.sqrt(max(area * (1 - area), 0.0) * spread / (len(a) * len(b)))

    ends = []
    for outer in (0.0, 1.0):
        inner = value
        for _ in range(60):  # halvings
            middle = (outer + inner) / 2
            outer, inner = (middle, inner) if too_far(middle) else (outer, middle)
        ends.append(inner)
    return Estimate(value, ends[0], ends[1], confidence)


def _wilson(share: float, n: float, z2: float) -> tuple[float, float]:
    """Centre and half width; without trials all of [0, 1]."""
    if not n:
        return 0.5, 0.5
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    return centre, math.sqrt(z2) / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))


def _z(confidence: float) -> float:
    return float(ndtri((1 + confidence) / 2))


def _scores(values: Sequence[float] | np.ndarray) -> np.ndarray:
    scores = np.asarray(values, dtype=np.float64)
    if np.isnan(scores).any():
        raise DataError(f"{int(np.isnan(scores).sum())} of {scores.size} scores are not a number.")
    return scores


def _check(hits: int, trials: int, confidence: float) -> None:
    if not 0 <= hits <= trials:
        raise ConfigError(f"hits must lie in 0 … trials, got {hits} of {trials}.")
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence must lie between 0 and 1, both excluded, got {confidence}.")
