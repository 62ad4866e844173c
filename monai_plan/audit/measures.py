"""Measures: each computes something about an image set, and says it in cells, in a note and in words."""

from __future__ import annotations

import statistics
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from monai_plan.audit.inputs import AuditInputs, ImageSet
from monai_plan.audit.membership import membership_attack
from monai_plan.engines import classification_scores
from monai_plan.metrics import frechet_distance, nearest_real_images, precision_recall
from monai_plan.utils import ConfigError, digest

if TYPE_CHECKING:
    from monai_plan.audit.evaluation import Evaluation

__all__ = ["Measure", "Spread", "measure_of", "register_measure", "registered_measures"]

Result = Mapping[str, Any]

_REGISTERED: dict[str, Measure] = {}


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
        """As in a paper's table, for instance ``83.9 ± 1.3``."""
        text = f"{100 * self.mean:.1f}"
        return text if self.sd is None else f"{text} ± {100 * self.sd:.1f}"


class Measure(ABC):
    """What can be computed for an image set against the real images: some columns of the table.

    Attributes:
        name: its key in the results.
        heads: of its columns.
        title: above its finding in the report.
        private: names of results that are not released, for they are of single images.
    """

    name: ClassVar[str]
    heads: ClassVar[tuple[str, ...]]
    title: ClassVar[str] = ""
    private: ClassVar[tuple[str, ...]] = ()

    def applies(self, inputs: AuditInputs) -> bool:
        """Whether the inputs have what it needs."""
        return True

    @abstractmethod
    def made_by(self, inputs: AuditInputs) -> Any:
        """All that its results depend on besides the images: they are made again when this changes."""

    @abstractmethod
    def compute(self, inputs: AuditInputs, image_set: ImageSet) -> dict[str, Any]:
        """Its result for a set: numbers and lists of numbers by name."""

    @abstractmethod
    def cells(self, result: Result) -> tuple[str, ...]:
        """A result as text, one cell per head."""

    def note(self, evaluation: Evaluation) -> str:
        """What its columns mean: a sentence or two below the table; nothing where it has none."""
        return ""

    def finding(self, name: str, result: Result, real: Result) -> str:
        """What was found about the set ``name``, in words, beside the result of the real images; or nothing."""
        return ""


def register_measure(measure: type[Measure]) -> type[Measure]:
    """Class decorator: an audit computes this measure too, after those that were registered before.

    Raises:
        ConfigError: if another measure has the name.
    """
    if measure.name in _REGISTERED:
        raise ConfigError(f'there is a measure "{measure.name}" already: give {measure.__name__} another name.')
    _REGISTERED[measure.name] = measure()
    return measure


def registered_measures() -> tuple[Measure, ...]:
    """All measures in the order of their registration, which is that of the columns."""
    return tuple(_REGISTERED.values())


def measure_of(name: str) -> Measure:
    """The measure of this name.

    Raises:
        ConfigError: if there is none.
    """
    if name not in _REGISTERED:
        raise ConfigError(
            f'there is no measure "{name}", only {", ".join(_REGISTERED)}: import the module that registers it.'
        )
    return _REGISTERED[name]


def _over_seeds(scores: list[dict[str, float]]) -> dict[str, list[float]]:
    return {name: [values[name] for values in scores] for name in scores[0]}


