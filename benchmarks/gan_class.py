"""What a generator knows of the class and how much it varies by a term of its loss, and which of its states to take.

    python benchmarks/gan_class.py OUT --dataset_dir quickstart/data --lesions [--id variety_weight --weights 0 1]

trains the GAN of a bundle with each weight of the term (``class_weight`` unless told) and seed, and keeps the moving
average after every epoch; what is there is not made again. Two tables follow.

Of all states: how much farther from unseen patients the state is that a rule takes than the nearest of them, in per
cent. The rules measure by training images, or by as many unseen patients as would be held back; the judges are the
other unseen patients, over several splits of them. That is kind to holding back: the training does not miss them.

Of the last state: the accuracy on real test images of classifiers trained on as many samples as there are training
images, class by class, and of each class alone; the probability that a classifier of real images gives to the class
that was asked for; Fréchet distances times 1000; precision and recall of the samples, in the row of the real images
those of the unseen patients; of phantoms, the lesions. ± is half the 95 % interval of the trainings' means (Student's
t), which stand in brackets.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gan_quality import interval
from ignite.engine import Events
from monai.bundle import ConfigParser
from torch import Tensor, nn

from monai_plan.bundle.finished_run import FinishedRun
from monai_plan.data import CheckedDataset, contact_sheet
from monai_plan.data.lesions import LesionCounter, lesion_shares
from monai_plan.engines import ClassifierSettings, fit_classifier, new_classifier, predict_probabilities
from monai_plan.gan import StyleGAN2Trainer
from monai_plan.metrics import FeatureStatistics, frechet_distance, precision_recall
from monai_plan.networks import StyleGAN2Generator, load_generator, save_generator
from monai_plan.utils import seeded_generator, write_json

SKIPPED = 0.25  # share of the training whose states no rule would take


class Work:
    """The data, the networks and what they are judged by, as the bundle's configs say."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.folder = options, Path(options.output_dir)
        overrides = json.loads(Path(options.overrides).read_text()) if options.overrides else {}
        self.run = FinishedRun(self.folder, Path(options.bundle_root), Path(options.dataset_dir), overrides)
        parser = self.parse()
        self.training: CheckedDataset = parser.get_parsed_content("training")
        self.test: CheckedDataset = parser.get_parsed_content("test")
        self.embedding = parser.get_parsed_content("embedding")
        self.class_network = parser.get_parsed_content("class_network")
        self.augment = parser.get_parsed_content("augmentation")
        self.classifiers = ClassifierSettings(
            options.classifier_epochs,
            batch_size=parser.get_parsed_content("classifier_batch_size"),
            lr=parser.get_parsed_content("classifier_lr"),
        )
        self.counter = LesionCounter(tuple(self.training.images.shape[2:])) if options.lesions else None
        self.features = [self.embed(part.images[:]) for part in (self.training, self.test)]

    def parse(self, **ids: Any) -> ConfigParser:
        """The bundle's configs with some ids."""
        return self.run.config("common", "train", **ids)

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """[N, F]."""
        return torch.cat([self.embedding.pooled(some) for some in images.split(64)])

    def states(self, weight: float, seed: int) -> list[Path]:
        """The files of the moving average after each epoch, trained unless they are there."""
        folder = self.folder / f"{self.options.id}_{weight:g}" / str(seed)
        if not (folder / "seconds.json").exists():
            parser = self.parse(**{self.options.id: weight}, seed=seed, output_dir=str(folder))
            torch.manual_seed(seed)
            trainer: StyleGAN2Trainer = parser.get_parsed_content("train#trainer")

            def keep(engine: StyleGAN2Trainer) -> None:
                save_generator(engine.ema, folder / f"{engine.state.images_seen:08d}.pt")

            trainer.add_event_handler(Events.EPOCH_COMPLETED, keep)
            began = time.process_time()
            trainer.run()
            write_json(folder / "seconds.json", (time.process_time() - began) / trainer.state.images_seen * 1000)
        return sorted(folder.glob("*.pt"))


