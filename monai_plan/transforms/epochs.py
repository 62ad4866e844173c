"""Another sample in every epoch: the transforms that draw anew, and the handler that tells them the epoch."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.transforms.traits import RandomizableTrait
from torch import Tensor

from monai_plan.transforms.substitute import SubstituteSynthetic, SubstituteSyntheticd
from monai_plan.utils import ConfigError


class RandSubstituteSynthetic(RandomizableTrait, SubstituteSynthetic):
    """``SubstituteSynthetic`` with another sample in every epoch: call ``set_epoch`` before each, or use the handler.

    It runs anew in every epoch, and caches keep what comes before it: the real item with its file name,
    ``PersistentDataset`` on disk, and the real image if it was loaded before. Where this must not be, use a plain
    ``Dataset``, or ``SubstituteSynthetic``. With output="image" a cache would gain nothing.

    The number of the epoch lies in shared memory, where running workers see it, persistent ones too.
    ``Compose.set_random_state`` and the DataLoader do not change the seed.
    """

    _epoch: Tensor

    def _first_epoch(self) -> Tensor:
        return torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Choose the samples of this epoch from now on.

        Raises:
            ConfigError: if ``epoch`` is negative.
        """
        if epoch < 0:
            raise ConfigError(f"epoch is {epoch}, but epochs count from 0.")
        self._epoch.fill_(epoch)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._epoch.share_memory_()  # a copy has its own; one sent to a worker shares it already


class RandSubstituteSyntheticd(RandomizableTrait, SubstituteSyntheticd):
    """``SubstituteSyntheticd`` with another sample in every epoch; caches: see ``RandSubstituteSynthetic``."""

    _array_type = RandSubstituteSynthetic
    substitute: RandSubstituteSynthetic

    def set_epoch(self, epoch: int) -> None:
        """See ``RandSubstituteSynthetic.set_epoch``."""
        self.substitute.set_epoch(epoch)


class SyntheticEpochHandler:
    """Tells the ``RandSubstituteSynthetic(d)`` in the trainer's pipeline the epoch when it starts."""

    def __init__(self, transform: RandSubstituteSynthetic | RandSubstituteSyntheticd) -> None:
        self.transform = transform

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Set the epoch.

        Raises:
            ConfigError: if the trainer's epochs are not whole passes over the data: workers that load ahead would
                give samples of the one epoch or of the other, as it happens.
        """
        loader = engine.state.dataloader
        batches = len(loader) if isinstance(loader, Sized) else 0
        if batches and engine.state.epoch_length and engine.state.epoch_length % batches:
            raise ConfigError(
                f"epoch_length is {engine.state.epoch_length}, but the data set has {batches} batches, and samples "
                "change with the epoch: let an epoch be a whole pass, or several."
            )
        self.transform.set_epoch(engine.state.epoch)


RandSubstituteSyntheticD = RandSubstituteSyntheticDict = RandSubstituteSyntheticd
