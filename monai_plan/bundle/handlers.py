"""Handlers for the engines of the stages: what a long stage needs to be watched, stopped and continued."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, ProgressBar
from torch import Tensor

from monai_plan.utils import ArtifactError, atomic_path

__all__ = ["LossProgressBar", "ResumeHandler"]

logger = logging.getLogger(__name__)


class ResumeHandler:
    """Keeps one checkpoint of a training and continues from it when the training starts again.

    MONAI's ``CheckpointSaver`` and ``CheckpointLoader`` do the same in two parts, but a kill while the former writes
    leaves a broken file; this one writes to a temporary name and renames.

    Args:
        path: the checkpoint file; if it exists when the engine starts, everything is restored from it.
        save_dict: what to save, by name: anything with ``state_dict`` and ``load_state_dict``. The engine itself is
            added as ``"trainer"``.
        save_interval: epochs between two checkpoints.
    """

    def __init__(self, *, path: str | os.PathLike[str], save_dict: Mapping[str, Any], save_interval: int = 1):
        self.path, self.save_dict, self.save_interval = path, dict(save_dict), save_interval

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.STARTED, self.load)
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.save_interval) | Events.COMPLETED, self.save)

    def load(self, engine: Engine) -> None:
        """Restore from the checkpoint, if there is one.

        Raises:
            ArtifactError: if the file does not fit the networks and optimisers of this run.
        """
        if not os.path.exists(self.path):
            return
        max_epochs = engine.state.max_epochs
        try:
            checkpoint = torch.load(self.path, map_location="cpu", weights_only=True)
            Checkpoint.load_objects(to_load={**self.save_dict, "trainer": engine}, checkpoint=checkpoint)
        except Exception as error:
            raise ArtifactError(
                f"{self.path} does not fit this run's networks and optimisers; it comes from another configuration. "
                f"Move it away to start anew. ({type(error).__name__}: {str(error).splitlines()[0]})"
            ) from error
        engine.state.max_epochs = max_epochs
        logger.info("continues after epoch %d from %s", engine.state.epoch, self.path)

    def save(self, engine: Engine) -> None:
        """Write the checkpoint, whole or not at all."""
        state = {name: item.state_dict() for name, item in {**self.save_dict, "trainer": engine}.items()}
        with atomic_path(self.path) as temporary:
            torch.save(state, temporary)


class LossProgressBar(ProgressBar):
    """Ignite's progress bar with the engine's scalar outputs beside it."""

    def attach(self, engine: Engine, *args: Any, **kwargs: Any) -> None:
        """Register with an engine whose output is a dict, or a list of dicts, with scalars in it."""
        kwargs.setdefault("event_name", Events.ITERATION_COMPLETED(every=10))
        super().attach(engine, *args, output_transform=_scalars, **kwargs)


def _scalars(output: Any) -> dict[str, float]:
    values = output[0] if isinstance(output, list) else output
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, float) or (isinstance(value, Tensor) and value.ndim == 0 and value.is_floating_point())
    }
