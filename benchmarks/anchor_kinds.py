"""What should leave: averages of patients or points of G's own, walked or straight, chosen or not. One table decides.

    python benchmarks/anchor_kinds.py OUT --work_dir KINDS

takes the networks, latents and data of a finished run (up to the stage ``train_class``), and makes as many images as
there are real ones by each way, all through the same final check, each by the run's own stages:

- **random**: points of G's own distribution; **least known**: those of which φ_class is sure and which φ_id knows
  least; **selected**: those far apart among the half that it knows less; **average**: k-same; each as it is, on
  straight lines ("linear"), and on walks ("PLAN").
- "PLAN 20" walks for 20 steps instead of the run's.

Columns: those of the report, the Fréchet distance also over that of unseen patients ("floor"). "top identity" is the
opinion of a second φ_id of another seed, which has chosen nothing and which no walk has seen. "members" is the attack
of who has G: patients of both sections projected alike, distance to the nearest released latent, area under the curve
by patient with a 95 % interval of 2,000 bootstrap draws of patients; 0.5 is a guess.

With ``--lesions``, for phantoms, the shares of the images of the last class that show no, one, two or more lesions.

Everything is kept in ``--work_dir``, which derives from patients as the run does; started again it goes on where it
was. ``ROW.png`` there shows images of each way.
"""

from __future__ import annotations

import argparse
import logging
import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t
from sklearn.metrics import roc_auc_score
from torch import Tensor
from walk_options import SHOWN, train_identity

from monai_plan.audit import AuditInputs, ImageSet, evaluate
from monai_plan.bundle.finished_run import FinishedRun
from monai_plan.data import contact_sheet
from monai_plan.data.lesions import LesionCounter, lesion_shares
from monai_plan.networks import load_classifier
from monai_plan.release import ReleasePoints, load_paths, select, synthesize_images
from monai_plan.utils import load_artifact, save_artifact

RANDOM = {
    "anchor_kind": "prior", "prior_candidates": 1, "prior_class_probability": 0.0, "prior_latent_share": 0.0,
    "prior_identity_share": 0.0,
}  # fmt: skip
SELECTED = {"anchor_kind": "prior"}
AVERAGE = {"anchor_kind": "k_same"}
ALONE, PLAN = {"walk_kind": "none"}, {"walk_kind": "plan"}
LINEAR, PLAN_20 = {**PLAN, "walk_steps": 0, "walk_coarse_points": 0}, {**PLAN, "walk_steps": 20}
WAYS: dict[str, dict[str, Any]] = {
    "random": {**RANDOM, **ALONE},
    "sure": {**RANDOM, **ALONE, "prior_class_probability": 0.9},
    "least known": {**SELECTED, **ALONE, "prior_identity_share": 0.0},
    "selected": {**SELECTED, **ALONE},
    "linear, random": {**RANDOM, **LINEAR},
    "PLAN, random": {**RANDOM, **PLAN},
    "linear, selected": {**SELECTED, **LINEAR},
    "PLAN 20, selected": {**SELECTED, **PLAN_20},
    "PLAN, selected": {**SELECTED, **PLAN},
    "linear, average": {**AVERAGE, **LINEAR},
    "PLAN, average": {**AVERAGE, **PLAN},
}
DRAWS = 2000


def points_of(run: FinishedRun, folder: Path, ways: Mapping[str, Any]) -> ReleasePoints:
    """What the run would release, if it were made this way."""
    own = {"anchors_file": str(folder / "anchors.pt"), "paths_file": str(folder / "paths.pt")}
    if not Path(own["paths_file"]).exists():
        for stage in ("anchors", "walk"):
            config = run.config("common", stage, **ways, **own)
            if stage == "walk":
                config["stage"]["parts_dir"] = str(folder / "parts")
            config.get_parsed_content("stage").run()
    paths = load_paths(own["paths_file"])
    return select(paths, num_images=paths["num_images"])


def projections(run: FinishedRun, work: Path) -> tuple[Tensor, list[str], int]:
    """Latents of the patients of both sections, found alike, whose they are, and how many are of the training one."""
    config = run.config("common", "invert")
    file = work / "test_latents.pt"
    if not file.exists():
        inverter, test = config.get_parsed_content("inverter"), config.get_parsed_content("test")
        result = inverter(test.images[:], test.labels, test.keys)
        save_artifact(file, kind="latents", data={"latents": result.best_latents, "subjects": test.subjects})
    training, test = (
        load_artifact(config.get_parsed_content("latents_file"), kind="latents"),
        load_artifact(file, kind="latents"),
    )
    best = training["latents"][torch.arange(len(training["best"])), training["best"]]
    subjects = [f"training {subject}" for subject in training["subjects"]]
    subjects += [f"test {subject}" for subject in test["subjects"]]
    return torch.cat([best.flatten(1), test["latents"].flatten(1)]), subjects, len(best)


