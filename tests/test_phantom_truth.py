"""The acceptance of the whole on phantoms, where the truth is known. Minutes: ``python -m pytest -m slow``.

``--quickstart-dir DIR`` judges a finished quickstart instead of making one.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from monai_plan.bundle.quickstart import quickstart

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("clean_logging")]

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def benchmarks() -> Iterator[None]:
    """The scripts of the folder import each other by name."""
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def figures(
    request: pytest.FixtureRequest, benchmarks: None, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """The figures by name, of a quickstart with seed 0."""
    given = request.config.getoption("--quickstart-dir")
    if given is None:
        folder = tmp_path_factory.mktemp("quickstart")
        quickstart(folder, seed=0)
    else:
        folder = Path(given)
    found = importlib.import_module("phantom_truth").phantom_truth(folder, seed=0)
    return {figure.name: figure for figure in found}


@pytest.mark.parametrize(
    "name",
    [
        "φ_class, accuracy on unseen subjects",
        "φ_id, accuracy on unseen images of known subjects",
        "released images of the class that a second φ_class sees",
        "that second φ_class, accuracy on unseen subjects",
    ],
)
def test_the_figure_holds(name: str, figures: dict[str, Any]) -> None:
    figure = figures[name]
    assert figure.holds, f"{figure.value:.3f}, wanted {'at most' if figure.at_most else 'at least'} {figure.bound}"


def test_all_figures_are_looked_at(figures: dict[str, Any]) -> None:
    assert len(figures) == 4  # the quickstart does not walk
