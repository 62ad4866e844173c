"""What more training would bring, by the course of the measurements so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEAST_MEASUREMENTS = 4  # for a slope and an idea of how sure it is


@dataclass(frozen=True)
class Outlook:
    """The distance that twice as many images would lead to.

    Attributes:
        images: seen at the last measurement.
        now: the fitted distance there.
        twice: the distance expected after twice as many images.
        low, high: ends of its 95 % interval.
        measurements: how many the fit rests on.
    """

    images: int
    now: float
    twice: float
    low: float
    high: float
    measurements: int

    @property
    def gain_is_sure(self) -> bool:
        """Whether the measurements tell that it falls, in spite of their swing."""
        return self.high < self.now

    def __str__(self) -> str:
        course = f"by the last {self.measurements} measurements"
        if not self.gain_is_sure:
            return f"{course} the distance no longer falls for sure: more images may bring nothing"
        return (
            f"{course} twice as many images would bring the distance from {self.now:.3g} to about {self.twice:.3g} "
            f"({self.low:.3g} to {self.high:.3g})"
        )


def outlook(history: Sequence[tuple[int, float]]) -> Outlook | None:
    """Extrapolate measurements of a training by a power law, distance = c · images^b.

    The least squares fit of the logarithms takes the measurements of the last half of the images, and as many before it
    as are needed for ``LEAST_MEASUREMENTS``; the interval is Student's for the slope b.

    Args:
        history: (images seen, distance) of every measurement, in order.

    Returns:
        None where there are fewer measurements, or a distance is 0.
    """
    recent = [entry for entry in history if 2 * entry[0] >= history[-1][0]]
    if len(recent) < LEAST_MEASUREMENTS:
        recent = list(history[-LEAST_MEASUREMENTS:])
    if len(recent) < LEAST_MEASUREMENTS or min(distance for _, distance in recent) <= 0:
        return None
    images, distances = np.log(np.array(recent, dtype=float)).T
    fit = stats.linregress(images, distances)
    width = float(stats.t.ppf(0.975, len(recent) - 2) * fit.stderr)
    now = math.exp(fit.intercept + fit.slope * images[-1])
    twice, low, high = (now * 2.0 ** (fit.slope + step) for step in (0, -width, width))
    return Outlook(int(recent[-1][0]), now, float(twice), float(low), float(high), len(recent))