@torch.no_grad()
def samples(generator: StyleGAN2Generator, labels: Tensor) -> Tensor:
    """One image a label, [N, C, *spatial] in [-1, 1]."""
    z = torch.randn(len(labels), generator.z_dim, generator=seeded_generator(0, "class", "samples"))
    return torch.cat([generator(*some).clamp(-1, 1) for some in zip(z.split(64), labels.split(64), strict=True)])


def classifier(work: Work, images: Any, labels: Tensor, seed: int) -> nn.Module:
    """One that learnt from some images."""
    network = new_classifier(work.class_network, seed=seed)
    return fit_classifier(network, images, labels, settings=work.classifiers, augment=work.augment, seed=seed)


def recalls(probabilities: Tensor, labels: Tensor) -> list[float]:
    """The share of each class, and then of all, that is found."""
    hits = (probabilities.argmax(1) == labels).double()
    return [*(hits[labels == label].mean().item() for label in labels.unique()), hits.mean().item()]


def distance(features: Tensor, others: Tensor) -> float:
    """The Fréchet distance of two sets of features."""
    return frechet_distance(FeatureStatistics(features), FeatureStatistics(others))


def by_class(features: Tensor, labels: Tensor, others: Tensor, other_labels: Tensor) -> float:
    """The mean over the classes."""
    return float(np.mean([distance(features[labels == c], others[other_labels == c]) for c in labels.unique()]))


def judge(work: Work, state: Path, phi: nn.Module) -> dict[str, Any]:
    """Everything about one state; kept beside it."""
    file = state.with_suffix(".json")
    if file.exists():
        return json.loads(file.read_text())
    labels, test = work.training.labels, work.test
    images = samples(load_generator(state), labels)
    rows = torch.cat([(labels == label).nonzero()[:16, 0] for label in labels.unique()])
    contact_sheet(images[rows], columns=16, path=state.with_suffix(".png"))
    probabilities = predict_probabilities(phi, images)
    features = work.embed(images)
    found: dict[str, Any] = {
        "probability": [probabilities[labels == label, label].mean().item() for label in labels.unique()],
        "distances": [distance(features, real) for real in work.features],
        "precision_recall": precision_recall(features, work.features[0]),
        "recalls": [
            recalls(predict_probabilities(classifier(work, images, labels, seed), test.images), test.labels)
            for seed in range(work.options.classifier_seeds)
        ],
    }  # fmt: skip
    if work.counter is not None:
        counts = work.counter(images)
        found["lesions"] = [lesion_shares(counts[labels == label]) for label in labels.unique()]
    write_json(file, found)
    return found


def class_table(work: Work, weights: list[float], seeds: list[int]) -> str:
    """What the last states know of the class."""
    training, test, count = work.training, work.test, work.options.classifier_seeds
    reals = [classifier(work, training.images, training.labels, seed) for seed in range(count)]
    found = [recalls(predict_probabilities(network, test.images), test.labels) for network in reals]
    lines = [
        f"| {work.options.id} | s/1000 | accuracy | of each class | P(class) | Fréchet, training | test "
        "| precision, recall | lesions, % |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        f"| real images | | {interval([row[-1] for row in found])} | {percent(np.mean(found, 0)[:-1])} | | "
        f"| {1000 * distance(*work.features):.1f} | {percent(precision_recall(*reversed(work.features)))} | |",
    ]
    for weight in weights:
        states = [work.states(weight, seed)[-1] for seed in seeds]
        rows = [judge(work, state, reals[0]) for state in states]
        seconds = [json.loads((state.parent / "seconds.json").read_text()) for state in states]
        recall = np.mean([row["recalls"] for row in rows], 1)
        distances = 1000 * np.array([row["distances"] for row in rows])
        lesions = np.mean([row["lesions"] for row in rows], 0).round(1).tolist() if work.counter else ""
        lines.append(
            f"| {weight:g} | {np.mean(seconds):.1f} | {interval(recall[:, -1].tolist())} "
            f"({percent(recall[:, -1])}) | {percent(recall.mean(0)[:-1])} "
            f"| {percent(np.mean([row['probability'] for row in rows], 0))} "
            f"| {distances[:, 0].mean():.1f} | {distances[:, 1].mean():.1f} "
            f"| {percent(np.mean([row['precision_recall'] for row in rows], 0))} | {lesions} |"
        )
    return "\n".join(lines)


