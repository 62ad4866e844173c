"""What an audit writes: the page and the JSON, which may leave, and the gallery of exposed patients, which may not."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

import torch

from monai_plan import __version__
from monai_plan.audit.figures import image_panel, new_figure, png_of, show_panels
from monai_plan.audit.findings import ALARM, CopyFindings
from monai_plan.audit.privacy import Audit, rounded
from monai_plan.audit.reading import ReadImages
from monai_plan.audit.templates import page_template
from monai_plan.utils import atomic_path, read_json, write_json, write_text

__all__ = ["verdict_line", "write_audit", "write_gallery"]

SHOWN = 24  # pairs in the gallery


def write_audit(
    audit: Audit,
    *,
    page_file: str | os.PathLike[str],
    results_file: str | os.PathLike[str],
    report_page: str | None = None,
) -> None:
    """Write the page, one file that works offline, and the JSON beside it. Neither holds a pixel or a file's name.

    Args:
        audit: what was found.
        page_file: ``*.html``.
        results_file: ``*.json``.
        report_page: name of the page on utility beside this one, to be linked; None: there is none.
    """
    page = page_template("audit.html.j2").render(
        audit=audit,
        report_page=report_page,
        date=datetime.date.today().isoformat(),
        version=__version__,
        odds=round(1 / ALARM),
        patients="patients" if audit.has_subjects else "images",
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
    panels = []
    for index in order:
        pair = [released.images[index], members.images[found.nearest[index]]]
        panels.append(torch.cat([torch.from_numpy(image_panel(image, -1)) for image in pair], dim=1).numpy())
    columns = 4
    rows = -(-len(panels) // columns)
    figure = new_figure(9.0, 9.0 / columns * rows * panels[0].shape[0] / panels[0].shape[1] + 0.4)
    axes = figure.add_subplot()
    show_panels(axes, panels, columns=columns)
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
