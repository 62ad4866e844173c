"""How many steps the walk needs for the objective that the published recipe reaches.

    python benchmarks/walk_steps.py quickstart --overrides bundles/chest_xray_plan/configs/quickstart.json

takes the trained networks and the anchors of a finished run, walks the same random pairs by the published recipe (Adam
at a constant rate, 500 steps, T = 50, reference scale) and by others, and prints the objective that each reaches.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from finished_run import add_arguments, parse, settings_of

from monai_plan.latent import LatentWalk, choose_pairs
from monai_plan.utils import load_artifact

SMOOTHED = {"smoothing": 10.0, "schedule": "decay"}
RECIPES = {
    "published: Adam, constant rate, 500 steps": {"steps": 500},
    "smoothing 10, constant rate, 50 steps": {"steps": 50, "smoothing": 10.0},
    "smoothing 10, decaying rate, 50 steps": {"steps": 50, **SMOOTHED},
    "smoothing 10, decaying rate, 100 steps": {"steps": 100, **SMOOTHED},
    "80 steps of 13 points, 10 of 50": {"coarse_points": 13, "coarse_steps": 80, "steps": 10, **SMOOTHED},
    "60 steps of 13 points, 20 of 50": {"coarse_points": 13, "coarse_steps": 60, "steps": 20, **SMOOTHED},
    "100 steps of 13 points, 30 of 50": {"coarse_points": 13, "coarse_steps": 100, "steps": 30, **SMOOTHED},
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    trained: LatentWalk = parse(settings_of(options), "train", "walk").get_parsed_content("walk")
    anchors = load_artifact(Path(options.output_dir) / "private" / "anchors.pt", kind="anchors")
    labels = sorted(set(anchors["labels"].tolist()))
    wanted = {label: -(-options.pairs // len(labels)) for label in labels}
    pairs = choose_pairs(anchors["labels"], num_pairs=wanted, seed=options.seed)[: options.pairs]
    ends, classes = anchors["latents"][pairs].unbind(1), anchors["labels"][pairs[:, 0]].tolist()

    print(f"\nL of the straight line and in the end, mean over {len(pairs)} pairs; the time is that of the processor\n")
    print("| recipe | images a point | s a path | straight | L | no higher than published |")
    print("|---|---:|---:|---:|---:|---:|")
    reference = None
    for name, recipe in RECIPES.items():
        walk = LatentWalk(trained.generator, trained.identity_net, trained.class_net, device=trained.device, **recipe)
        began = time.process_time()
        total = torch.stack([result.total for result in walk.walk_pairs(*ends, classes)])
        passed = (time.process_time() - began) / len(pairs)
        reference = total[:, -1] if reference is None else reference
        coarse = recipe.get("coarse_steps", 0) * (recipe.get("coarse_points", 0) - 2) / (walk.num_points - 2)
        print(
            f"| {name} | {recipe['steps'] + coarse:.0f} | {passed:.1f} | {total[:, 0].mean():.3f} "
            f"| {total[:, -1].mean():.3f} | {int((total[:, -1] <= reference).sum())} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
