"""How varied a selection is, by how it chooses: at random, those that φ_id knows least, or of these the ones far apart.

    python benchmarks/variety.py OUT --work_dir VARIETY --generators OTHER/private/model.pt ...

takes a finished run (up to the stage ``train_class``) and makes as many images as there are real ones by each way, from
its own generator and from others that learnt the same patients, all through the same final check and judged by the
run's own φ. (That no patient may be near in W asks for projections by each generator, so it is left out here.)

- **samples**: what G draws, nothing refused; **random**: of which φ_class is sure, that passed the check;
  **least known**: of those the ones that φ_id knows least; **far apart**: the ones farthest apart in W among the share
  that it knows least.

Fréchet distance over that of unseen patients ("floor"), precision and recall in the run's features, and of
classifiers trained on the images the accuracy on real test images; a mean over the generators, each in brackets. The
figures of every generator are kept in ``--work_dir``, beside a sheet of the images.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monai_plan.bundle.anchor_maker import distance_check
from monai_plan.bundle.finished_run import FinishedRun
from monai_plan.data import contact_sheet
from monai_plan.data.lesions import LesionCounter, lesion_shares
from monai_plan.engines import ClassifierSettings, fit_classifier, new_classifier, predict_probabilities
from monai_plan.latent import PriorAnchors, SelectionSettings
from monai_plan.metrics import FeatureStatistics, frechet_distance, nearest_real_images, precision_recall
from monai_plan.networks import load_generator
from monai_plan.release import synthesize_images
from monai_plan.utils import read_json, write_json

WAYS = ("samples", "random", "least known", "far apart")
SHOWN = 16  # images of a class on a sheet


class Judge:
    """The data and networks of the run."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.run = options, FinishedRun.read(options.output_dir)
        base = self.run.config("common", "evaluate")
        self.training, self.test, self.embedding, self.class_network, self.augment = (
            base.get_parsed_content(id)
            for id in ("training", "test", "embedding", "class_network", "augmentation")
        )  # fmt: skip
        self.phis = [base.get_parsed_content(name).eval() for name in ("identity_net", "class_net")]
        self.sure, self.candidates = base["prior_class_probability"], base["prior_candidates"]
        self.classifiers = ClassifierSettings(
            base["evaluation_epochs"], batch_size=base["evaluation_batch_size"], lr=base["evaluation_lr"]
        )
        self.check = distance_check(
            self.training, self.test, self.embedding, quantile=base["min_distance_quantile"], device="cpu"
        )
        self.own = base.get_parsed_content("generator_file")
        real, unseen = self.embed(self.training.images[:]), self.embed(self.test.images[:])
        self.real, self.floor = real, frechet_distance(FeatureStatistics(unseen), FeatureStatistics(real))
        self.unseen = precision_recall(unseen, real)

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """[N, F]."""
        return torch.cat([self.embedding.pooled(some) for some in images.split(64)])

    def ways(self) -> dict[str, SelectionSettings | None]:
        """How to choose; None: not at all."""
        chosen = {"candidates": self.candidates, "min_class_probability": self.sure}
        ways: dict[str, SelectionSettings | None] = {
            "samples": None,
            "random": SelectionSettings(min_class_probability=self.sure),
            "least known": SelectionSettings(**chosen),
            "far apart": SelectionSettings(**chosen, identity_share=self.options.share),
        }
        return {name: way for name, way in ways.items() if name in self.options.ways}

    def of(self, file: str) -> dict[str, dict[str, Any]]:
        """All figures of a generator, by way."""
        generator, labels = load_generator(file).eval(), self.training.labels
        wanted = {int(label): int((labels == label).sum()) for label in labels.unique()}
        found = {}
        for name, settings in self.ways().items():
            kept = self.options.work_dir / f"{'_'.join(Path(file).parts[-4:])}.{name.replace(' ', '_')}.json"
            if kept.exists():
                found[name] = read_json(kept)
                continue
            make = PriorAnchors(generator, *self.phis, settings=settings)
            far = self.check if settings else None
            anchors = make(wanted, patients=torch.full((1, generator.w_dim), 1e6), far=far)
            images = synthesize_images(generator, anchors.latents)
            found[name] = self.figures(images, anchors.labels)
            shown = [torch.where(anchors.labels == label)[0][:SHOWN] for label in wanted]
            contact_sheet(images[torch.cat(shown)], columns=SHOWN, path=kept.with_suffix(".png"))
            write_json(kept, found[name])
        return found

    def figures(self, images: Tensor, labels: Tensor) -> dict[str, Any]:
        """Of one set of images."""
        features = self.embed(images)
        distances = nearest_real_images(images, self.training.images, self.embedding).distances
        precision, recall = precision_recall(features, self.real)
        accuracies = [self.accuracy(images, labels, seed) for seed in range(self.options.classifiers)]
        found = {
            "accuracy": 100 * np.mean(accuracies) if accuracies else float("nan"),
            "frechet": frechet_distance(FeatureStatistics(features), FeatureStatistics(self.real)) / self.floor,
            "precision": 100 * precision,
            "recall": 100 * recall,
            "mean-min": distances.mean().item(),
            "least": distances.min().item(),
            "identity": 100 * predict_probabilities(self.phis[0], images).amax(1).mean().item(),
        }
        if self.options.lesions:
            counter = LesionCounter(tuple(images.shape[2:]))
            found["lesions"] = lesion_shares(counter(images[labels == labels.max()]))
        return found

    def accuracy(self, images: Tensor, labels: Tensor, seed: int) -> float:
        """Of a classifier that learnt from these images, on the real test images."""
        network = fit_classifier(
            new_classifier(self.class_network, seed=seed), images, labels,
            settings=self.classifiers, augment=self.augment, seed=seed,
        )  # fmt: skip
        hits = predict_probabilities(network, self.test.images).argmax(1) == self.test.labels
        return hits.double().mean().item()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output_dir", help="of the finished run")
    parser.add_argument("--work_dir", required=True, type=Path)
    parser.add_argument("--generators", nargs="*", default=[], help="files of further generators, of the same patients")
    parser.add_argument("--share", type=float, default=0.5, help="prior_identity_share")
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument("--classifiers", type=int, default=3, help="per generator and way; 0: none")
    parser.add_argument("--lesions", action="store_true", help="count them, in phantoms")
    options = parser.parse_args()
    options.work_dir.mkdir(parents=True, exist_ok=True)
    judge = Judge(options)
    found = [judge.of(file) for file in [judge.own, *options.generators]]
    unseen = ", ".join(f"{100 * share:.0f}" for share in judge.unseen)
    print(f"\n{len(found)} generators; unseen patients: precision, recall {unseen}\n")
    heads = [name for name in found[0][options.ways[0]] if name != "lesions"]
    print("| way | " + " | ".join([*heads, "lesions, %"]) + " |\n|---|" + "---:|" * (len(heads) + 1))
    for way in options.ways:
        cells = []
        for name in heads:
            values, form = [each[way][name] for each in found], ".3f" if name in ("mean-min", "least") else ".1f"
            form = ".2f" if name == "frechet" else form
            each = ", ".join(format(value, form) for value in values) if name in ("accuracy", "frechet") else ""
            cells.append(format(np.mean(values), form) + (f" ({each})" if each else ""))
        shares = [each[way]["lesions"] for each in found] if options.lesions else []
        cells.append(", ".join(f"{share:.1f}" for share in np.mean(shares, 0)) if shares else "")
        print(f"| {way} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
