"""What the images are worth beside what they give away: the rows of an evaluation, as panels of one figure."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from monai_plan.audit.evaluation import Evaluation, EvaluationRow
from monai_plan.audit.inputs import REAL
from monai_plan.audit.measures import Spread
from monai_plan.utils import read_json

__all__ = ["Panel", "Point", "evaluation_beside", "panels", "recalls"]

EVALUATION_NAME = "evaluation.json"
WIDTH, NAMES, LINE, TOP = 360, 118, 22, 8  # of a panel, of its names, of a line and above the first, in its units


@dataclass(frozen=True)
class Point:
    """A row's value.

    Attributes:
        name: of the row.
        text: the value as it is written.
        x, low, high: where it and the ends of its interval lie, in the panel's units; the ends may be one.
        y: its line.
        judged: whether it is the row that is released.
    """

    name: str
    text: str
    x: int
    low: int
    high: int
    y: int
    judged: bool


@dataclass(frozen=True)
class Panel:
    """One measure of all rows.

    Attributes:
        title: of the measure.
        text: what is better, and what the line marks.
        points: one of each row.
        mark: where the line is drawn.
        height: of the panel, whose width is 360.
    """

    title: str
    text: str
    points: tuple[Point, ...]
    mark: int
    height: int


def evaluation_beside(folder: str | os.PathLike[str]) -> Evaluation | None:
    """The evaluation that a run leaves in its release; None where there is none, or a file of another tool."""
    file = Path(folder) / EVALUATION_NAME
    content = read_json(file) if file.is_file() else None
    if not isinstance(content, dict) or set(content) != {field.name for field in fields(Evaluation)}:
        return None
    return Evaluation.from_json(file.read_text(encoding="utf-8"))


def panels(evaluation: Evaluation) -> tuple[Panel, ...]:
    """Utility, privacy and fidelity of all rows, as far as they were measured."""
    real = evaluation.row(REAL).results
    values: list[tuple[str, str, list[tuple[float, float, float, str]], float]] = []
    rows = evaluation.rows
    if "utility" in real:
        scores = [Spread(tuple(row.results["utility"]["accuracy"])) for row in rows]
        spread = [(s.mean, s.mean - (s.sd or 0), s.mean + (s.sd or 0), f"{s.percent} %") for s in scores]
        text = "Right answers on real test images, by a classifier trained on the row; the line: on real images."
        values.append(("Utility: accuracy", text, spread, spread[0][0]))
    if "membership" in real:
        found = [_mean(row, "membership", ("accuracy", "low", "high")) for row in rows]
        text = "How often an attack on that classifier tells who took part; the line: a guess."
        shares = [(*share, f"{100 * share[0]:.0f} %") for share in found]
        values.append(("Privacy: membership", text, shares, 0.5))
    away = (
        "Mean distance to the nearest patient who took part, over that of new patients, the line; a blurred image is "
    )
    whole = "Distance from the real images as a whole, over that of new patients, the line; less is more alike."
    for name, key, title, text in (
        ("distance", "mean", "Privacy: distance", f"{away}far from everybody."),
        ("fidelity", "frechet", "Fidelity: Fréchet", whole),
    ):
        if name in real and real[name][key]:
            ratios = [row.results[name][key] / real[name][key] for row in rows]
            values.append((title, text, [(ratio, ratio, ratio, f"{ratio:.3g}") for ratio in ratios], 1.0))
    return tuple(_panel(title, text, of_rows, mark, rows) for title, text, of_rows, mark in values)


def _mean(row: EvaluationRow, name: str, keys: tuple[str, str, str]) -> tuple[float, float, float]:
    first, second, third = (sum(row.results[name][key]) / len(row.results[name][key]) for key in keys)
    return first, second, third


def _panel(
    title: str,
    text: str,
    values: list[tuple[float, float, float, str]],
    mark: float,
    rows: tuple[EvaluationRow, ...],
) -> Panel:
    ends = [mark, *(end for value in values for end in value[1:3])]
    low, span = min(ends), (max(ends) - min(ends)) or 1.0
    room = WIDTH - NAMES - 96  # the values are written at the right

    def place(value: float) -> int:
        return round(NAMES + 6 + (value - low) / span * room)  # whole: a place tells no more digits than the text

    points = tuple(
        Point(
            row.name,
            said,
            place(value),
            place(start),
            place(end),
            round(TOP + LINE * (number + 0.5)),
            number == len(rows) - 1,
        )
        for number, (row, (value, start, end, said)) in enumerate(zip(rows, values, strict=True))
    )
    return Panel(title, text, points, place(mark), TOP + LINE * len(rows) + 4)


def recalls(evaluation: Evaluation, names: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Of each class, the share of its real test images that a classifier knows that was trained on real images, and of
    one that was trained on released ones; nothing where that was not measured, or of other classes.

    Args:
        evaluation: the rows.
        names: of the classes, by number.
    """
    results: list[dict[str, Any]] = [row.results for row in (evaluation.row(REAL), evaluation.rows[-1])]
    if not all("classes" in result for result in results):
        return {}
    means = [
        [sum(of_class) / len(of_class) for of_class in zip(*result["classes"]["recall"], strict=True)]
        for result in results
    ]
    return dict(zip(names, zip(*means, strict=True), strict=True)) if len(names) == len(means[0]) else {}
