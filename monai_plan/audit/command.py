"""``python -m monai_plan audit``: audit a release that any tool made."""

from __future__ import annotations

import operator
import os
import re
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from monai_plan.audit.attacks import registered_attacks
from monai_plan.audit.digests import real_digest, released_files
from monai_plan.audit.exclusion import EXCLUSION_FIGURES
from monai_plan.audit.leaks import GENERATOR_FIGURES
from monai_plan.audit.page import write_audit, write_gallery, write_reading
from monai_plan.audit.privacy import Audit, audit
from monai_plan.audit.projection import Projector, projected_row
from monai_plan.audit.reading import read_real, read_released
from monai_plan.audit.reidentification import REIDENTIFICATION_FIGURES
from monai_plan.audit.rows import COPY_FIGURES
from monai_plan.audit.worth import evaluation_beside
from monai_plan.release.secret import release_secret
from monai_plan.utils import ConfigError

__all__ = ["audit_release", "check_conditions", "failures"]

PAGE_NAME, RESULTS_NAME, SECRET_NAME = "audit.html", "audit.json", "secret.json"
_OPERATORS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}
VERDICT = "verdict"  # the condition that holds unless nothing was found
FIGURES = {  # of every row that this command makes, as audit.json has them
    **{
        attack.name: (*COPY_FIGURES, *(f"planted_{kind}" for kind in attack.planted)) for attack in registered_attacks()
    },
    "reidentification": REIDENTIFICATION_FIGURES,
    "exclusion": EXCLUSION_FIGURES,
    "generator": GENERATOR_FIGURES,
}
_CONDITION = re.compile(r"\s*(\w+)\.(\w+)\s*(<=|>=|<|>)\s*([-+.\deE]+)\s*")


def audit_release(
    release: str | os.PathLike[str],
    real: str | os.PathLike[str],
    *,
    private: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    weights: str | os.PathLike[str] | None = None,
    projector: Projector | None = None,
    skip_bad_images: bool = False,
    seed: int = 0,
) -> Audit:
    """Audit a release and write ``audit.html`` and ``audit.json``.

    Args:
        release: a folder of images, a folder with a data list, or a data list.
        real: the data list of the real images, or its folder: members in ``training``, other patients in ``test``.
        private: private folder; the gallery of exposed patients goes to ``audit/`` in it, and finished parts are kept
            there. None: there is no gallery, and nothing is kept.
        output: folder of the page; None: that of the release.
        weights: EfficientNet-lite0's local file; None takes that of the installed package.
        projector: of the generator that made the release, for the attacker who has it; None: nobody has.
        skip_bad_images: leave out images that cannot be read; the page and the JSON tell which of the release.
        seed: of everything that is drawn.

    Raises:
        ConfigError: if ``private`` lies in the release, or the generator does not fit the real images.
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
        secret_file = work / SECRET_NAME
        size = None if projector is None else projector.img_size
        members, held_out = read_real(real, work_dir=work, img_size=size, skip_bad_images=skip_bad_images)
        released = read_released(release, like=members, work_dir=work, skip_bad_images=skip_bad_images)
        further = []
        if projector is not None:
            sides = {"released": released, "members": members, "held_out": held_out}
            further.append(projected_row(projector, **sides, cache_dir=work / "parts", seed=seed))
        result, found = audit(
            released,
            members,
            held_out,
            cache_dir=work / "parts",
            weights=weights,
            further=further,
            files=released_files(released.files, folder),
            gallery=private is not None,
            real_digest=None if private is None else real_digest(members, held_out, secret_file=secret_file),
            seed=seed,
        )
        evaluation = evaluation_beside(folder)
        write_audit(result, page_file=target / PAGE_NAME, results_file=target / RESULTS_NAME, evaluation=evaluation)
        if private is not None:
            write_gallery(found, released=released, members=members, folder=work)
            write_reading(released, held_out, secret=release_secret(secret_file), folder=work)
    return result


def check_conditions(conditions: Sequence[str], *, generator: bool = False) -> list[tuple[str, str, str, float]]:
    """Conditions such as ``copies.p<0.05`` in their parts: row, figure, comparison and number.

    ``verdict`` is one of its own, of no figure.

    Args:
        conditions: see ``failures``.
        generator: whether the audit has the generator, and so a row of it.

    Raises:
        ConfigError: if one is written otherwise, or names a row or a figure that there is not.
    """
    parts = []
    for condition in conditions:
        if condition.strip() == VERDICT:
            parts.append((VERDICT, "", "", 0.0))
            continue
        match = _CONDITION.fullmatch(condition)
        try:
            row, figure, comparison, number = match.groups()  # type: ignore[union-attr]
            parts.append((row, figure, comparison, float(number)))
        except (AttributeError, ValueError):
            raise ConfigError(
                f'--fail-on is "{condition}": write verdict, or ROW.FIGURE, a comparison and a number, such as '
                '"copies.p<0.05".'
            ) from None
        rows = [name for name in FIGURES if generator or name != "generator"]
        if row not in rows:
            without = " without --generator" if row == "generator" else ""
            raise ConfigError(f"--fail-on: the audit has no row {row!r}{without}, only {', '.join(rows)}.")
        if figure not in FIGURES[row]:
            raise ConfigError(f"--fail-on: the row {row} has no figure {figure!r}, only {', '.join(FIGURES[row])}.")
    return parts


def failures(result: Audit, conditions: Sequence[str]) -> list[str]:
    """Those of the conditions that hold, and why.

    ``verdict`` holds unless the verdict is "Nothing found". A condition on a figure holds as well where its row has no
    answer, or the figure no value: what was not measured is no pass.

    Args:
        result: the audit.
        conditions: see ``check_conditions``.

    Raises:
        ConfigError: as ``check_conditions``.
    """
    held = []
    generator = any(row.name == "generator" for row in result.rows)
    for name, figure, comparison, number in check_conditions(conditions, generator=generator):
        if name == VERDICT:
            if result.verdict != "Nothing found":
                held.append(f'the verdict is "{result.verdict}"')
            continue
        row = result.row(name)
        value = row.figures.get(figure)
        if row.verdict == "No answer":
            held.append(f"{name} gave no answer, so that {name}.{figure} passes nothing")
        elif value is None:
            held.append(f"{name}.{figure} has no value, so that it passes nothing")
        elif _OPERATORS[comparison](value, number):
            held.append(f"{name}.{figure} is {value:.3g}, {comparison} {number:g}")
    return held
