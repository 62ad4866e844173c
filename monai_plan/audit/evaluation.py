"""The table of the paper: what each way of making images is worth, and what it gives away."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from monai_plan.audit.membership import membership_attack
from monai_plan.engines import (
    ClassifierSettings,
    classification_scores,
    fit_classifier,
    new_classifier,
    predict_probabilities,
)
from monai_plan.metrics import PerceptualEmbedding, embed, frechet_distance, nearest_real
from monai_plan.utils import ConfigError, DataError, derive_seed, write_json

__all__ = ["Evaluation", "EvaluationRow", "RealImages", "Spread", "evaluate"]

logger = logging.getLogger(__name__)

REAL = "real"
K_SAME = "k-same"


class RealImages(Protocol):
    """Real images of one section of a data list, as ``monai_plan.data.CheckedDataset`` holds them."""

    images: Tensor  # [N, C, *spatial] in [-1, 1]
    labels: Tensor  # [N]
    subjects: list[str]
    has_subjects: bool


@dataclass(frozen=True)
class Spread:
    """A score over several seeds: its values, their mean and their standard deviation (None for one seed)."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean over the seeds."""
        return statistics.fmean(self.values)

    @property
    def sd(self) -> float | None:
        """The standard deviation over the seeds (n - 1)."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def percent(self) -> str:
        """As in the paper's table, for instance ``83.9 ± 1.3``."""
        text = f"{100 * self.mean:.1f}"
        return text if self.sd is None else f"{text} ± {100 * self.sd:.1f}"


@dataclass(frozen=True)
class EvaluationRow:
    """One row of the table.

    Attributes:
        name: ``real``, or the name given to ``evaluate``.
        num_images: images that the classifiers of this row were trained on.
        accuracy: of those classifiers on the real test images, in [0, 1].
        balanced_accuracy: the same, as the mean recall of the classes.
        auc: the same, as the area under the ROC curve.
        membership: accuracy of the membership attack on those classifiers, in [0, 1]; 0.5 is ideal.
        membership_interval: its 95 % interval, the ends averaged over the seeds.
        frechet: Fréchet distance of the images to the real training images; in the row ``real`` that of the real test
            images, the floor.
        mean_min_distance: mean over the images of the perceptual distance to the nearest real training image; in the
            row ``real`` that of the real test images, the scale.
        least_distance: the least of these distances: one copy shows here and hides in the mean.
        top_identity: mean over the images of the highest identity probability; None without an identity network.
    """

    name: str
    num_images: int
    accuracy: Spread
    balanced_accuracy: Spread
    auc: Spread
    membership: Spread
    membership_interval: tuple[float, float]
    frechet: float
    mean_min_distance: float
    least_distance: float
    top_identity: float | None


