"""What more training would bring: a power law, its interval, and when nothing can be said."""

from __future__ import annotations

import random

import pytest

from monai_plan.gan import outlook


def law(*images, power=-0.5, swing=0.0, seed=0):
    drawn = random.Random(seed)
    return [(n, 100 * n**power * (1 + drawn.uniform(-swing, swing))) for n in images]


def test_a_power_law_is_continued():
    history = law(*range(1000, 9000, 1000))
    more = outlook(history)
    assert (more.images, more.measurements) == (8000, 5)  # the last half
    assert more.now == pytest.approx(history[-1][1])
    assert more.twice == pytest.approx(100 * 16000**-0.5)
    assert more.low == pytest.approx(more.high)
    assert more.gain_is_sure
    assert "from 1.12 to about 0.791" in str(more)


def test_the_first_half_does_not_matter():
    history = law(*range(1000, 9000, 1000))
    assert outlook([(n, 7.0) for n, _ in history[:3]] + history[3:]) == outlook(history)


@pytest.mark.parametrize("seed", range(5))
def test_a_swing_without_a_course_promises_nothing(seed):
    more = outlook(law(*range(1000, 17000, 1000), power=0, swing=0.3, seed=seed))
    assert more.low < more.twice < more.high
    assert not more.gain_is_sure
    assert "may bring nothing" in str(more)


def test_few_measurements_reach_back():
    more = outlook(law(1000, 2000, 4000, 8000, 16000))
    assert (more.measurements, more.images) == (4, 16000)


@pytest.mark.parametrize("history", [[], law(1000, 2000, 3000), [(n, 0.0) for n in (1, 2, 3, 4)]])
def test_too_little_is_known(history):
    assert outlook(history) is None
