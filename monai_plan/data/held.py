"""Images in memory, in as few bits as hold them exactly."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from monai_plan.utils import ConfigError

LEVELS = {torch.uint8: 256, torch.int16: 65536}  # values that an element can have; others are float32
LOWEST = {torch.uint8: 0, torch.int16: -32768}
PARTS = (1, 4, 16, 64, 256)  # of a stored value: the mean of a block of 2 x 2, 4 x 4, ... pixels has such


@dataclass(frozen=True, eq=False)
class HeldImages:
    """N images that are float32 whenever they are looked at, and fewer bytes in memory.

    What was read with 8 or 16 bits and scaled from a range has few values, and its number among them says as much as
    the float: the value of the element n is n / ``parts`` / ``span`` · 2 − 1, with the roundings of ``ScaleShownd``, so
    that nothing changes. It can be indexed and split as a tensor of [N, C, *spatial] in [-1, 1]; ``images[:]`` is all.

    Attributes:
        stored: [N, C, *spatial]; uint8, int16 (n − 32768) or, where ``span`` is 0, the float32 values themselves.
        span: stored values from black to white.
        parts: parts of a stored value that are told apart.
    """

    stored: Tensor
    span: float = 0.0
    parts: int = 1

    @property
    def shape(self) -> torch.Size:
        """[N, C, *spatial]."""
        return self.stored.shape

    @property
    def ndim(self) -> int:
        """Axes of ``shape``."""
        return self.stored.ndim

    @property
    def device(self) -> torch.device:
        """Where they are held."""
        return self.stored.device

    @property
    def nbytes(self) -> int:
        """In memory."""
        return self.stored.nbytes

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, index: Any) -> Tensor:
        """float32, never a view: what is done to it does not reach the images."""
        return self._floats(self.stored[index])

    def split(self, size: int) -> Iterator[Tensor]:
        """Batches of images, made one after the other."""
        return (self._floats(part) for part in self.stored.split(size))

    def subset(self, index: Tensor | Sequence[int]) -> HeldImages:
        """Some of the images, held as they are here."""
        return replace(self, stored=self.stored[torch.as_tensor(index, dtype=torch.long)])

    def to(self, device: torch.device | str) -> HeldImages:
        """The same on another device."""
        return replace(self, stored=self.stored.to(device))

    @staticmethod
    def joined(*several: HeldImages) -> HeldImages:
        """All images of several, in as many bits as the widest needs."""
        images = GrowingImages((sum(map(len, several)), *several[0].shape[1:]), span=min(h.span for h in several))
        for number, image in enumerate(image for held in several for batch in held.split(64) for image in batch):
            images.put(number, image)
        return images.held

    def numbers(self, values: Tensor) -> Tensor | None:
        """What to store for float32 values; None if that would change one of them."""
        if not self.span:
            return values
        numbers = ((values + 1.0) * (0.5 * self.span * self.parts)).round_()
        if numbers.amin() < 0 or numbers.amax() >= LEVELS[self.stored.dtype]:
            return None
        stored = numbers.add_(LOWEST[self.stored.dtype]).to(self.stored.dtype)
        return stored if torch.equal(self._floats(stored), values) else None

    def _floats(self, stored: Tensor) -> Tensor:
        if not self.span:
            return stored.clone()
        # A GPU would multiply by the inverse of a number, with other last bits, but divides by a tensor, which is made
        # there: a copy would wait for all that the GPU has to do.
        span = torch.full((), self.span, device=stored.device)
        return ((stored.float() - LOWEST[stored.dtype]) / self.parts).div_(span).mul_(2.0).sub_(1.0)


class GrowingImages:
    """Room for N images that takes more bits as soon as an image needs them.

    Args:
        shape: [N, C, *spatial].
        span: stored values from black to white, as the transform scales them; 0 to hold float32 from the beginning.

    Attributes:
        held: the images so far; what is not put is zero or black.
    """

    def __init__(self, shape: Sequence[int], *, span: float) -> None:
        forms = [(torch.uint8, 1), *((torch.int16, parts) for parts in PARTS)]
        self._forms = [form for form in forms if 0 < span * form[1] < LEVELS[form[0]]]
        self._shape, self._span = tuple(shape), span
        self._put: list[int] = []
        self._lock = threading.Lock()
        self.held = self._take_form()

    def _take_form(self) -> HeldImages:
        """Empty room of the narrowest form that is left."""
        dtype, parts = self._forms.pop(0) if self._forms else (torch.float32, 1)
        try:
            room = torch.zeros(self._shape, dtype=dtype)
        except RuntimeError as error:  # what torch raises where the memory is not there
            number, *shape = self._shape
            need = math.prod(self._shape) * dtype.itemsize / 2**30
            raise ConfigError(
                f"{number} images of {' x '.join(map(str, shape[1:]))} need {need:,.0f} GiB, more than this machine "
                "has: choose a smaller img_size."
            ) from error
        return HeldImages(room) if dtype == torch.float32 else HeldImages(room, self._span, parts)

    def put(self, index: int, image: Tensor) -> None:
        """Store an image [C, *spatial], float32; several threads may do so."""
        while True:
            held = self.held
            numbers = held.numbers(image)
            with self._lock:
                if self.held is not held:  # another thread took a wider form meanwhile
                    continue
                if numbers is not None:
                    held.stored[index] = numbers
                    self._put.append(index)
                    return
                wider = self._take_form()
                for done in self._put:
                    numbers = wider.numbers(held[done])
                    assert numbers is not None  # each form has the values of the one before
                    wider.stored[done] = numbers
                self.held = wider
