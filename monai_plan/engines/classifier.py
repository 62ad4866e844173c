"""The trainer of classifiers, what they say, and how well."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from ignite.handlers import ProgressBar
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from monai.handlers import LrScheduleHandler
from monai.networks.utils import eval_mode
from monai.utils import CommonKeys
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score
from torch import Tensor, nn

from monai_plan.engines.handlers import StopAtNaN
from monai_plan.utils import ConfigError, DataError, derive_seed

__all__ = ["classification_scores", "fit_classifier", "predict_probabilities"]


def fit_classifier(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epochs: int,
    batch_size: int = 32,
    lr: float = 1e-3,
    seed: int = 0,
    device: torch.device | str = "cpu",
    augment: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
    weight_decay: float = 1e-4,
    progress: bool = False,
) -> nn.Module:
    """Train a classifier with MONAI's ``SupervisedTrainer``: cross entropy, AdamW, cosine learning rate.

    The same seed and inputs give the same network on one device. The global random state is left as it was.

    Args:
        network: [B, C, *spatial] -> [B, K] logits; trained in place.
        images: [N, C, *spatial], in memory.
        labels: [N], int64, in 0 … K - 1.
        epochs: passes over the images.
        batch_size: images a step, 2 or more (batch normalisation).
        lr: learning rate at the start; it falls to 0 along a cosine.
        seed: of the order of the images, the augmentation and dropout.
        device: where to train.
        augment: a MONAI dictionary transform over ``"image"`` of one item, random or not.
        weight_decay: of AdamW.
        progress: show a progress bar.

    Returns:
        ``network``, on ``device``, in eval mode.

    Raises:
        DataError: if images and labels do not fit or there are fewer than two.
        ConfigError: if ``epochs`` or ``batch_size`` is too small.
        TrainingError: if the loss becomes NaN or infinite.
    """
    if len(images) != len(labels) or len(images) < 2:
        raise DataError(f"a classifier needs two labelled images or more, got {len(images)} and {len(labels)} labels.")
    if epochs < 1 or batch_size < 2:
        raise ConfigError(f"epochs must be at least 1 and batch_size at least 2, got {epochs} and {batch_size}.")
    items = [{CommonKeys.IMAGE: x, CommonKeys.LABEL: y} for x, y in zip(images, labels.long(), strict=True)]
    network.to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)

    # Dropout, the order and (through MONAI's loader) the random transforms all follow torch's seed.
    cuda = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(derive_seed(seed, "classifier"))
        loader = DataLoader(
            Dataset(items, augment),
            batch_size=min(batch_size, len(items)),
            shuffle=True,
            # A last batch of one image has no variance to normalise by; another image is left out in each epoch.
            drop_last=len(items) > batch_size and len(items) % batch_size == 1,
        )
        trainer = SupervisedTrainer(
            device=torch.device(device),
            max_epochs=epochs,
            train_data_loader=loader,
            network=network,
            optimizer=optimizer,
            loss_function=nn.CrossEntropyLoss(),
            train_handlers=[StopAtNaN(), LrScheduleHandler(schedule, print_lr=False)],  # type: ignore[arg-type]
            decollate=False,
        )
        if progress:
            ProgressBar(desc="classifier", persist=False).attach(trainer, output_transform=_loss)
        trainer.run()
    return network.eval()


def _loss(output: Mapping[str, Any]) -> dict[str, float]:
    return {CommonKeys.LOSS.value: output[CommonKeys.LOSS].item()}


def predict_probabilities(
    network: nn.Module, images: Tensor, *, batch_size: int = 64, device: torch.device | str = "cpu"
) -> Tensor:
    """The class probabilities of images, in eval mode.

    Args:
        network: [B, C, *spatial] -> [B, K] logits; is moved to ``device``.
        images: [N, C, *spatial].
        batch_size: images at a time.
        device: where to compute.

    Returns:
        [N, K], on the CPU, rows sum to 1.
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