@dataclass(frozen=True)
class Evaluation:
    """The table, with what is needed to read it.

    Attributes:
        rows: the rows, ``real`` first.
        embedding_title: the name of the perceptual distance.
        num_train_images, num_train_patients, num_test_images, num_test_patients: sizes of the real sets.
        num_anchors: images of the row ``k-same``, one an anchor; None without such a row.
        num_identities: classes of the identity network; None without one.
        has_subjects: whether the data list names patients.
    """

    rows: tuple[EvaluationRow, ...]
    embedding_title: str
    num_train_images: int
    num_train_patients: int
    num_test_images: int
    num_test_patients: int
    num_anchors: int | None
    num_identities: int | None
    has_subjects: bool

    def row(self, name: str) -> EvaluationRow:
        """The row of this name.

        Raises:
            KeyError: if there is none.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    @property
    def columns(self) -> tuple[str, ...]:
        """The heads of the table."""
        head = ("", "images", "accuracy", "balanced accuracy", "AUC", "MIA", "Fréchet", "mean-min distance", "least")
        return head if self.num_identities is None else (*head, "top identity")

    def cells(self, row: EvaluationRow) -> tuple[str, ...]:
        """One row as text, a cell a column."""
        cells = (
            row.name,
            str(row.num_images),
            row.accuracy.percent,
            row.balanced_accuracy.percent,
            row.auc.percent,
            row.membership.percent,
            f"{row.frechet:.4g}",
            f"{row.mean_min_distance:.4g}",
            f"{row.least_distance:.4g}",
        )
        return cells if row.top_identity is None else (*cells, f"{100 * row.top_identity:.1f}")

    @property
    def notes(self) -> tuple[str, ...]:
        """What each column means, and what to bear in mind: one sentence or two each."""
        seeds = len(self.rows[0].accuracy.values)
        notes = [
            f"Accuracy, balanced accuracy, AUC (in %{', mean ± sd over ' + str(seeds) + ' seeds' if seeds > 1 else ''})"
            f": a classifier trained on the row's images and tested on {self.num_test_images} real test images of "
            f"{self.num_test_patients} patients. Each row trains for as many steps as the row real.",
            "MIA (in %): how often an attack is right that tells by that classifier whether a real image was behind "
            "the training set; 50 is chance and ideal.",
            "Fréchet: distance of the row's images to the real training images in the pooled features of the "
            f"{self.embedding_title}; less is more alike. It is not the Inception FID, and it falls with the number "
            "of images, so compare rows of like size.",
            f"Mean-min distance: mean over the row's images of the {self.embedding_title} to the nearest of "
            f"{self.num_train_images} real training images of {self.num_train_patients} patients; more is safer, but "
            "a blurred image is far from everything, so read it beside the Fréchet distance. Least: the smallest one.",
            "In the row real, the Fréchet and the other distances are those of the real test images to the training "
            "images: what a new patient shows, the scale for the rows below.",
        ]
        if self.num_identities is not None:
            notes.append(
                "Top identity (in %): mean over the row's images of the identity classifier's highest probability; "
                f"uniform would be {100 / self.num_identities:.2g}. The row real shows test images: unknown patients."
            )
        if self.num_anchors is not None:
            notes.append(f"k-same has only as many images as there are anchors: {self.num_anchors}.")
        if not self.has_subjects:
            notes.append(
                "The data list names no patients: every image counts as a patient of its own, and several images of "
                "one patient would make all that is said about privacy too good."
            )
        return tuple(notes)

    def to_markdown(self) -> str:
        """The table in Markdown, with the notes below it."""
        lines = [self.columns, ("---", *["---:"] * (len(self.columns) - 1)), *(self.cells(row) for row in self.rows)]
        table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
        return table + "\n\n" + "\n".join(f"- {note}" for note in self.notes) + "\n"

    def to_json(self) -> str:
        """All values as JSON text; ``from_json`` reads it."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Evaluation:
        """The evaluation that ``to_json`` wrote."""
        data = json.loads(text)
        return cls(**{**data, "rows": tuple(map(_row_from_dict, data["rows"]))})


def _row_from_dict(data: Mapping[str, Any]) -> EvaluationRow:
    spreads = {f.name: Spread(tuple(data[f.name]["values"])) for f in fields(EvaluationRow) if f.type == "Spread"}
    return EvaluationRow(**{**data, **spreads, "membership_interval": tuple(data["membership_interval"])})