@register_measure
class _Utility(Measure):
    """What a classifier trained on the images is worth on real ones."""

    name, title = "utility", "Utility"
    heads = ("accuracy", "balanced accuracy", "AUC")

    def made_by(self, inputs: AuditInputs) -> Any:
        return inputs.classifier_digest

    def compute(self, inputs: AuditInputs, image_set: ImageSet) -> dict[str, Any]:
        labels = inputs.test.labels
        return _over_seeds([classification_scores(x.test, labels) for x in inputs.opinions(image_set)])

    def cells(self, result: Result) -> tuple[str, ...]:
        return tuple(Spread(tuple(result[name])).percent for name in ("accuracy", "balanced_accuracy", "auc"))

    def note(self, evaluation: Evaluation) -> str:
        seeds = len(evaluation.rows[0].results[self.name]["accuracy"])
        return (
            f"Accuracy, balanced accuracy, AUC (in %{f', mean ± sd over {seeds} seeds' if seeds > 1 else ''}): a "
            f"classifier trained on the row's images and tested on {evaluation.num_test_images} real test images of "
            f"{evaluation.num_test_patients} patients. Each row trains for as many steps as the row real."
        )

    def finding(self, name: str, result: Result, real: Result) -> str:
        ours, theirs = (Spread(tuple(r["accuracy"])) for r in (result, real))
        deviations = [100 * s for s in (ours.sd, theirs.sd) if s is not None]
        spread = f"standard deviation between seeds {max(deviations):.1f}" if deviations else "one seed, so no interval"
        return (
            f"A classifier trained on {name} reaches {ours.percent} % on real test images, one trained on the real "
            f"images {theirs.percent} % ({100 * (ours.mean - theirs.mean):+.1f} points; {spread})."
        )


@register_measure
class _PerClass(Measure):
    """How many of the real test images of each class that classifier knows; the audit shows it by class."""

    name, heads = "classes", ()

    def made_by(self, inputs: AuditInputs) -> Any:
        return inputs.classifier_digest

    def compute(self, inputs: AuditInputs, image_set: ImageSet) -> dict[str, Any]:
        labels = inputs.test.labels
        recalls = []
        for opinion in inputs.opinions(image_set):
            right = opinion.test.argmax(1) == labels
            recalls.append([float(right[labels == number].float().mean()) for number in range(opinion.test.shape[1])])
        return {"recall": recalls}

    def cells(self, result: Result) -> tuple[str, ...]:
        return ()


@register_measure
class _Membership(Measure):
    """How often an attack tells from the classifier which real images were behind its training set."""

    name, title = "membership", "Membership"
    heads = ("MIA",)

    def made_by(self, inputs: AuditInputs) -> Any:
        return inputs.classifier_digest

    def compute(self, inputs: AuditInputs, image_set: ImageSet) -> dict[str, Any]:
        train, test = inputs.train, inputs.test
        attacks = [
            membership_attack(
                member_probabilities=x.train,
                member_labels=train.labels,
                member_subjects=train.subjects,
                nonmember_probabilities=x.test,
                nonmember_labels=test.labels,
                nonmember_subjects=test.subjects,
                seed=x.seed,
            )
            for x in inputs.opinions(image_set)
        ]
        return _over_seeds([{"accuracy": a.accuracy, "low": a.low, "high": a.high} for a in attacks])

    def cells(self, result: Result) -> tuple[str, ...]:
        return (Spread(tuple(result["accuracy"])).percent,)

    def note(self, evaluation: Evaluation) -> str:
        return (
            "MIA (in %): how often an attack is right that tells by that classifier whether a real image was behind "
            "the training set; 50 is chance and ideal."
        )

    def finding(self, name: str, result: Result, real: Result) -> str:
        share, low, high = (statistics.fmean(result[key]) for key in ("accuracy", "low", "high"))
        attack = f"{100 * share:.1f} % right (95 % interval {100 * low:.1f} to {100 * high:.1f}, chance 50)"
        of_real = f"{100 * statistics.fmean(real['accuracy']):.1f} % right"
        if low > 0.5:
            return f"Evidence of leakage: the attack on a classifier trained on {name} is {attack}."
        if statistics.fmean(real["low"]) > 0.5:
            return (
                f"No evidence of leakage by this attack: on a classifier trained on {name} it is {attack}, while on "
                f"one trained on the real images it is {of_real}."
            )
        return (
            f"The attack says nothing here: on a classifier trained on {name} it is {attack}, but it finds nothing in "
            f"one trained on the real images either ({of_real}), so it is too weak to judge by."
        )


