"""The audit: attacks on a release that any tool made, each beside its controls."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from monai_plan import __version__
from monai_plan.audit.attacks import Embedder, People, registered_attacks
from monai_plan.audit.exclusion import exclusion_row
from monai_plan.audit.findings import CopyFindings, find_copies
from monai_plan.audit.reading import ReadImages
from monai_plan.audit.reidentification import halves, reidentification_row
from monai_plan.audit.rows import CATEGORIES, LEAKS, Row, copy_row
from monai_plan.audit.surroundings import ClassFindings, by_class, joined_groups, notes_on
from monai_plan.metrics import PerceptualEmbedding, RandomFeatureEmbedding
from monai_plan.metrics.efficientnet import EfficientNetLite0Embedding
from monai_plan.utils import ConfigError

__all__ = ["SCHEMA_VERSION", "Audit", "audit", "shortlist_embedding"]

SCHEMA_VERSION = 1
VERDICTS = ("Alarm", "Attention", "No answer", "Nothing found")  # the first that a row has is the report's
SHORTLIST_TAP = 1  # of EfficientNet-lite0's maps: it knows disguised copies best (docs/audit.md)


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        name: of the data set.
        rows: one for each attack.
        num_released, num_groups: released images, and their groups.
        num_members, num_member_patients, num_held_out, num_held_out_patients: real images and patients.
        has_subjects: whether the data list names patients.
        notes: what to bear in mind.
        parameters: what made the release, by name.
        classes: what was found by class.
        files: SHA-256 of every file that was audited, by its path below the folder of the release.
        real_digest: see ``monai_plan.audit.digests``; None where no private folder keeps its key.
    """

    name: str
    rows: tuple[Row, ...]
    num_released: int
    num_groups: int
    num_members: int
    num_member_patients: int
    num_held_out: int
    num_held_out_patients: int
    has_subjects: bool
    notes: tuple[str, ...] = ()
    parameters: Mapping[str, str] | None = None
    classes: tuple[ClassFindings, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    real_digest: str | None = None

    @property
    def verdict(self) -> str:
        """The gravest of all rows; without an answer it is where an attack that singles patients out has none."""
        return next(
            (verdict for verdict in VERDICTS if any(self._told(row) == verdict for row in self.rows)), "No answer"
        )

    @staticmethod
    def _told(row: Row) -> str:
        """A row's part in the verdict."""
        weak = row.verdict == "No answer" and row.category != CATEGORIES[0]
        return "Nothing found" if weak else row.verdict

    @property
    def summary(self) -> str:
        """The report in a line."""
        named = [row.title for row in self.rows if self._told(row) == row.verdict == self.verdict]
        silent = [row.title for row in self.rows if row.verdict == "No answer" and row.title not in named]
        said = {
            "Alarm": "Do not release: {} found patients in it.",
            "Attention": "Look before releasing: {} saw more than chance would show.",
            "No answer": "{} gave no answer; what the others did not find may be there.",
            "Nothing found": "The attacks found nothing, and would have found what each row says. It is no proof.",
        }[self.verdict].format(" and ".join(named))
        without = f" {' and '.join(silent)} gave no answer." if silent else ""
        return said + without + self._of_generator()

    def _of_generator(self) -> str:
        """What the attacks say that need the generator, for they have no part in the verdict."""
        rows = [row for row in self.rows if row.verdict == LEAKS]
        told = [row.title for row in rows if row.told_by_generator]
        if told:
            return f" Keep the generator private: who has it learns who took part ({', '.join(told)})."
        return " Who has the generator as well found nobody; keep it private all the same." if rows else ""

    def row(self, name: str) -> Row:
        """The row of this name.

        Raises:
            ConfigError: if there is none.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise ConfigError(f"the audit has no row {name!r}, only {', '.join(row.name for row in self.rows)}.")

    @property
    def by_category(self) -> list[tuple[str, list[Row]]]:
        """The rows of each category that has any."""
        grouped = [(category, [row for row in self.rows if row.category == category]) for category in CATEGORIES]
        return [(category, rows) for category, rows in grouped if rows]

    def to_json(self) -> str:
        """All that may leave, as JSON text: figures with three digits."""
        rows = [replace(row, figures={k: rounded(v) for k, v in row.figures.items()}) for row in self.rows]
        content = {
            "schema": "monai_plan.audit",
            "schema_version": SCHEMA_VERSION,
            "version": __version__,
            "verdict": self.verdict,
            "summary": self.summary,
            **asdict(replace(self, rows=tuple(rows))),
            "classes": [{**found._asdict(), "p": rounded(found.p)} for found in self.classes],
        }
        return json.dumps(content, indent=1)


def rounded(value: float | None) -> float | None:
    """With three significant digits; whole numbers as they are, and what is no number as None."""
    if isinstance(value, float):
        return float(f"{value:.3g}") if math.isfinite(value) else None
    return value


def shortlist_embedding(
    spatial_dims: int, img_channels: int, *, weights: str | os.PathLike[str] | None = None
) -> tuple[PerceptualEmbedding | None, str]:
    """EfficientNet-lite0's features, by which the attack on copies chooses the members that it tries, where it can.

    Args:
        spatial_dims, img_channels: of the images.
        weights: its local file; None takes that of the installed package.

    Returns:
        The embedding or None, and a sentence on what is missing, which may be empty.
    """
    missing = "no trained network knows images of these axes or channels"
    if spatial_dims == 2 and img_channels in (1, 3):
        try:
            return EfficientNetLite0Embedding(weights, img_channels=img_channels, taps=[SHORTLIST_TAP]), ""
        except ConfigError as error:
            if weights is not None:
                raise
            missing = str(error).rstrip(".")
    return None, f"The members that an image is laid over were found by coarse maps, for {missing}."


def _reidentified(
    embedder: Embedder | None, people: Sequence[People], images: Tensor, groups: Sequence[str], *, seed: int
) -> Row:
    if embedder is None:
        return reidentification_row([], why_not="no trained network knows images of these axes or channels")
    members, held_out = people
    return reidentification_row(
        halves(embedder, members=members, held_out=held_out, released=images, groups=groups, seed=seed)
    )


def audit(
    released: ReadImages,
    members: ReadImages,
    held_out: ReadImages,
    *,
    cache_dir: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None = None,
    further: Sequence[Row] = (),
    parameters: Mapping[str, str] | None = None,
    files: Mapping[str, str] | None = None,
    real_digest: str | None = None,
    gallery: bool = True,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> tuple[Audit, CopyFindings]:
    """Play all attacks that images alone allow.

    Args:
        released: the release.
        members: real images that it was made from.
        held_out: real images of other patients.
        cache_dir: private folder of finished parts.
        weights: see ``shortlist_embedding``.
        further: rows of attacks that need more than images.
        parameters: what made the release, for the report; "k" stands on its first screen.
        files, real_digest: see ``Audit``.
        gallery: whether there will be a gallery of exposed patients, at which rows may tell the reader to look.
        seed: of everything that is drawn.
        device: where features are computed.
        progress: show a progress bar.

    Returns:
        The audit, and what the attack on copies found of each image: that is private.

    Raises:
        DataError: see ``find_copies``.
    """
    dims, channels = members.images.ndim - 2, members.images.shape[1]
    shortlist, note = shortlist_embedding(dims, channels, weights=weights)
    distances = Embedder(RandomFeatureEmbedding(dims, channels), device=device)
    embedders = {"copies": None if shortlist is None else Embedder(shortlist, device=device)}
    people = [People(side.images, side.subjects) for side in (members, held_out)]
    groups = joined_groups(released.images, released.subjects)
    rows, found = [], {}
    for attack in registered_attacks():
        played = attack(embedder=embedders.get(attack.name, distances))
        found[attack.name] = find_copies(
            played,
            members=people[0],
            held_out=people[1],
            released=released.images,
            groups=groups,
            cache_dir=Path(cache_dir),
            seed=seed,
            progress=progress,
        )
        rows.append(copy_row(played, found[attack.name], gallery=gallery))
    rows.append(_reidentified(embedders["copies"], people, released.images, groups, seed=seed))
    rows.append(exclusion_row(distances, members=people[0], held_out=people[1], released=released.images))
    result = Audit(
        name=released.name,
        rows=(*rows, *further),
        num_released=len(released.images),
        num_groups=len(set(groups)),
        num_members=len(members.images),
        num_member_patients=len(set(members.subjects)),
        num_held_out=len(held_out.images),
        num_held_out_patients=len(set(held_out.subjects)),
        has_subjects=members.has_subjects,
        notes=tuple(filter(None, [note, *notes_on(released, members, held_out, num_groups=len(set(groups)))])),
        parameters=parameters,
        classes=by_class(found["copies"], released, members),
        files=files or {},
        real_digest=real_digest,
    )
    return result, found["copies"]
