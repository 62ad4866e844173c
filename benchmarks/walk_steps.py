"""How many steps the walk needs for the objective that the published recipe reaches.

    python benchmarks/walk_steps.py quickstart --overrides bundles/chest_xray_plan/configs/quickstart.json

takes the trained networks and the anchors of a finished run, walks the same random pairs by the published recipe (Adam
at a constant rate, 500 steps, T = 50, reference scale) and with others, and prints the objective after some steps.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from monai.bundle import ConfigParser

from monai_plan.latent import LatentWalk, choose_pairs
from monai_plan.utils import load_artifact

RECIPES = {
    "published": {"steps": 500},
    "smoothed": {"steps": 150, "smoothing": 10.0},
    "smoothed, decaying": {"steps": 100, "smoothing": 10.0, "schedule": "decay"},
}
STEPS = (0, 25, 50, 100, 150, 500)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output_dir")
    parser.add_argument("--bundle_root", default="bundles/chest_xray_plan")
    parser.add_argument("--overrides", help="JSON file of the ids that the run overrode")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    config = ConfigParser()
    config.read_config([str(Path(options.bundle_root) / "configs" / name) for name in ("train.json", "walk.json")])
    config.update(json.loads(Path(options.overrides).read_text()) if options.overrides else {})
    config["bundle_root"], config["output_dir"] = options.bundle_root, options.output_dir
    trained: LatentWalk = config.get_parsed_content("walk")
    anchors = load_artifact(Path(options.output_dir) / "private" / "anchors.pt", kind="anchors")
    labels = sorted(set(anchors["labels"].tolist()))
    wanted = {label: -(-options.pairs // len(labels)) for label in labels}
    pairs = choose_pairs(anchors["labels"], num_pairs=wanted, seed=options.seed)[: options.pairs]
    ends, classes = anchors["latents"][pairs].unbind(1), anchors["labels"][pairs[:, 0]].tolist()

    print(f"L, mean over {len(pairs)} pairs, after so many steps, and the pairs that end no higher than published")
    print("| recipe | " + " | ".join(map(str, STEPS)) + " | pairs |\n|---|" + "---:|" * (len(STEPS) + 1))
    reference = None
    for name, recipe in RECIPES.items():
        walk = LatentWalk(trained.generator, trained.identity_net, trained.class_net, **recipe)
        total = torch.stack([result.total for result in walk.walk_pairs(*ends, classes)])
        reference = total[:, -1] if reference is None else reference
        means = [f"{total[:, step].mean():.3f}" if step < total.shape[1] else "" for step in STEPS]
        print(f"| {name} | {' | '.join(means)} | {int((total[:, -1] <= reference).sum())} |", flush=True)


if __name__ == "__main__":
    main()
