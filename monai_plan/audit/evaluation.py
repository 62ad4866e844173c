"""The table: what each set of images is worth, and what it gives away."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from monai_plan.audit.inputs import REAL, AuditInputs, ImageSet
from monai_plan.audit.measures import Spread, measure_of, registered_measures
from monai_plan.progress import Progress
from monai_plan.release.words import as_markdown
from monai_plan.utils import ConfigError

__all__ = ["Evaluation", "EvaluationRow", "evaluate"]


@dataclass(frozen=True)
class EvaluationRow:
    """One row of the table.

    Attributes:
        name: ``real``, or the name of the image set.
        num_images: images of the set.
        note: a sentence about the set; may be empty.
        results: what each measure computed, by the name of the measure.
    """

    name: str
    num_images: int
    note: str
    results: dict[str, dict[str, Any]]

    def spread(self, measure: str, score: str) -> Spread:
        """A score that has a value per seed."""
        return Spread(tuple(self.results[measure][score]))


@dataclass(frozen=True)
class Evaluation:
    """The table, with what is needed to read it.

    Attributes:
        rows: the rows, ``real`` first; all have results of the same measures, in the order of the columns.
        embedding_title: the name of the perceptual distance.
        num_train_images, num_train_patients, num_test_images, num_test_patients: sizes of the real sets.
        has_subjects: whether the data list names patients.
    """

    rows: tuple[EvaluationRow, ...]
    embedding_title: str
    num_train_images: int
    num_train_patients: int
    num_test_images: int
    num_test_patients: int
    has_subjects: bool

    def row(self, name: str) -> EvaluationRow:
        """The row of this name.

        Raises:
            KeyError: if there is none.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    @property
    def columns(self) -> tuple[str, ...]:
        """The heads of the table."""
        return ("", "images", *(head for name in self.rows[0].results for head in measure_of(name).heads))

    def cells(self, row: EvaluationRow) -> tuple[str, ...]:
        """One row as text, one cell per column."""
        cells = (cell for name, result in row.results.items() for cell in measure_of(name).cells(result))
        return (row.name, str(row.num_images), *cells)

    @property
    def notes(self) -> tuple[str, ...]:
        """What each column means, and what to bear in mind: one sentence or two each."""
        notes = [note for name in self.rows[0].results if (note := measure_of(name).note(self))]
        notes.append(
            "In the row real, what is said of images and not of a classifier is said of the real test images: what a "
            "new patient shows, the scale for the rows below."
        )
        notes += [row.note for row in self.rows if row.note]
        if not self.has_subjects:
            notes.append(
                "The data list names no patients: every image counts as a patient of its own, and several images of "
                "one patient would make all that is said about privacy too good."
            )
        return tuple(notes)

    def findings(self, name: str) -> list[tuple[str, str]]:
        """What was found about a row, in words: titles and texts.

        Raises:
            KeyError: if there is no such row.
        """
        row, real = self.row(name), self.row(REAL)
        measures = [measure_of(key) for key in row.results]
        found = [(m.title, m.finding(name, row.results[m.name], real.results[m.name])) for m in measures]
        return [(title, text) for title, text in found if text]

    def released(self) -> Evaluation:
        """What may leave of it: all figures with three digits, and none of a single image.

        A figure with all its digits belongs to one set of images, and proves to whoever holds them that they took part.
        """
        rows = []
        for row in self.rows:
            results = {}
            for name, result in row.results.items():
                private = measure_of(name).private
                results[name] = {key: _rounded(value) for key, value in result.items() if key not in private}
            rows.append(replace(row, results=results))
        return replace(self, rows=tuple(rows))

    def to_markdown(self) -> str:
        """The table in Markdown, with the notes below it."""
        lines = [(as_markdown(cell) for cell in cells) for cells in (self.columns, *map(self.cells, self.rows))]
        lines.insert(1, ("---", *["---:"] * (len(self.columns) - 1)))  # type: ignore[arg-type]
        table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
        return table + "\n\n" + "\n".join(f"- {as_markdown(note)}" for note in self.notes) + "\n"

    def to_json(self) -> str:
        """All values as JSON text; ``from_json`` reads it."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Evaluation:
        """The evaluation that ``to_json`` wrote."""
        data = json.loads(text)
        return cls(**{**data, "rows": tuple(EvaluationRow(**row) for row in data["rows"])})


def _rounded(value: Any) -> Any:
    """Numbers with three significant digits, also in lists; whole ones as they are."""
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.3g}")
    return value


def evaluate(image_sets: Sequence[ImageSet], inputs: AuditInputs) -> Evaluation:
    """Make the table: the row ``real``, then one row per set, with all registered measures that apply.

    Every finished part is written to the cache at once and read again when the same inputs come back.

    Args:
        image_sets: what is judged.
        inputs: the real images and the networks.

    Raises:
        ConfigError: if two sets have one name, or one is named ``real``.
        DataError: if images, labels and classes do not fit.
    """
    sets = [inputs.real, *image_sets]
    names = [image_set.name for image_set in sets]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f'there are two sets of images named "{name}" ("{REAL}" is made of the real ones): give one another '
                "name."
            )
    for image_set in (*sets, ImageSet("real test", inputs.test.images, inputs.test.labels)):
        inputs.check(image_set)
    measures = [measure for measure in registered_measures() if measure.applies(inputs)]
    rows = []
    with Progress(total=len(sets) * len(measures), desc="evaluate", disable=not inputs.progress) as bar:
        inputs.show = bar.set_postfix_str
        for image_set in sets:
            results = {}
            for measure in measures:
                inputs.show(f"{image_set.name}, {measure.name}")
                results[measure.name] = inputs.part(
                    image_set,
                    measure.name,
                    made_by=measure.made_by(inputs),
                    make=partial(measure.compute, inputs, image_set),
                )
                bar.update()
            rows.append(EvaluationRow(image_set.name, len(image_set.images), image_set.note, results))
    train, test = inputs.train, inputs.test
    return Evaluation(
        rows=tuple(rows),
        embedding_title=inputs.embedding.title,
        num_train_images=len(train.images),
        num_train_patients=len(set(train.subjects)),
        num_test_images=len(test.images),
        num_test_patients=len(set(test.subjects)),
        has_subjects=train.has_subjects and test.has_subjects,
    )