def evaluate(
    rows: Mapping[str, tuple[Tensor, Tensor]],
    *,
    train: RealImages,
    test: RealImages,
    embedding: PerceptualEmbedding,
    classifier_factory: Callable[[], nn.Module],
    cache_dir: str | os.PathLike[str],
    identity_net: nn.Module | None = None,
    epochs: int = 20,
    seeds: int = 3,
    seed: int = 0,
    batch_size: int = 32,
    lr: float = 1e-3,
    weight_decay: float = 1e-4,
    augment: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
    cache_key: str = "",
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> Evaluation:
    """Make the table: the row ``real``, then the given rows (in PLAN: linear, k-same, PLAN).

    A classifier is trained on each row's images once a seed and tested on the real test images; the same seeds, and
    so the same initial weights, serve every row, and rows of fewer images train for more epochs, so that all make as
    many steps. Every finished part is written to ``cache_dir`` at once and read again when the same inputs come back.

    Args:
        rows: a row's images [N, C, *spatial] in [-1, 1] and labels [N], by its name.
        train: real training images.
        test: real test images of other patients.
        embedding: of the perceptual distance and the Fréchet distance.
        classifier_factory: makes an untrained classifier, [B, C, *spatial] -> [B, K] logits.
        cache_dir: a private folder: what is in it derives from patients.
        identity_net: [B, C, *spatial] -> [B, identities] logits.
        epochs: of the row ``real``.
        seeds: classifiers a row.
        seed: of everything that is drawn.
        batch_size, lr, weight_decay, augment: see ``fit_classifier``.
        cache_key: anything else on which results depend; change it with ``augment``, which cannot be told apart.
        device: where to compute.
        progress: show a progress bar.

    Raises:
        ConfigError: if ``seeds`` is less than 1 or a row is named ``real``.
        DataError: if images, labels and classes do not fit, or a patient is in training and test.
    """
    if seeds < 1:
        raise ConfigError(f"seeds must be at least 1, got {seeds}.")
    if REAL in rows:
        raise ConfigError(f'the row "{REAL}" is made of the real training and test images: give yours another name.')
    sets = {REAL: (train.images, train.labels), **rows}
    _check_inputs(sets, train, test, classifier_factory)
    reference = _Reference(embedding, train.images, batch_size, device)
    shared = _digest(
        train.images, train.labels, train.subjects, test.images, test.labels, test.subjects, cache_key, batch_size
    )
    fidelity_key = _digest(shared, embedding.title, embedding, identity_net)
    results: list[EvaluationRow] = []
    num_identities: int | None = None
    with tqdm(total=len(sets) * (seeds + 1), desc="evaluate", disable=not progress) as bar:
        for name, (images, labels) in sets.items():
            data = _digest(images, labels)
            steps = max(1, round(epochs * len(train.images) / len(images)))
            trials = []
            for s in range(seeds):
                bar.set_postfix_str(f"{name}, seed {s + 1}")
                classifier_seed = derive_seed(seed, "evaluate", s)
                network = new_classifier(classifier_factory, seed=classifier_seed)
                settings = ClassifierSettings(steps, batch_size, lr, weight_decay)

                def trial(
                    network: nn.Module = network,
                    images: Tensor = images,
                    labels: Tensor = labels,
                    settings: ClassifierSettings = settings,
                    classifier_seed: int = classifier_seed,
                ) -> dict[str, Any]:
                    fit_classifier(
                        network, images, labels, settings=settings, augment=augment, seed=classifier_seed,
                        device=device,
                    )  # fmt: skip
                    return _trial(network, train, test, batch_size=batch_size, device=device, seed=classifier_seed)

                key = _digest(shared, data, network, str(network), settings, classifier_seed)
                trials.append(_cached(cache_dir, f"{name}-seed{s}", key, trial))
                bar.update()
            bar.set_postfix_str(f"{name}, distances")
            shown = test.images if name == REAL else images

            def fidelity(images: Tensor = shown) -> dict[str, Any]:
                return _fidelity(images, reference, identity_net)

            fidelities = _cached(cache_dir, f"{name}-distances", _digest(fidelity_key, data), fidelity)
            num_identities = fidelities.pop("num_identities")
            results.append(_row(name, len(images), trials, fidelities))
            bar.update()
    return Evaluation(
        rows=tuple(results),
        embedding_title=embedding.title,
        num_train_images=len(train.images),
        num_train_patients=len(set(train.subjects)),
        num_test_images=len(test.images),
        num_test_patients=len(set(test.subjects)),
        num_anchors=len(rows[K_SAME][0]) if K_SAME in rows else None,
        num_identities=num_identities,
        has_subjects=train.has_subjects and test.has_subjects,
    )


class _Reference:
    """The real training images as embeddings and features, computed when the first row needs them."""

    def __init__(
        self, embedding: PerceptualEmbedding, images: Tensor, batch_size: int, device: torch.device | str
    ) -> None:
        self.embedding, self.images, self.batch_size, self.device = embedding, images, batch_size, device

    def embed(self, images: Tensor, *, pooled: bool) -> Tensor:
        return embed(self.embedding, images, batch_size=self.batch_size, device=self.device, pooled=pooled)

    @cached_property
    def embedded(self) -> Tensor:
        return self.embed(self.images, pooled=False)

    @cached_property
    def features(self) -> Tensor:
        return self.embed(self.images, pooled=True)


def _trial(
    network: nn.Module,
    train: RealImages,
    test: RealImages,
    *,
    batch_size: int,
    device: torch.device | str,
    seed: int,
) -> dict[str, Any]:
    member, nonmember = (
        predict_probabilities(network, x.images, batch_size=batch_size, device=device) for x in (train, test)
    )
    attack = membership_attack(
        member_probabilities=member,
        member_labels=train.labels,
        member_subjects=train.subjects,
        nonmember_probabilities=nonmember,
        nonmember_labels=test.labels,
        nonmember_subjects=test.subjects,
        seed=seed,
    )
    scores = classification_scores(nonmember, test.labels)
    return {**scores, "membership": attack.accuracy, "membership_low": attack.low, "membership_high": attack.high}


def _fidelity(images: Tensor, reference: _Reference, identity_net: nn.Module | None) -> dict[str, Any]:
    distances = nearest_real(reference.embed(images, pooled=False), reference.embedded).distances
    identity = None
    if identity_net is not None:
        identity = predict_probabilities(identity_net, images, batch_size=reference.batch_size, device=reference.device)
    return {
        "frechet": frechet_distance(reference.embed(images, pooled=True), reference.features),
        "mean_min_distance": float(distances.mean()),
        "least_distance": float(distances.min()),
        "top_identity": None if identity is None else float(identity.amax(1).mean()),
        "num_identities": None if identity is None else identity.shape[1],
    }


def _row(
    name: str, num_images: int, trials: Sequence[Mapping[str, float]], fidelity: Mapping[str, Any]
) -> EvaluationRow:
    def spread(key: str) -> Spread:
        return Spread(tuple(trial[key] for trial in trials))

    return EvaluationRow(
        name=name,
        num_images=num_images,
        accuracy=spread("accuracy"),
        balanced_accuracy=spread("balanced_accuracy"),
        auc=spread("auc"),
        membership=spread("membership"),
        membership_interval=(spread("membership_low").mean, spread("membership_high").mean),
        **fidelity,
    )


def _check_inputs(
    sets: Mapping[str, tuple[Tensor, Tensor]],
    train: RealImages,
    test: RealImages,
    classifier_factory: Callable[[], nn.Module],
) -> None:
    shape = tuple(train.images.shape[1:])
    for name, (images, labels) in {**sets, "real test": (test.images, test.labels)}.items():
        if tuple(images.shape[1:]) != shape or len(images) != len(labels) or len(images) < 2:
            raise DataError(
                f'the images "{name}" have the shape {tuple(images.shape)} and {len(labels)} labels: give two or more '
                f"of the shape {shape}, as the real training images, each with a label."
            )
    both = set(train.subjects) & set(test.subjects)
    if both:
        raise DataError(
            f"subject {min(both)} is in training and test ({len(both)} such): split the data list by subject."
        )
    with torch.random.fork_rng(devices=[]):
        network = classifier_factory()
    num_classes = predict_probabilities(network, train.images[:1]).shape[1]
    greatest = max(int(labels.max()) for _, labels in sets.values())
    if max(greatest, int(test.labels.max())) >= num_classes:
        raise DataError(
            f"label {max(greatest, int(test.labels.max()))} is outside the classifier's {num_classes} classes: make "
            "classifier_factory build one with an output a class."
        )


def _digest(*parts: Any) -> str:
    """SHA-256 over tensors, networks (their weights and buffers) and anything with a faithful ``repr``."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, nn.Module):
            for key, value in part.state_dict().items():
                digest.update(f"{key}{_digest(value)}".encode())
        elif isinstance(part, Tensor):
            digest.update(f"{part.dtype}{tuple(part.shape)}".encode())
            digest.update(part.detach().cpu().contiguous().numpy().tobytes())
        else:
            digest.update(repr(part).encode())
        digest.update(b"\x1f")
    return digest.hexdigest()


def _cached(
    folder: str | os.PathLike[str], name: str, key: str, compute: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """The result in ``folder`` if it was made with the same key; else computed and written there at once."""
    path = Path(folder) / f"{re.sub('[^A-Za-z0-9-]', '_', name)}.json"
    if path.is_file():
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            if saved["key"] == key:
                return dict(saved["result"])
        except (ValueError, KeyError, TypeError) as error:
            logger.warning("%s cannot be read and is made again (%s)", path, error)
    result = compute()
    write_json(path, {"key": key, "result": result})
    return result
