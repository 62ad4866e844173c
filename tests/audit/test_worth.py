"""Utility beside privacy: the rows of an evaluation as panels."""

from __future__ import annotations

from dataclasses import replace

import pytest

from monai_plan.audit import Evaluation, EvaluationRow
from monai_plan.audit.worth import evaluation_beside, panels, recalls


def row(name, accuracy, attack, distance, frechet, recall):
    results = {
        "utility": {"accuracy": accuracy},
        "membership": {"accuracy": [attack], "low": [attack - 0.1], "high": [attack + 0.1]},
        "distance": {"mean": distance},
        "fidelity": {"frechet": frechet},
        "classes": {"recall": recall},
    }
    return EvaluationRow(name, 9, "", results)


ROWS = (
    row("real", [0.9, 1.0], 0.6, 2.0, 0.5, [[0.9, 1.0], [0.7, 1.0]]),
    row("made", [0.7], 0.5, 3.0, 1.0, [[0.5, 0.25]]),
)
EVALUATION = Evaluation(ROWS, "pixels", 20, 10, 12, 8, True)


def test_every_measure_is_a_panel_of_all_rows():
    found = panels(EVALUATION)
    assert [panel.title for panel in found] == [
        "Utility: accuracy", "Privacy: membership", "Privacy: distance", "Fidelity: Fréchet",
    ]  # fmt: skip
    for panel in found:
        assert [point.name for point in panel.points] == ["real", "made"]
        assert [point.judged for point in panel.points] == [False, True]
        assert all(0 < point.low <= point.x <= point.high < 360 for point in panel.points)
        assert panel.height > panel.points[-1].y
    assert [point.text for point in found[0].points] == ["95.0 ± 7.1 %", "70.0 %"]
    assert found[0].mark == found[0].points[0].x
    assert found[1].mark == found[1].points[1].x, "a guess"
    assert [point.text for point in found[2].points] == ["1", "1.5"]
    assert found[3].points[1].x > found[3].mark


def test_what_was_not_measured_has_no_panel():
    rows = tuple(EvaluationRow(one.name, 9, "", {}) for one in ROWS)
    assert panels(replace(EVALUATION, rows=rows)) == ()
    assert recalls(replace(EVALUATION, rows=rows), ["a", "b"]) == {}


def test_recalls_are_means_over_the_seeds_by_class():
    found = recalls(EVALUATION, ["a", "b"])
    assert found["a"] == pytest.approx((0.8, 0.5))
    assert found["b"] == pytest.approx((1.0, 0.25))
    assert recalls(EVALUATION, ["a", "b", "c"]) == {}


def test_an_evaluation_is_found_beside_a_release_and_another_tools_file_passed_over(tmp_path):
    assert evaluation_beside(tmp_path) is None
    (tmp_path / "evaluation.json").write_text('{"rows": []}')
    assert evaluation_beside(tmp_path) is None
    (tmp_path / "evaluation.json").write_text(EVALUATION.to_json())
    assert evaluation_beside(tmp_path) == EVALUATION
