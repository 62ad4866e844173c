"""What an audit writes: the page and the JSON, which may leave, and the gallery of exposed patients, which may not."""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from monai_plan import __version__
from monai_plan.audit.evaluation import Evaluation
from monai_plan.audit.figures import image_panel, new_figure, png_of, show_panels
from monai_plan.audit.findings import ALARM, CopyFindings
from monai_plan.audit.privacy import Audit, rounded
from monai_plan.audit.reading import ReadImages
from monai_plan.audit.statistics import guessed
from monai_plan.audit.templates import page_template
from monai_plan.audit.worth import panels, recalls
from monai_plan.release.secret import in_secret_order
from monai_plan.utils import atomic_path, digest, read_json, write_json, write_text

__all__ = ["verdict_line", "write_audit", "write_gallery", "write_reading"]

SHOWN = 24  # pairs in the gallery, and images of either kind that a reader tells apart
COLUMNS = 8  # of a reader's sheet
TOLD_APART = 0.05  # chance of so many right answers by guessing, from which a reader tells real from synthetic


def write_audit(
    audit: Audit,
    *,
    page_file: str | os.PathLike[str],
    results_file: str | os.PathLike[str],
    report_page: str | None = None,
    evaluation: Evaluation | None = None,
) -> None:
    """Write the page, one file that works offline, and the JSON beside it. Neither holds a pixel or a real file's name.

    Args:
        audit: what was found.
        page_file: ``*.html``.
        results_file: ``*.json``.
        report_page: name of the page on utility beside this one, to be linked; None: there is none.
        evaluation: what the images are worth, to be shown beside; None where that was not measured.
    """
    page = page_template("audit.html.j2").render(
        audit=audit,
        report_page=report_page,
        date=datetime.date.today().isoformat(),
        version=__version__,
        odds=round(1 / ALARM),
        patients="patients" if audit.has_subjects else "images",
        panels=[] if evaluation is None else panels(evaluation),
        evaluation=evaluation,
        recalls={} if evaluation is None else recalls(evaluation, [found.name for found in audit.classes]),
        all_files=digest(dict(audit.files)) if audit.files else "",
    )
    write_text(page_file, page)
    write_text(results_file, audit.to_json() + "\n")


def verdict_line(results_file: str | os.PathLike[str]) -> str:
    """What an audit found, in a line, of the JSON that it wrote."""
    results = read_json(results_file)
    return f"{results['verdict']}. {results['summary']}"


def write_gallery(
    found: CopyFindings, *, released: ReadImages, members: ReadImages, folder: str | os.PathLike[str]
) -> None:
    """Write the most exposed patients: each released image beside the real one that it resembles most. Never share it.

    Args:
        found: of the attack on copies.
        released, members: as they were audited.
        folder: private; ``exposed.png`` and ``exposed.json`` go there.
    """
    order = sorted(range(len(found.scores)), key=lambda index: -found.scores[index])[:SHOWN]
    pairs = []
    for index in order:
        pair = [released.images[index], members.images[found.nearest[index]]]
        pairs.append(torch.cat([torch.from_numpy(image_panel(image)) for image in pair], dim=1).numpy())
    columns = 4
    rows = -(-len(pairs) // columns)
    figure = new_figure(9.0, 9.0 / columns * rows * pairs[0].shape[0] / pairs[0].shape[1] + 0.4)
    axes = figure.add_subplot()
    show_panels(axes, pairs, columns=columns)
    axes.set_title("released (left), nearest real (right), most alike first: never share", fontsize=10, loc="left")
    with atomic_path(Path(folder) / "exposed.png") as temporary:
        temporary.write_bytes(png_of(figure))
    exposed = [
        {
            "released": released.keys[index],
            "real": members.keys[found.nearest[index]],
            "subject": members.subjects[found.nearest[index]],
            "p": rounded(found.p_values[index]),
            "score": rounded(found.scores[index]),
        }
        for index in order
    ]
    write_json(Path(folder) / "exposed.json", exposed)


def write_reading(released: ReadImages, held_out: ReadImages, *, secret: str, folder: str | os.PathLike[str]) -> None:
    """Write a sheet on which a radiologist tells real images from synthetic ones, and its key. Never share either.

    As many real images of held-out patients as released ones, one of each patient or group, in an order that only the
    key tells.

    Args:
        released, held_out: as they were audited.
        secret: 64 hexadecimal digits that stay private: of what is drawn and of the order.
        folder: private; ``reading/sheet.png`` and ``reading/answers.csv`` are for the reader, not ``reading_key.json``.
    """
    sides = {"synthetic": released, "real": held_out}
    rows = {kind: _some_of_each(side.subjects, secret, kind) for kind, side in sides.items()}
    count = min(SHOWN, *map(len, rows.values()))
    shown = [(kind, row) for kind, of_kind in rows.items() for row in of_kind[:count]]
    shown = [shown[place] for place in in_secret_order(len(shown), secret, "reading")]
    pictures = [image_panel(sides[kind].images[row]) for kind, row in shown]
    lines = -(-len(pictures) // COLUMNS)
    width = 12.0
    figure = new_figure(width, width / COLUMNS * lines * pictures[0].shape[0] / pictures[0].shape[1] + 0.4)
    axes = figure.add_subplot()
    show_panels(axes, pictures, columns=COLUMNS, numbered=True)
    axes.set_title("real or synthetic? half are real: never share", fontsize=10, loc="left")
    with atomic_path(Path(folder) / "reading" / "sheet.png") as temporary:
        temporary.write_bytes(png_of(figure))
    answers = "".join(f"{number},\n" for number in range(1, len(shown) + 1))
    write_text(Path(folder) / "reading" / "answers.csv", f"number,real or synthetic\n{answers}")
    by_guessing = (right for right in range(len(shown) + 1) if guessed(right, len(shown)) < TOLD_APART)
    key = {
        "images": [
            {"number": number, "kind": kind, "file": sides[kind].keys[row]}
            for number, (kind, row) in enumerate(shown, 1)
        ],
        "right by guessing": len(shown) / 2,
        "told apart from so many right": next(by_guessing, None),
    }
    write_json(Path(folder) / "reading_key.json", key)


def _some_of_each(subjects: Sequence[str], secret: str, kind: str) -> list[int]:
    """Rows in secret order, one of each subject."""
    order = in_secret_order(len(subjects), secret, "reading", kind)
    first = {subjects[row]: row for row in reversed(order)}
    return [row for row in order if first[subjects[row]] == row]
