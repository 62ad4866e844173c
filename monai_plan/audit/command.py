"""``python -m monai_plan audit``: audit a release that any tool made."""

from __future__ import annotations

import operator
import os
import re
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from monai_plan.audit.page import write_audit, write_gallery
from monai_plan.audit.privacy import Audit, audit
from monai_plan.audit.reading import read_real, read_released
from monai_plan.utils import ConfigError

__all__ = ["audit_release", "check_conditions", "failures"]

PAGE_NAME, RESULTS_NAME = "audit.html", "audit.json"
_OPERATORS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}
_CONDITION = re.compile(r"\s*(\w+)\.(\w+)\s*(<=|>=|<|>)\s*([-+.\deE]+)\s*")


def audit_release(
    release: str | os.PathLike[str],
    real: str | os.PathLike[str],
    *,
    private: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    weights: str | os.PathLike[str] | None = None,
    seed: int = 0,
) -> Audit:
    """Audit a release and write ``audit.html`` and ``audit.json``.

    Args:
        release: a folder of images, a folder with a data list, or a data list.
        real: the data list of the real images: members in ``training``, other patients in ``test``.
        private: private folder; the gallery of exposed patients goes to ``audit/`` in it, and finished parts are kept
            there. None: there is no gallery, and nothing is kept.
        output: folder of the page; None: that of the release.
        weights: EfficientNet-lite0's local file; None takes that of the installed package.
        seed: of everything that is drawn.

    Raises:
        ConfigError: if ``private`` lies in the release.
        DataError: if an image cannot be used, or a section has too few patients.
    """
    folder = Path(release) if Path(release).is_dir() else Path(release).parent
    if private is not None and Path(private).resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"private is {private}, within the release {folder}: give a folder that is never shared.")
    target = Path(folder if output is None else output)
    with ExitStack() as stack:
        if private is None:
            work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            work = Path(private) / "audit"
        members, held_out = read_real(real)
        released = read_released(release, like=members, work_dir=work)
        result, found = audit(released, members, held_out, cache_dir=work / "parts", weights=weights, seed=seed)
        write_audit(result, page_file=target / PAGE_NAME, results_file=target / RESULTS_NAME)
        if private is not None:
            write_gallery(found, released=released, members=members, folder=work)
    return result


def check_conditions(conditions: Sequence[str]) -> list[tuple[str, str, str, float]]:
    """Conditions such as ``copies.p<0.05`` in their parts: row, figure, comparison and number.

    Raises:
        ConfigError: if one is written otherwise.
    """
    parts = []
    for condition in conditions:
        match = _CONDITION.fullmatch(condition)
        try:
            row, figure, comparison, number = match.groups()  # type: ignore[union-attr]
            parts.append((row, figure, comparison, float(number)))
        except (AttributeError, ValueError):
            raise ConfigError(
                f'--fail-on is "{condition}": write ROW.FIGURE, a comparison and a number, such as "copies.p<0.05".'
            ) from None
    return parts


def failures(result: Audit, conditions: Sequence[str]) -> list[str]:
    """Those of the conditions that hold, with the figure found.

    Args:
        result: the audit.
        conditions: see ``check_conditions``.

    Raises:
        ConfigError: if a condition names a row or a figure that there is not.
    """
    held = []
    for row, figure, comparison, number in check_conditions(conditions):
        figures = result.row(row).figures
        if figure not in figures:
            raise ConfigError(f"the row {row} has no figure {figure!r}, only {', '.join(figures)}.")
        value = figures[figure]
        if value is not None and _OPERATORS[comparison](value, number):
            held.append(f"{row}.{figure} is {value:.3g}, {comparison} {number:g}")
    return held
