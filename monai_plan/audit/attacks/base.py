"""What an attack on copies is: every image gets scores, and strangers' images say which scores mean something."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from monai_plan.metrics import PerceptualEmbedding
from monai_plan.utils import ConfigError, DataError

__all__ = ["CopyAttack", "Embedder", "People", "Scores", "register_attack", "registered_attacks"]


MOST_AT_ONCE, MOST_ELEMENTS = 64, 64 * 128**2  # images that are embedded together; a single one may have more


@dataclass(frozen=True, eq=False)
class People:
    """Real images and whose they are.

    Attributes:
        images: [N, C, *spatial] in [-1, 1].
        subjects: N patients.
    """

    images: Tensor
    subjects: Sequence[str]

    def __post_init__(self) -> None:
        if len(self.images) != len(self.subjects):
            raise DataError(f"there are {len(self.images)} images, but {len(self.subjects)} subjects: one for each.")

    @property
    def numbers(self) -> Tensor:
        """[N], int64: the patients in sorted order, counted from 0."""
        order = {subject: number for number, subject in enumerate(sorted(set(self.subjects)))}
        return torch.tensor([order[subject] for subject in self.subjects], dtype=torch.long)


class Scores(NamedTuple):
    """How much images resemble a member.

    Attributes:
        values: [N, S], of S statistics, more where an image resembles one patient more than it should.
        nearest: [N], the row of the member that it resembles most.
    """

    values: Tensor
    nearest: Tensor


class CopyAttack(ABC):
    """An attack that singles patients out: it compares every image with all members.

    Subclasses set the class attributes and give ``index`` and ``scores``.

    Attributes:
        name: of the attack in files and on the command line.
        title: in the report.
        attacker: what its attacker has.
        alarm: the test that may raise an alarm: "tail", by image, or "rank", by all images together.
        planted: the disguises of planted copies, see ``disguise``.
        must_find: those under which it has to find copies, or it has no say; the others are told.
        limits: what it does not look for, as a list in words; empty if that goes without saying.

    Args:
        embedder: gives features of images; None where there is no network for them.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    attacker: ClassVar[str]
    alarm: ClassVar[str]
    planted: ClassVar[tuple[str, ...]]
    must_find: ClassVar[tuple[str, ...]]
    limits: ClassVar[str] = ""

    def __init__(self, *, embedder: Embedder | None = None) -> None:
        self.embedder = embedder

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """All that its scores depend on beside the images: anything that ``digest`` takes."""

    @abstractmethod
    def index(self, members: People) -> Any:
        """What ``scores`` needs of the members, computed once."""

    @abstractmethod
    def scores(self, index: Any, images: Tensor, *, own: Tensor | None = None) -> Scores:
        """Score images.

        Args:
            index: of the members.
            images: [N, C, *spatial] in [-1, 1].
            own: [N], the number of each image's patient (see ``People.numbers``), whose images are passed over; None
                for images of nobody among the members.
        """


class Embedder:
    """Unpooled, unit-normalised features of images, by batches that bound the memory."""

    def __init__(self, embedding: PerceptualEmbedding, *, device: torch.device | str = "cpu") -> None:
        self.embedding, self.device = embedding.to(device), device

    def batch_size(self, images: Tensor) -> int:
        """How many of the images are embedded at once."""
        return max(1, min(MOST_AT_ONCE, MOST_ELEMENTS // images[0, 0].numel()))

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Images [N, C, *spatial] → [N, E]."""
        batches = images.split(self.batch_size(images))
        return torch.cat([self.embedding(batch.to(self.device)).cpu() for batch in batches])


_ATTACKS: dict[str, type[CopyAttack]] = {}


def register_attack(attack: type[CopyAttack]) -> type[CopyAttack]:
    """Add an attack to those that every audit plays; a class decorator.

    Raises:
        ConfigError: if there is one of its name.
    """
    if attack.name in _ATTACKS:
        raise ConfigError(f"there is an attack {attack.name!r} already: give another name.")
    _ATTACKS[attack.name] = attack
    return attack


def registered_attacks() -> tuple[type[CopyAttack], ...]:
    """All attacks in the order in which they were registered."""
    return tuple(_ATTACKS.values())