def membership(released: Tensor, found: tuple[Tensor, list[str], int]) -> tuple[float, float, float]:
    """Area under the curve of who has G, by patient, and its 95 % interval."""
    latents, subjects, num_training = found
    distances = torch.cdist(latents, released.flatten(1).float()).amin(1)
    of_patient: dict[tuple[bool, str], list[float]] = defaultdict(list)
    for index, (subject, distance) in enumerate(zip(subjects, distances.tolist(), strict=True)):
        of_patient[index < num_training, subject].append(distance)
    member = np.array([key[0] for key in of_patient])
    score = np.array([-min(values) for values in of_patient.values()])
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(DRAWS):
        rows = np.concatenate([rng.choice(np.flatnonzero(member == side), (member == side).sum()) for side in (0, 1)])
        drawn.append(roc_auc_score(member[rows], score[rows]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(roc_auc_score(member, score)), float(low), float(high)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output_dir", help="of the finished run")
    parser.add_argument("--work_dir", required=True, type=Path)
    parser.add_argument("--seeds", type=int, default=5, help="classifiers per row")
    parser.add_argument("--rows", nargs="+", help="by default all")
    parser.add_argument("--lesions", action="store_true", help="count the lesions, of phantoms in 2D")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)

    unknown = sorted(set(options.rows or ()) - WAYS.keys())
    if unknown:
        parser.error(f"there is no row {unknown[0]!r}, only {', '.join(WAYS)}")
    run, work = FinishedRun.read(options.output_dir), options.work_dir
    base = run.config("common", "evaluate")
    training, test, generator, embedding = (
        base.get_parsed_content(name) for name in ("training", "test", "trained_generator", "embedding")
    )
    second_file = train_identity(run, work / "second.pt", seed=base["seed"] + 1)
    found = projections(run, work)
    counter = LesionCounter(generator.img_size) if options.lesions else None
    image_sets, areas, lesions = [], {}, {}
    for name, ways in WAYS.items():
        if options.rows and name not in options.rows:
            continue
        folder = work / name.replace(",", "").replace(" ", "_")
        points = points_of(run, folder, ways)
        images, labels = synthesize_images(generator, points.latents), points.labels
        shown = [torch.where(labels == y)[0][:SHOWN] for y in labels.unique()]
        contact_sheet(images[torch.cat(shown)], columns=SHOWN, path=work / f"{folder.name}.png", zoom=2)
        image_sets.append(ImageSet(name, images, labels))
        areas[name] = membership(points.latents, found)
        if counter:
            lesions[name] = " {:.1f}, {:.1f}, {:.1f} |".format(*lesion_shares(counter(images[labels == labels.max()])))

    second = load_classifier(
        base.get_parsed_content("identity_network")(), second_file, kind="identity_net"
    ).to(base.get_parsed_content("device"))  # fmt: skip
    inputs = AuditInputs(
        train=training, test=test, embedding=embedding,
        classifier_factory=base.get_parsed_content("class_network"), cache_dir=work / "evaluate", identity_net=second,
        settings=base.get_parsed_content("stage#settings"), seeds=options.seeds, seed=base["seed"],
        augment=base.get_parsed_content("augmentation"), device=base.get_parsed_content("device"),
    )  # fmt: skip
    result = evaluate(image_sets, inputs)
    floor = result.row("real").results["fidelity"]["frechet"]
    print(f"\n{result.embedding_title}; ± is the 95 % interval of the mean over {options.seeds} classifiers\n")
    heads = ["images", "accuracy", "AUC", "Fréchet", "/ floor", "precision", "recall", "mean-min", "least"]
    heads += ["top identity, second φ_id", "members", *(["lesions, %"] if counter else [])]
    print("| " + " | ".join(heads) + " |\n|---|" + "---:|" * (len(heads) - 1))
    for row in result.rows:
        accuracy, distance = row.spread("utility", "accuracy"), row.results["distance"]
        half = (
            100
            * (accuracy.sd if accuracy.sd is not None else math.nan)
            * t.ppf(0.975, options.seeds - 1)
            / math.sqrt(options.seeds)
        )
        fidelity = row.results["fidelity"]
        frechet, shares = fidelity["frechet"], [100 * fidelity[name] for name in ("precision", "recall")]
        area = "{:.3f} [{:.2f}, {:.2f}]".format(*areas[row.name]) if row.name in areas else ""
        print(
            f"| {row.name} | {100 * accuracy.mean:.1f} ± {half:.1f} | {100 * row.spread('utility', 'auc').mean:.1f} "
            f"| {frechet:.4g} | {frechet / floor:.2f} | {shares[0]:.0f} | {shares[1]:.0f} "
            f"| {distance['mean']:.3f} | {distance['least']:.3f} "
            f"| {100 * row.results['identity']['top']:.1f} | {area} |{lesions.get(row.name, '')}"
        )


if __name__ == "__main__":
    main()
