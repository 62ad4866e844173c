"""Each option of the walk on its own against the published objective: distance, fidelity, utility, pictures.

    python benchmarks/walk_options.py OUT --work_dir OPTIONS

takes the networks, anchors and data of a finished run,
and makes ``--num_images`` images by each option, without the final check but in its own row. "published" is the
published objective by the run's recipe, "published recipe" by the 500 steps of the paper's code.

Every row is that of the report's table, but for two columns: L_id is that of the walk's own φ_id over its value on the
straight line, and "top identity" is the opinion of a second φ_id of another seed, which no walk has seen: what fools
the first alone is an adversarial example. Everything is kept in ``--work_dir``, which derives from patients as the run
does; started again it goes on where it was. ``ROW.png`` there shows images of each option.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from monai_plan.audit import AuditInputs, ImageSet, evaluate
from monai_plan.bundle.finished_run import FinishedRun
from monai_plan.bundle.stages import WalkStage
from monai_plan.data import contact_sheet
from monai_plan.latent import WalkSettings
from monai_plan.networks import load_classifier
from monai_plan.release import load_paths, select, synthesize_images
from monai_plan.utils import load_artifact, save_artifact, seeded_generator

SHOWN = 8  # images per class on a sheet


def options_of(base: WalkSettings, anchors: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Row → config ids that differ from the run's."""
    latents, labels, points = anchors["latents"], anchors["labels"], base.num_points
    squared = torch.cat([torch.pdist(latents[labels == y].flatten(1)).square() for y in labels.unique()]).mean().item()
    relative = (points - 1) * (points - 2) / squared  # λ of the relative objective that means the same
    unit = (squared / latents[0].numel()) ** 0.5
    return {
        "linear": {"walk_coarse_points": 0, "walk_steps": 0},
        "published": {},
        "published recipe": {
            "walk_coarse_points": 0, "walk_steps": 500, "walk_schedule": "constant", "walk_beta2": 0.999,
        },
        "relative": {
            "walk_normalize": True, "lambda_id": base.lambda_id * relative,
            "lambda_class": base.lambda_class * relative, "walk_lr": base.lr / unit,
        },
        "margin": {"lambda_margin": 10 * base.lambda_id},
        "robust φ_id": {"identity_epsilon": 0.03},
        "check 0.1": {"min_distance_quantile": 0.1},
        "L_id x 4": {"lambda_id": 4 * base.lambda_id},
    }  # fmt: skip


def train_identity(run: FinishedRun, file: Path, **changes: Any) -> Path:
    """Another φ_id, by the stage's own config."""
    if not file.exists():
        own = {"identity_file": str(file), "work_dir": str(file.with_suffix("")), **changes}
        run.config("common", "train_identity", **own).get_parsed_content("stage").run()
    return file


def some_anchors(file: Path, output: Path, most: int) -> Path:
    """A file of some anchors of each class, drawn at random, for k-same gives the outermost first."""
    data = load_artifact(file, kind="anchors")
    order = torch.randperm(len(data["labels"]), generator=seeded_generator(0, "anchors"))
    chosen = torch.cat([order[data["labels"][order] == label][:most] for label in data["labels"].unique()])
    members = [data["members"][index] for index in chosen.tolist()]
    kept = {"latents": data["latents"][chosen], "labels": data["labels"][chosen], "members": members, "k": data["k"]}
    save_artifact(output, kind="anchors", data=kept)
    return output


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output_dir", help="of the finished run")
    parser.add_argument("--work_dir", required=True, type=Path)
    parser.add_argument("--num_images", type=int, default=400)
    parser.add_argument("--anchors", type=int, default=20, help="at most, of each class")
    parser.add_argument("--rows", nargs="+", help="by default all")
    options = parser.parse_args()

    run = FinishedRun.read(options.output_dir)
    base = run.config("common", "walk")
    work: Path = options.work_dir
    training, test, generator, embedding = (
        base.get_parsed_content(name) for name in ("training", "test", "trained_generator", "embedding")
    )
    anchors_file = some_anchors(base.get_parsed_content("anchors_file"), work / "anchors.pt", options.anchors)
    second_file = train_identity(run, work / "second.pt", seed=base["seed"] + 1)
    image_sets, ratios = [], {}
    possible = options_of(base.get_parsed_content("walk_settings"), load_artifact(anchors_file, kind="anchors"))
    unknown = sorted(set(options.rows or ()) - possible.keys())
    if unknown:
        parser.error(f"there is no row {unknown[0]!r}, only {', '.join(possible)}")
    for name, changes in possible.items():
        if options.rows and name not in options.rows:
            continue
        changes = dict(changes)
        if epsilon := changes.pop("identity_epsilon", None):
            file = train_identity(run, work / "robust.pt", identity_epsilon=epsilon)
            changes["identity_file"] = str(file)
        here = run.config("common", "walk", **{"min_distance_quantile": None, **changes})
        folder = work / name.replace(" ", "_")
        WalkStage(
            walk=here.get_parsed_content("walk"), anchors_file=anchors_file, dataset=training, test=test,
            output_file=folder / "paths.pt", parts_dir=folder / "parts", num_images=options.num_images,
            embedding=embedding, min_distance_quantile=here["min_distance_quantile"], seed=here["seed"],
        ).run()  # fmt: skip
        paths = load_paths(folder / "paths.pt")
        points = select(paths, num_images=paths["num_images"])
        images, labels = synthesize_images(generator, points.latents), points.labels
        spread = [
            torch.where(labels == y)[0][torch.linspace(0, int((labels == y).sum()) - 1, SHOWN).long()]
            for y in labels.unique()
        ]
        contact_sheet(images[torch.cat(spread)], columns=SHOWN, path=work / f"{folder.name}.png", zoom=2)
        straight, walked = paths["losses"]["identity"].mean(0)[[0, -1]].tolist()
        image_sets.append(ImageSet(name, images, labels))
        ratios[name] = walked / straight

    last = run.config("common", "evaluate")
    second = load_classifier(
        last.get_parsed_content("identity_network")(), second_file, kind="identity_net"
    ).to(last.get_parsed_content("device"))  # fmt: skip
    inputs = AuditInputs(
        train=training, test=test, embedding=embedding,
        classifier_factory=last.get_parsed_content("class_network"), cache_dir=work / "evaluate", identity_net=second,
        settings=last.get_parsed_content("stage#settings"),
        seeds=last["evaluation_seeds"], seed=last["seed"], augment=last.get_parsed_content("augmentation"),
        device=last.get_parsed_content("device"),
    )  # fmt: skip
    result = evaluate(image_sets, inputs)
    print(f"\n{result.embedding_title}; ± is the standard deviation over {last['evaluation_seeds']} classifiers\n")
    print("| option | accuracy | AUC | Fréchet | mean-min distance | least | L_id ratio | top identity, second φ_id |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for row in result.rows:
        ratio = f"{ratios[row.name]:.2f}" if row.name in ratios else ""
        distance = row.results["distance"]
        print(
            f"| {row.name} | {row.spread('utility', 'accuracy').percent} "
            f"| {100 * row.spread('utility', 'auc').mean:.1f} | {row.results['fidelity']['frechet']:.4g} "
            f"| {distance['mean']:.3f} | {distance['least']:.3f} | {ratio} "
            f"| {100 * row.results['identity']['top']:.1f} |"
        )


if __name__ == "__main__":
    main()