def percent(values: Any) -> str:
    """ "12.3, 45.6"."""
    return ", ".join(f"{100 * value:.1f}" for value in values)


def choice_table(work: Work, weights: list[float], seeds: list[int]) -> str:
    """What each rule's state costs, seen from patients that neither the training nor the rule knows."""
    found: dict[str, list[list[float]]] = {}
    for weight in weights:
        for seed in seeds:
            states = work.states(weight, seed)
            states = states[round(SKIPPED * len(states)) :]
            made = [work.embed(samples(load_generator(state), work.training.labels)) for state in states]
            for split in range(work.options.splits):
                for rule, values in regrets(work, made, split).items():
                    found.setdefault(rule, []).append(values)
    lines = [
        "| the state taken | farther than the nearest, % | at worst | per class | at worst |",
        "|---|---:|---:|---:|---:|",
    ]
    for rule, values in found.items():
        (mean, class_mean), (worst, class_worst) = 100 * np.mean(values, 0), 100 * np.max(values, 0)
        lines.append(f"| {rule} | {mean:.1f} | {worst:.0f} | {class_mean:.1f} | {class_worst:.0f} |")
    return "\n".join(lines)


def regrets(work: Work, made: list[Tensor], split: int) -> dict[str, list[float]]:
    """By rule, of one training and one split of the unseen patients: judged by all images, and per class."""
    training, test, labels = work.training, work.test, work.training.labels
    order = torch.randperm(test.num_subjects, generator=seeded_generator(split, "held back"))
    held = torch.isin(test.identities, order[: round(work.options.held_back * training.num_subjects)])

    def measured(real: Tensor, real_labels: Tensor) -> list[np.ndarray]:
        all_of_them = [distance(some, real) for some in made]
        return [np.array(all_of_them), np.array([by_class(some, labels, real, real_labels) for some in made])]

    judges = measured(work.features[1][~held], test.labels[~held])
    trained, unseen = measured(work.features[0], labels), measured(work.features[1][held], test.labels[held])
    rules = {
        "the last": -np.arange(len(made)),
        "nearest to the training images": trained[0],
        "nearest to them, per class": trained[1],
        "nearest to unseen patients": unseen[0],
        "nearest to them, per class of the unseen": unseen[1],
    }
    return {
        rule: [float(judge[int(np.argmin(values))] / judge.min() - 1) for judge in judges]
        for rule, values in rules.items()
    }


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output_dir")
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("--bundle_root", default="bundles/phantom_plan")
    parser.add_argument("--overrides", help="JSON file of ids to set")
    parser.add_argument("--id", default="class_weight", choices=["class_weight", "variety_weight", "aid_weight"])
    parser.add_argument("--weights", nargs="+", type=float, default=[0.0, 0.3])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the trainings")
    parser.add_argument(
        "--classifier_seeds", type=int, default=2, help="classifiers a training; 0: the first table alone"
    )
    parser.add_argument("--classifier_epochs", type=int, default=12)
    parser.add_argument("--held_back", type=float, default=0.15, help="share of the training patients")
    parser.add_argument("--splits", type=int, default=5, help="of the unseen patients")
    parser.add_argument("--lesions", action="store_true", help="count them, in phantoms")
    options = parser.parse_args()
    work = Work(options)
    for weight in options.weights:
        for seed in options.seeds:
            work.states(weight, seed)
    print(choice_table(work, options.weights, options.seeds), flush=True)
    if options.classifier_seeds > 0:
        print(class_table(work, options.weights, options.seeds))


if __name__ == "__main__":
    main()
