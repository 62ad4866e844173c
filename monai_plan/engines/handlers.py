"""Handlers for any engine: what a long training needs to be watched, stopped and continued."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, ProgressBar
from monai.engines import Evaluator
from monai.utils import CommonKeys
from torch import Tensor, nn

from monai_plan.progress import Progress
from monai_plan.tensor_file import load_tensors, tensors_in
from monai_plan.utils import TrainingError, digest, first_line, write_tensors

logger = logging.getLogger(__name__)


class ResumeHandler:
    """Keeps one checkpoint of a training and continues from it when the same training starts again.

    A checkpoint of other ``inputs`` or networks, or a damaged one, is not continued from: the training begins anew, and
    a warning says why.

    A kill while MONAI's ``CheckpointSaver`` writes leaves a broken file; Ignite's ``Checkpoint`` with ``DiskSaver``
    removes the last checkpoint before it writes the next, and saves weights that are not finite. This one writes to a
    temporary name and renames. Under ``torch.distributed`` every rank loads, and the first one saves.

    Args:
        path: the checkpoint file; if it exists when the engine starts, everything is restored from it.
        save_dict: what to save, by name: anything with ``state_dict`` and ``load_state_dict``; None for a part that
            this training does without. The engine itself is added as ``"trainer"``.
        inputs: what the training depends on, by name: its data and options, anything that ``digest`` takes. The shapes
            of all weights in ``save_dict`` count too, as "networks".
    """

    def __init__(
        self, *, path: str | os.PathLike[str], save_dict: Mapping[str, Any], inputs: Mapping[str, Any] | None = None
    ):
        self.path = path
        self.save_dict = {name: item for name, item in save_dict.items() if item is not None}
        networks = {
            name: {name: tensor.shape for name, tensor in (*item.named_parameters(), *item.named_buffers())}
            for name, item in self.save_dict.items()
            if isinstance(item, nn.Module)
        }
        self.inputs = {name: digest(value) for name, value in {**(inputs or {}), "networks": networks}.items()}

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.STARTED, self.load)
        engine.add_event_handler(Events.EPOCH_COMPLETED | Events.COMPLETED, self.save)

    def load(self, engine: Engine) -> None:
        """Restore from the checkpoint, if there is one of this training."""
        if not os.path.exists(self.path):
            return
        items, max_epochs = {**self.save_dict, "trainer": engine}, engine.state.max_epochs
        before = deepcopy({name: item.state_dict() for name, item in items.items()})
        try:
            with open(self.path, "rb") as file:
                checkpoint = load_tensors(file)
            if not all(tensor.isfinite().all() for tensor in tensors_in(checkpoint)):
                raise ValueError("it holds values that are not finite")
            made_with = checkpoint.pop("inputs")
            other = [name for name, value in self.inputs.items() if made_with.get(name) != value]
            if other:
                logger.warning("%s is of other %s: the training begins anew", self.path, ", ".join(other))
                return
            Checkpoint.load_objects(to_load=items, checkpoint=checkpoint)
        except OSError:
            raise
        except Exception as error:  # whatever torch raises on damaged files
            Checkpoint.load_objects(to_load=items, checkpoint=before)
            reason = f"{type(error).__name__}: {first_line(error)}"
            logger.warning("%s is damaged or no checkpoint (%s): the training begins anew", self.path, reason)
            return
        engine.state.max_epochs = max_epochs
        logger.info("continues after epoch %d from %s", engine.state.epoch, self.path)

    @idist.one_rank_only()
    def save(self, engine: Engine) -> None:
        """Write the checkpoint, whole or not at all.

        Raises:
            TrainingError: if a network's weights are not finite; the earlier checkpoint stays.
        """
        for name, item in self.save_dict.items():
            if isinstance(item, nn.Module) and not all(p.isfinite().all() for p in item.parameters()):
                raise TrainingError(
                    f"the weights of {name} are not finite after epoch {engine.state.epoch}: training stops at the "
                    f"last checkpoint, {self.path}, which is good. Lower the learning rate, then start again."
                )
        state = {name: item.state_dict() for name, item in {**self.save_dict, "trainer": engine}.items()}
        write_tensors(self.path, {**state, "inputs": self.inputs})


class BestWeights:
    """Keeps the weights of the epoch with the best key metric; as part of a ``ResumeHandler`` it survives a restart.

    Args:
        network: whose weights to keep.
    """

    def __init__(self, *, network: nn.Module):
        self.network = network
        self.metric = float("-inf")
        self.weights: dict[str, Tensor] = {}

    def attach(self, engine: Evaluator) -> None:
        """Register with an evaluator that has a key metric, for which more is better."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Evaluator) -> None:
        """Compare the metric of this validation with the best one."""
        metric = float(engine.state.metrics[getattr(engine.state, "key_metric_name")])  # noqa: B009  # set by MONAI
        if metric > self.metric:
            self.metric = metric
            self.weights = {name: value.detach().cpu().clone() for name, value in self.network.state_dict().items()}

    def restore(self) -> None:
        """Load the best weights into the network and say which metric they reached."""
        self.network.load_state_dict(self.weights)
        logger.info("best validation metric: %.4f", self.metric)

    def state_dict(self) -> dict[str, Any]:
        """The best metric and weights."""
        return {"metric": self.metric, "weights": self.weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` gave."""
        self.metric, self.weights = state["metric"], dict(state["weights"])


class StopAtNaN:
    """Ends a supervised training with an error when its loss is not finite; the last checkpoint stays.

    Its place is before ``ResumeHandler``, so that no checkpoint of such weights is written.
    """

    def attach(self, engine: Engine) -> None:
        """Register with a ``SupervisedTrainer`` without decollation."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Raise TrainingError if the loss of this step is not finite."""
        loss = engine.state.output[CommonKeys.LOSS].detach().item()  # type: ignore[index]
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} at step {engine.state.iteration}: lower the learning rate, or check the images."
            )


class LossProgressBar(ProgressBar):
    """Ignite's progress bar with the engine's scalar outputs beside it, drawn by ``Progress``.

    Args:
        desc: text before the bar.

    Attributes:
        shown: further numbers to show, by name.
    """

    def __init__(self, *, desc: str):
        super().__init__(desc=desc)
        self.pbar_cls = Progress
        self.shown: dict[str, float] = {}

    def attach(self, engine: Engine) -> None:  # type: ignore[override]  # MONAI attaches handlers with no options
        """Register with an engine whose output is a dict, or a list of dicts, with scalars in it."""
        super().attach(
            engine,
            output_transform=lambda output: {**_scalars(output), **self.shown},
            event_name=Events.ITERATION_COMPLETED(every=10),
        )


def _scalars(output: Any) -> dict[str, float]:
    values = output[0] if isinstance(output, list) else output
    return {
        name: value.detach().item() if isinstance(value, Tensor) else value
        for name, value in values.items()
        if isinstance(value, float) or (isinstance(value, Tensor) and value.ndim == 0 and value.is_floating_point())
    }
