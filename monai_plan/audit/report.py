"""The report: a page that may be shared, and figures with real images that may not."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from monai_plan.audit.evaluation import Evaluation
from monai_plan.audit.figures import CUBIC, image_sheet, png_of
from monai_plan.audit.templates import page_template
from monai_plan.utils import ConfigError, atomic_path, write_text

__all__ = ["Section", "write_report"]


@dataclass(frozen=True)
class Section:
    """A part of the report that whoever made the images adds.

    Attributes:
        name: of the picture's file, without its ending.
        title: above the section.
        text: below the picture.
        picture: a PNG file.
        released: whether it may be shared; if not, the picture goes to the private folder and the page is silent.
    """

    name: str
    title: str
    text: str
    picture: bytes
    released: bool


def write_report(
    evaluation: Evaluation,
    *,
    judged: str,
    report_file: str | os.PathLike[str],
    figures_dir: str | os.PathLike[str],
    private_figures_dir: str | os.PathLike[str],
    samples: Mapping[str, Tensor],
    real_samples: Mapping[str, Tensor],
    parameters: Mapping[str, object],
    voxel_size: Sequence[float] = CUBIC,
    sections: Sequence[Section] = (),
    made: str = "Synthetic images made",
    audit_page: str | None = None,
) -> Path:
    """Write the page and the figures.

    The page is one file and works offline. It and ``figures_dir``, with ``samples.png`` and a picture for each released
    section, may be shared: they hold no real image and no name of a patient, and what is in ``sections`` is the
    caller's word. To ``private_figures_dir`` go ``real_and_synthetic.png`` and the pictures of the other sections.

    Args:
        evaluation: the table.
        judged: the row of the table whose images are released.
        report_file: the page, ``*.html``.
        figures_dir: of the pictures that may be shared.
        private_figures_dir: of those that may not.
        samples: synthetic images [n, C, *spatial] in [-1, 1] by the name of their class.
        real_samples: real images by the name of their class, for the private sheet.
        parameters: what made the images: numbers, short texts and lists of them.
        voxel_size: of volumes, in mm, for their proportions.
        sections: what else is shown.
        made: how the page begins, before "from … training images".
        audit_page: name of the page of the audit beside this one, to be linked; None: there is none.

    Returns:
        The path of the page.

    Raises:
        ConfigError: if a parameter is a path or no plain value, or the table has no row ``judged``.
        DataError: if there are no images to show or they are neither grey nor RGB.
    """
    names = [row.name for row in evaluation.rows]
    if judged not in names:
        raise ConfigError(f'the table has no row "{judged}", only {", ".join(names)}: set judged.')
    shown = {name: _plain(name, value) for name, value in parameters.items()}
    both = {
        name: {"real": real_samples[name], "synthetic": images}
        for name, images in samples.items()
        if name in real_samples
    }
    sheets = (
        Section(
            "samples",
            "Synthetic images",
            "Samples of the data set by class, as they are released; of volumes three middle planes.",
            png_of(image_sheet({name: {"": images} for name, images in samples.items()}, voxel_size=voxel_size)),
            released=True,
        ),
        Section("real_and_synthetic", "", "", png_of(image_sheet(both, voxel_size=voxel_size)), released=False),
    )
    for section in (*sheets, *sections):
        folder = figures_dir if section.released else private_figures_dir
        with atomic_path(Path(folder) / f"{section.name}.png") as temporary:
            temporary.write_bytes(section.picture)
    page = page_template("report.html.j2").render(
        evaluation=evaluation,
        judged=judged,
        made=made,
        audit_page=audit_page,
        findings=evaluation.findings(judged),
        parameters=shown,
        sections=[
            (section, base64.b64encode(section.picture).decode("ascii"))
            for section in (*sheets, *sections)
            if section.released
        ],
    )
    write_text(report_file, page)
    return Path(report_file)


def _plain(name: str, value: object) -> str:
    """A parameter as text; paths are refused, since they can name people and machines."""
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(name, item) for item in value)
    if isinstance(value, float):
        return f"{value:.3g}"
    if value is None or isinstance(value, (bool, int)):
        return str(value)
    if isinstance(value, str) and "/" not in value and "\\" not in value:
        return value
    raise ConfigError(
        f"the parameter {name!r} of the report is {value!r}: numbers, texts without slashes and lists of these are "
        "shown, paths and other objects are not; leave it out."
    )
