"""The attacker who has the generator and the released images, but nothing of the run that made them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from monai_plan.audit.attacks import People
from monai_plan.audit.leaks import generator_row
from monai_plan.audit.reading import ReadImages
from monai_plan.audit.rows import Row
from monai_plan.utils import ConfigError, finished_part, seeded_generator

__all__ = ["Projector", "projected_row"]

MOST = 200  # images of each side that are projected: one of each patient, and one of each group of the release
BLOCK = 50  # images that are projected, and kept, at a time


class Projector(Protocol):
    """A generator, and a way to find the latent whose image is most like a given one.

    Attributes:
        img_size, img_channels: of its images.
        num_classes: that it draws by; 0 where it knows none.
        made_by: all that a projection depends on beside images and labels, anything that ``digest`` takes.
    """

    img_size: tuple[int, ...]
    img_channels: int
    num_classes: int
    made_by: list[Any]

    def __call__(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Project images [N, C, *spatial] in [-1, 1] with labels [N], or of unknown class: latents [N, L]."""


def projected_row(
    projector: Projector,
    *,
    released: ReadImages,
    members: ReadImages,
    held_out: ReadImages,
    cache_dir: str | os.PathLike[str],
    seed: int = 0,
) -> Row:
    """The row of the attack through the generator, for whom the latents of the released images are unknown.

    Released images, members and held-out images are projected alike: at most 200 of each, one of a patient or group.

    Args:
        projector: the generator.
        released, members, held_out: as they were read, of one size.
        cache_dir: private folder; finished blocks are read again when the same inputs come back.
        seed: of those that are taken.

    Raises:
        ConfigError: if the generator makes other images, or of other classes, than these.
    """
    _check(projector, members)
    sides = {"released": released, "members": members, "held-out": held_out}
    labelled = bool(projector.num_classes) and all(side.labels is not None for side in sides.values())
    people = {}
    for name, side in sides.items():
        rows = one_of_each(side.subjects, seed=seed, key=name)
        latents = []
        for number, block in enumerate(rows.split(BLOCK)):
            images, labels = side.images[block], side.labels[block] if labelled else None  # type: ignore[index]
            part = finished_part(
                Path(cache_dir) / f"generator-{name}-{number:04d}.pt",
                kind="part of the audit",
                made_by=[projector.made_by, images, labels],
                make=lambda images=images, labels=labels: {"latents": projector(images, labels)},  # type: ignore[misc]
            )
            latents.append(part["latents"])
        people[name] = People(torch.cat(latents), [side.subjects[row] for row in rows.tolist()])
    return generator_row(
        people["members"],
        people["held-out"],
        people["released"].images,
        attacker="the generator, the released images, and images of the person sought",
    )


def one_of_each(subjects: list[str], *, seed: int, key: str) -> Tensor:
    """Rows of at most ``MOST`` of them, one of each subject, drawn and in order."""
    order = torch.randperm(len(subjects), generator=seeded_generator(seed, "generator", key)).tolist()
    first = {subjects[row]: row for row in reversed(order)}
    return torch.tensor([row for row in order if first[subjects[row]] == row][:MOST]).sort().values


def _check(projector: Projector, members: ReadImages) -> None:
    made, real = (projector.img_channels, *projector.img_size), tuple(members.images.shape[1:])
    if made != real:
        raise ConfigError(
            f"the generator makes images of {_shape(made)}, the real ones are of {_shape(real)}: give --generator the "
            "network that was trained on this data list."
        )
    if projector.num_classes and projector.num_classes != len(members.label_names):
        raise ConfigError(
            f"the generator knows {projector.num_classes} classes, the data list {len(members.label_names)} "
            f"({', '.join(members.label_names.values())}): give --generator the network that was trained on it."
        )


def _shape(sizes: tuple[int, ...]) -> str:
    return f"{' x '.join(map(str, sizes[1:]))} with {sizes[0]} channel{'s' if sizes[0] > 1 else ''}"