@register_measure
class _Fidelity(Measure):
    """Whether the images look like real ones, as a whole."""

    name, title = "fidelity", "Fidelity"
    heads = ("Fréchet", "precision", "recall")

    def made_by(self, inputs: AuditInputs) -> Any:
        return [inputs.embedding_digest, *self.heads]

    def compute(self, inputs: AuditInputs, image_set: ImageSet) -> dict[str, Any]:
        images = inputs.judged(image_set)
        distance = frechet_distance(inputs.statistics(images), inputs.train_statistics)
        precision, recall = precision_recall(inputs.features(images), inputs.train_features)
        return {"frechet": distance, "precision": precision, "recall": recall}

    def cells(self, result: Result) -> tuple[str, ...]:
        return (f"{result['frechet']:.3g}", *(f"{100 * result[name]:.1f}" for name in ("precision", "recall")))

    def note(self, evaluation: Evaluation) -> str:
        return (
            "Fréchet: distance of the row's images to the real training images in the pooled features of the "
            f"{evaluation.embedding_title}; less is more alike. It is not the Inception FID. Precision, recall (in %): "
            "the share of the row's images that look like a real one, and of the real ones that look like one of the "
            "row's, in the same features. All three move with the number of images, so compare rows of like size."
        )

    def finding(self, name: str, result: Result, real: Result) -> str:
        return (
            f"Fréchet distance to the training images {result['frechet']:.3g}; real test images lie at "
            f"{real['frechet']:.3g}, the floor. Precision {100 * result['precision']:.0f} %, recall "
            f"{100 * result['recall']:.0f} % (real test images: {100 * real['precision']:.0f} and "
            f"{100 * real['recall']:.0f} %). Look at the images below as well."
        )


@register_measure
class _Distance(Measure):
    """How far the images are from the nearest real training image."""

    name, title = "distance", "Distance"
    heads = ("mean-min distance",)
    private = ("least",)

    def made_by(self, inputs: AuditInputs) -> Any:
        return inputs.embedding_digest

    def compute(self, inputs: AuditInputs, image_set: ImageSet) -> dict[str, Any]:
        distances = nearest_real_images(
            inputs.judged(image_set), inputs.train.images, inputs.embedding,
            batch_size=inputs.settings.batch_size, device=inputs.device,
        ).distances  # fmt: skip
        return {"mean": float(distances.mean()), "least": float(distances.min())}

    def cells(self, result: Result) -> tuple[str, ...]:
        return (f"{result['mean']:.3g}",)

    def note(self, evaluation: Evaluation) -> str:
        return (
            f"Mean-min distance: mean over the row's images of the {evaluation.embedding_title} to the nearest of "
            f"{evaluation.num_train_images} real training images of {evaluation.num_train_patients} patients; more is "
            "safer, but a blurred image is far from everything, so read it beside the Fréchet distance."
        )

    def finding(self, name: str, result: Result, real: Result) -> str:
        scale = f"{result['mean']:.3g}, against {real['mean']:.3g} for held-out real images"
        copied = "Evidence of leakage: at least one image equals a training image. " if result["least"] == 0 else ""
        if result["mean"] < real["mean"]:
            return f"{copied}On average the images lie nearer to the training images than new patients do ({scale})."
        return (
            f"{copied}On average the images lie at least as far from the training images as new patients do ({scale}). "
            f"That alone proves little: blurred or odd images lie far off too, see Fidelity."
        )


@register_measure
class _Identity(Measure):
    """How surely the identity classifier takes the images for one of the training patients."""

    name = "identity"
    heads = ("top identity",)

    def applies(self, inputs: AuditInputs) -> bool:
        return inputs.identity_net is not None

    def made_by(self, inputs: AuditInputs) -> Any:
        return digest(inputs.identity_net)

    def compute(self, inputs: AuditInputs, image_set: ImageSet) -> dict[str, Any]:
        assert inputs.identity_net is not None
        probabilities = inputs.probabilities(inputs.identity_net, inputs.judged(image_set))
        return {"top": float(probabilities.amax(1).mean()), "identities": probabilities.shape[1]}

    def cells(self, result: Result) -> tuple[str, ...]:
        return (f"{100 * result['top']:.1f}",)

    def note(self, evaluation: Evaluation) -> str:
        uniform = 100 / evaluation.rows[0].results[self.name]["identities"]
        return (
            "Top identity (in %): mean over the row's images of the identity classifier's highest probability; uniform "
            f"would be {uniform:.2g}."
        )
