"""The statistics: closed forms at no hit and at all, what must hold for any counts, and rates by simulation."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from monai_plan.audit.statistics import (
    Share,
    area_under_curve,
    exact_interval,
    fewest_noticed,
    guessed,
    rank_test,
    residual_risk,
    smallest_rate,
    tail_of,
    wilson_interval,
)
from monai_plan.utils import ConfigError, DataError

COUNTS = st.integers(0, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
SCORES = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=40)


@pytest.mark.parametrize("interval", [wilson_interval, exact_interval])
@given(counts=COUNTS)
def test_intervals_hold_the_share_and_lie_between_0_and_1(interval, counts):
    share = interval(*counts)
    assert 0 <= share.low <= share.high <= 1
    if share.trials:
        assert share.low <= share.value <= share.high
    else:
        assert (share.low, share.high) == (0, 1)
    mirrored = interval(counts[1] - counts[0], counts[1])
    assert mirrored.low == pytest.approx(1 - share.high, abs=1e-12)


@pytest.mark.parametrize(("hits", "trials"), [(0, 10), (3, 10), (10, 10), (1, 1), (0, 1), (57, 153)])
def test_intervals_equal_those_of_scipy(hits, trials):
    result = stats.binomtest(hits, trials)
    for ours, method in ((wilson_interval, "wilson"), (exact_interval, "exact")):
        theirs = result.proportion_ci(method=method)
        assert ours(hits, trials)[2:4] == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_the_ends_at_none_and_at_all():
    assert wilson_interval(0, 5).low == 0 == exact_interval(0, 5).low
    assert wilson_interval(5, 5).high == 1 == exact_interval(5, 5).high
    assert exact_interval(5, 5).low == pytest.approx(0.025 ** (1 / 5))
    assert math.isnan(wilson_interval(0, 0).value)


def test_shares_print_their_interval():
    assert str(wilson_interval(4, 5)) == "4 of 5 (95 % interval 37.6 to 96.4 %)"
    assert str(residual_risk(wilson_interval(0, 10), wilson_interval(0, 10))) == "0 (95 % interval 0 to 0.228)"
    assert str(rank_test([3, 1], [2, 0])) == "1 of 2 above all of 2, p = 0.5"


@pytest.mark.parametrize(("hits", "trials", "confidence"), [(-1, 3, 0.95), (4, 3, 0.95), (1, 3, 0.0), (1, 3, 1.0)])
def test_impossible_counts_are_refused(hits, trials, confidence):
    for interval in (wilson_interval, exact_interval):
        with pytest.raises(ConfigError, match=r"hits must lie|confidence must lie"):
            interval(hits, trials, confidence=confidence)


@given(attack=COUNTS, control=COUNTS)
def test_the_residual_risk_holds_its_value_and_lies_between_0_and_1(attack, control):
    risk = residual_risk(wilson_interval(*attack), wilson_interval(*control))
    assert 0 <= risk.low <= risk.value <= risk.high <= 1


def test_the_residual_risk_is_that_of_the_formula():
    attack, control = wilson_interval(900, 1000), wilson_interval(200, 1000)
    assert residual_risk(attack, control).value == pytest.approx((0.9 - 0.2) / 0.8, abs=3e-3)
    assert residual_risk(control, attack).value == 0, "a control that does better leaves no risk"
    assert residual_risk(attack, attack).low == 0
    everything = wilson_interval(10, 10)
    assert residual_risk(everything, everything).low == 0


@given(tested=SCORES, null=SCORES)
def test_the_rank_test_is_hypergeometric(tested, null):
    result = rank_test(tested, null)
    j, a, b = result.above, len(tested), len(null)
    assert result.p_value == pytest.approx(stats.hypergeom(a + b, a, j).pmf(j) if j else 1.0)
    assert 0 < result.p_value <= 1


def test_the_rank_test_at_none_and_at_all():
    assert rank_test([1.0], [1.0]) == (0, 1, 1, 1.0), "an equal score is not above"
    assert rank_test([2.0, 3.0], [1.0]).p_value == pytest.approx(1 / 3)
    assert rank_test([], [1.0]).p_value == 1
    assert rank_test([1.0], []).p_value == 1


def test_the_rank_test_keeps_its_level():
    rng = np.random.default_rng(0)
    p_values = [rank_test(x[:30], x[30:]).p_value for x in rng.normal(size=(2000, 60))]
    assert np.mean(np.array(p_values) <= 0.05) <= 0.06


@pytest.mark.parametrize("count", [60, 200, 1000])
def test_the_tail_keeps_its_level_for_exponential_tails_and_short_ones(count):
    rng = np.random.default_rng(count)
    tested = 50
    for draw in (rng.exponential, rng.normal):
        alarms = 0
        for values in draw(size=(1500, count + tested)):
            tail = tail_of(values[tested:])
            alarms += tail.p_value(values[:tested].max(), tested) < 0.05
        assert alarms / 1500 < 0.07, draw


def test_the_tail_is_sure_of_what_lies_far_out():
    null = np.random.default_rng(0).normal(size=300)
    tail = tail_of(null)
    assert tail.beyond == 30
    assert tail.share == 0.1
    assert tail.p_value(tail.start - 1e-9) == 1
    assert tail.p_value(10.0, 500) < 1e-4
    values = [tail.p_value(x, 10) for x in np.linspace(-3, 12, 50)]
    assert all(a >= b for a, b in pairwise(values))


def test_a_tail_without_spread_and_a_null_too_small_for_one():
    assert tail_of(np.zeros(49)) is None
    flat = tail_of(np.zeros(50))
    assert flat.p_value(0.0) == 1
    assert flat.p_value(1.0) == pytest.approx(1 / 51), "no more than ranks can say"
    with pytest.raises(ConfigError, match="share must lie"):
        tail_of(np.zeros(50), share=1.0)


@given(trials=st.integers(1, 2000))
def test_the_smallest_rate_would_have_shown(trials):
    rate = smallest_rate(trials)
    assert (1 - rate) ** trials == pytest.approx(0.05)
    assert rate <= 3 / trials or trials == 1


def test_no_trial_shows_nothing():
    assert smallest_rate(0) == 1


def test_how_many_copies_are_noticed():
    assert fewest_noticed(5, 5) == 4, "each is found with a chance of 0.05^(1/5) = 0.55 at least, 0.45^4 = 0.04"
    assert fewest_noticed(0, 5) is None
    assert fewest_noticed(1, 1_000) is None, "of so many that nobody counts them"
    assert fewest_noticed(100, 100) == 1
    assert fewest_noticed(5, 5, needed=3) > fewest_noticed(5, 5)
    assert fewest_noticed(3, 5) > fewest_noticed(4, 5) > fewest_noticed(5, 5)


@given(positive=SCORES, negative=SCORES)
def test_the_area_is_that_of_all_pairs_within_its_interval(positive, negative):
    area = area_under_curve(positive, negative)
    pairs = [(a > b) + 0.5 * (a == b) for a in positive for b in negative]
    assert area.value == pytest.approx(sum(pairs) / len(pairs))
    assert 0 <= area.low <= area.value <= area.high <= 1
    turned = area_under_curve(negative, positive)
    assert (1 - turned.high, 1 - turned.low) == pytest.approx((area.low, area.high), abs=1e-9)


def test_the_interval_of_an_area_covers_it_and_has_a_width_at_the_ends():
    assert 0.5 < area_under_curve([2, 3, 4, 5], [0, 1, 1, 1]).low < 0.9
    rng = np.random.default_rng(0)
    truth = stats.norm.cdf(1 / math.sqrt(2))
    areas = [area_under_curve(rng.normal(1, 1, 40), rng.normal(0, 1, 25)) for _ in range(400)]
    assert np.mean([area.low <= truth <= area.high for area in areas]) > 0.92


def test_scores_that_are_no_numbers_are_refused():
    with pytest.raises(DataError, match="1 of 2 scores are not a number"):
        rank_test([1.0, math.nan], [0.0])
    with pytest.raises(DataError, match="scores on both sides, got 0 and 1"):
        area_under_curve([], [0.0])


def test_results_are_tuples():
    assert Share(1, 2, 0.1, 0.9) == (1, 2, 0.1, 0.9, 0.95)


def test_guessing_right_so_often():
    assert guessed(0, 0) == guessed(0, 9) == 1
    assert guessed(3, 3) == pytest.approx(1 / 8)
    assert guessed(1, 3) == pytest.approx(7 / 8)
    assert guessed(31, 48) == pytest.approx(sum(math.comb(48, k) for k in range(31, 49)) / 2**48)
    with pytest.raises(ConfigError):
        guessed(4, 3)
