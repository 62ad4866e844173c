"""The trainer of classifiers, what they say, and how well."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import EarlyStopping
from ignite.metrics import Accuracy
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import LrScheduleHandler, ValidationHandler
from monai.networks.utils import eval_mode
from monai.transforms import Randomizable
from monai.utils import CommonKeys, convert_to_tensor
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score
from torch import Tensor, nn

from monai_plan.engines.handlers import BestWeights, LossProgressBar, ResumeHandler, StopAtNaN
from monai_plan.engines.inferers import AdversarialInferer
from monai_plan.metrics import Images
from monai_plan.rules import Ruled, checked, number, whole
from monai_plan.utils import DataError, derive_seed, seeded_generator

logger = logging.getLogger(__name__)

Augmentation = Callable[[Mapping[str, Any]], Mapping[str, Any]]


_AT_LEAST_0 = number(lambda value: value >= 0, "at least 0 and finite")


@dataclass(frozen=True)
class ClassifierSettings(Ruled):
    """How a classifier is trained: cross entropy, AdamW, a learning rate that falls to 0 along a cosine.

    Attributes:
        epochs: passes over the images, at most.
        batch_size: images per step, at most; 2 or more (batch normalisation).
        lr: learning rate at the start.
        weight_decay: of AdamW.
        patience: validations without a better accuracy after which the training stops.
        epsilon: ε of the ``AdversarialInferer``; 0 trains on the images as they are.

    Raises:
        ConfigError: if a value cannot work.
    """

    OF = "a classifier"

    epochs: int = checked(MISSING, whole(1))
    batch_size: int = checked(64, whole(2))
    lr: float = checked(1e-3, number(lambda value: value > 0, "above 0 and finite"))
    weight_decay: float = checked(5e-4, _AT_LEAST_0)
    patience: int = checked(10, whole(1))
    epsilon: float = checked(0.0, _AT_LEAST_0)


def new_classifier(factory: Callable[[], nn.Module], *, seed: int) -> nn.Module:
    """A network made by ``factory``, with weights that follow the seed; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "weights"))
        return factory()


def fit_classifier(
    network: nn.Module,
    images: Images,
    labels: Tensor,
    *,
    settings: ClassifierSettings,
    validation: tuple[Images, Tensor] | None = None,
    augment: Augmentation | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    checkpoint: str | os.PathLike[str] | None = None,
    desc: str | None = None,
) -> nn.Module:
    """Train a classifier with MONAI's ``SupervisedTrainer``.

    All draws follow the seed and the number of the epoch: the same inputs give the same network on one device, also
    when a training with a ``checkpoint`` was stopped and started again. The global random state is left as it was.

    Args:
        network: [B, C, *spatial] -> [B, K] logits; trained in place.
        images: [N, C, *spatial], in memory.
        labels: [N], int64, in 0 … K - 1.
        settings: epochs, rates and the rest.
        validation: images and labels whose accuracy decides which epoch's weights are taken, the first best, and when
            to stop; without them all epochs are trained and the last weights taken.
        augment: a MONAI dictionary transform over ``"image"`` of one item, random or not.
        seed: of everything that is drawn.
        device: where to train.
        checkpoint: file that is written after each epoch and continued from; None for none. One of other images,
            settings or networks is replaced, with a warning.
        desc: name on a progress bar, which shows the loss and the accuracy of the last validation; None for none.

    Returns:
        ``network``, on ``device``, in eval mode.

    Raises:
        DataError: if images and labels do not fit or there are fewer than two.
        TrainingError: if the loss becomes NaN or infinite.
    """
    if len(images) != len(labels) or len(images) < 2:
        raise DataError(f"a classifier needs two labelled images or more, got {len(images)} and {len(labels)} labels.")
    device = torch.device(device)
    network.to(device)
    batches = _Batches(images, labels.long(), batch_size=settings.batch_size, augment=augment, seed=seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=settings.epochs)
    trainer = SupervisedTrainer(
        device=device,
        max_epochs=settings.epochs,
        train_data_loader=batches,
        epoch_length=len(batches),
        network=network,
        optimizer=optimizer,
        loss_function=nn.CrossEntropyLoss(),
        inferer=AdversarialInferer(epsilon=settings.epsilon),
        decollate=False,
        optim_set_to_none=True,
    )
    trainer.add_event_handler(Events.EPOCH_STARTED, batches.start_epoch)
    StopAtNaN().attach(trainer)
    bar = None if desc is None else LossProgressBar(desc=desc)
    parts: dict[str, Any] = {"network": network, "optimizer": optimizer, "scheduler": schedule}
    if validation is not None:
        parts["best"], parts["early_stop"] = _validate(trainer, network, *validation, settings=settings, bar=bar)
    LrScheduleHandler(schedule, print_lr=False).attach(trainer)  # type: ignore[arg-type]
    if checkpoint is not None:
        inputs = {"images": images, "labels": labels, "validation": validation, "settings": settings, "seed": seed}
        ResumeHandler(path=checkpoint, save_dict=parts, inputs=inputs).attach(trainer)
    if validation is not None:
        trainer.add_event_handler(Events.STARTED, _stop_if_done, parts["early_stop"])
    if bar is not None:
        bar.attach(trainer)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        trainer.run()
    if validation is not None:
        parts["best"].restore()
    return network.eval()


