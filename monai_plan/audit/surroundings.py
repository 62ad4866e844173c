"""What stands around the attacks: which released images are one, what was found by class, what to bear in mind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from monai_plan.audit.attacks.maps import local_maps, small_greys, stretched
from monai_plan.audit.findings import ALARM, CopyFindings
from monai_plan.audit.reading import ReadImages
from monai_plan.data.dataset import join_subjects

__all__ = ["ClassFindings", "by_class", "joined_groups", "notes_on"]

SAME = 0.98  # correlation of two released images' maps from which they count as one picture
FEW = 20  # groups of released images, below which a note says so
NAMED = 3  # files that a note names
FLAT = 1e-3  # of values in [-1, 1], between which an image shows nothing
AT_ONCE = 512  # images that are compared with all others together


class ClassFindings(NamedTuple):
    """One class of the release.

    Attributes:
        name: of the class.
        released, members: images.
        alarming: released ones that the attack on copies takes for a copy by themselves.
        p: the least p-value among them; 1 without any.
    """

    name: str
    released: int
    members: int
    alarming: int
    p: float


def by_class(found: CopyFindings, released: ReadImages, members: ReadImages) -> tuple[ClassFindings, ...]:
    """What the attack on copies found in each class; nothing where the release names none.

    Classes are the same where their names are.
    """
    if released.labels is None:
        return ()
    names = dict.fromkeys(name for side in (members, released) for _, name in sorted(side.label_names.items()))
    of_released, of_members = (
        [side.label_names.get(label, str(label)) for label in side.labels.tolist()] if side.labels is not None else []
        for side in (released, members)
    )
    rows = []
    for name in names:
        p_values = [p for p, of in zip(found.p_values, of_released, strict=True) if of == name]
        alarming = sum(p < ALARM for p in p_values)
        rows.append(ClassFindings(name, len(p_values), of_members.count(name), alarming, min(p_values, default=1.0)))
    return tuple(rows)


def joined_groups(images: Tensor, groups: Sequence[str]) -> list[str]:
    """The groups of released images, once those that share a picture are one: it may say a thing once, not often.

    Args:
        images: [N, C, *spatial] in [-1, 1].
        groups: of each of them.
    """
    maps = torch.cat([local_maps(small_greys(stretched(part))).flatten(1) for part in images.split(AT_ONCE)])
    maps = maps / maps.norm(dim=1, keepdim=True).clamp_min(1e-6)
    first = []  # of every image, the first one that is the same picture
    for start in range(0, len(maps), AT_ONCE):
        alike = maps[start : start + AT_ONCE] @ maps.T >= SAME
        alike |= torch.arange(start, start + len(alike))[:, None] == torch.arange(len(maps))
        first += alike.int().argmax(1).tolist()
    joined = join_subjects([str(row) for row in first], groups)
    return [joined[group] for group in groups]


def notes_on(released: ReadImages, members: ReadImages, held_out: ReadImages, *, num_groups: int) -> list[str]:
    """What to bear in mind of what was audited."""
    notes = []
    for side, told in ((released, "of the release"), (members, "of those who took part"), (held_out, "held out")):
        if side.skipped:
            below = [file for file in side.skipped if file]
            names = f": {_few(below, len(side.skipped))}" if side is released and below else ""
            notes.append(
                f"{_count(len(side.skipped), 'file')} {told} could not be read and had no part in this{names}."
            )
    if released.unlisted:
        notes.append(
            f"{_count(len(released.unlisted), 'image file')} in the folder of the release had no part in this, for its "
            "data list does not name them: audit them too, or take them out."
        )
    if released.unread:
        kinds = _few(sorted({kind or "no suffix" for kind in released.unread}))
        notes.append(
            f"{_count(len(released.unread), 'file')} in the folder of the release ({kinds}) had no part in this, for "
            "nothing here reads that kind: save images as PNG or NIfTI, or take them out."
        )
    if len(released.depths) > 1:
        notes.append(
            f"The release mixes files of {' and of '.join(released.depths)}: each was read by its own depth. Whoever "
            "saves a data set saves all files alike; ask where the others come from."
        )
    flat = int((released.images.flatten(1).amax(1) - released.images.flatten(1).amin(1) < FLAT).sum())
    if flat:
        notes.append(f"{_count(flat, 'released image')} of one grey value: nothing in it can be compared.")
    own = len(set(released.subjects))
    if num_groups < own:
        notes.append(
            f"Many released images are the same picture or nearly so: {len(released.images)} images count as "
            f"{_count(num_groups, 'group')}."
        )
    if num_groups < FEW:
        notes.append(
            f"{_count(num_groups, 'group')} of released images say little of what else the same tool would make: audit "
            "all that is to leave."
        )
    if released.labels is not None:
        absent = set(members.label_names.values()) - {
            released.label_names.get(label) for label in released.labels.unique().tolist()
        }
        if absent:
            notes.append(f"The release has no image of {_few(sorted(absent))}.")
    if not members.has_subjects:
        notes.append(
            "The data list names no patients: every image counts as a patient of its own, and several images of one "
            "patient would make all that is said about privacy too good."
        )
    return notes


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _few(names: Sequence[str], count: int | None = None) -> str:
    """The first names, and how many more of ``count`` there are."""
    more = (len(names) if count is None else count) - len(names[:NAMED])
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more else "")