def _validate(
    trainer: SupervisedTrainer,
    network: nn.Module,
    images: Images,
    labels: Tensor,
    *,
    settings: ClassifierSettings,
    bar: LossProgressBar | None,
) -> tuple[BestWeights, EarlyStopping]:
    """After each epoch: keep the best weights, stop when the accuracy has not risen for too long."""
    pairs = zip(images.split(settings.batch_size), labels.long().split(settings.batch_size), strict=True)
    batches = [{CommonKeys.IMAGE: x, CommonKeys.LABEL: y} for x, y in pairs]
    best = BestWeights(network=network)
    evaluator = SupervisedEvaluator(
        device=trainer.state.device,
        val_data_loader=batches,
        epoch_length=len(batches),
        network=network,
        key_val_metric={"accuracy": Accuracy(lambda output: (output[CommonKeys.PRED], output[CommonKeys.LABEL]))},
        decollate=False,
        val_handlers=[best],
    )
    stop = EarlyStopping(settings.patience, lambda engine: engine.state.metrics["accuracy"], trainer)
    stop.logger = logger  # Ignite's own writes to stderr in a form of its own
    evaluator.add_event_handler(Events.COMPLETED, stop)
    if bar is not None:
        evaluator.add_event_handler(Events.COMPLETED, lambda engine: bar.shown.update(engine.state.metrics))
    ValidationHandler(interval=1, validator=evaluator).attach(trainer)
    return best, stop


def _stop_if_done(engine: Engine, stop: EarlyStopping) -> None:
    """A training that had stopped early when it was killed must not go on for another epoch."""
    if stop.counter >= stop.patience:
        engine.terminate()


class _Batches:
    """Shuffled batches of one epoch, as many and as even as the batch size allows, so that none is of one image."""

    def __init__(
        self, images: Images, labels: Tensor, *, batch_size: int, augment: Augmentation | None, seed: int
    ) -> None:
        self.images, self.labels, self.augment, self.seed = images, labels, augment, seed
        self.count = min(-(-len(images) // batch_size), len(images) // 2)
        self.epoch = 0

    def start_epoch(self, engine: Engine) -> None:
        """Handler: all that is drawn in this epoch follows the seed and its number."""
        self.epoch = engine.state.epoch
        torch.manual_seed(derive_seed(self.seed, "classifier", self.epoch))  # dropout
        if isinstance(self.augment, Randomizable):
            self.augment.set_random_state(seed=derive_seed(self.seed, "augment", self.epoch) % 2**32)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        order = torch.randperm(len(self.images), generator=seeded_generator(self.seed, "order", self.epoch))
        for index in order.tensor_split(self.count):
            yield {CommonKeys.IMAGE: self._augmented(self.images[index]), CommonKeys.LABEL: self.labels[index]}

    def _augmented(self, images: Tensor) -> Tensor:
        if self.augment is None:
            return images
        items = (self.augment({CommonKeys.IMAGE: image})[CommonKeys.IMAGE] for image in images)
        return torch.stack([convert_to_tensor(item, track_meta=False) for item in items])


def predict_probabilities(
    network: nn.Module, images: Images, *, batch_size: int = 64, device: torch.device | str = "cpu"
) -> Tensor:
    """The class probabilities [N, K] of images [N, C, *spatial], in eval mode; on the CPU, rows sum to 1.

    The network, [B, C, *spatial] -> [B, K] logits, is moved to ``device``.
    """
    network.to(device)
    with eval_mode(network):
        return torch.cat([network(x.to(device)).float().softmax(1).cpu() for x in images.split(batch_size)])


def classification_scores(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """The scores of a classifier.

    Args:
        probabilities: [N, K], K >= 2, rows sum to 1.
        labels: [N], every class at least once.

    Returns:
        ``accuracy``, ``balanced_accuracy`` (mean recall of the classes) and ``auc`` (area under the ROC curve; for
        K > 2 the mean of one class against the rest), each in [0, 1].

    Raises:
        DataError: if the shapes do not fit or a class has no image.
    """
    if probabilities.ndim != 2 or probabilities.shape[1] < 2 or labels.shape != probabilities.shape[:1]:
        raise DataError(
            f"probabilities [N, K >= 2] and labels [N] must fit, got {tuple(probabilities.shape)} and "
            f"{tuple(labels.shape)}."
        )
    y, p = labels.cpu().numpy(), probabilities.double().cpu().numpy()
    missing = sorted(set(range(p.shape[1])) - set(y.tolist()))
    if missing:
        raise DataError(
            f"the test set has no image of class {missing[0]}, so balanced accuracy and AUC have no meaning: add such "
            "images to the test section, or train with fewer classes."
        )
    guess = p.argmax(1)
    scores = p[:, 1] if p.shape[1] == 2 else p / p.sum(1, keepdims=True)
    return {
        "accuracy": float(accuracy_score(y, guess)),
        "balanced_accuracy": float(balanced_accuracy_score(y, guess)),
        "auc": float(roc_auc_score(y, scores, multi_class="ovr", average="macro")),
    }
