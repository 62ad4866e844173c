"""How soon the walk reaches the objective that the published recipe reaches.

    python benchmarks/walk_steps.py quickstart

takes the trained networks and the anchors of a finished run, walks the same random pairs by the published recipe (Adam
at a constant rate, 500 steps, T = 50, reference scale) and by others, the bundle's default first, and prints the
objective that each reaches and how long it takes. The time of the published form (see ``walk.py``) is 500 times that of
one of its steps on the first pair.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch
from gan_training import plain
from walk import published_loss

from monai_plan.bundle.finished_run import FinishedRun
from monai_plan.latent import LatentWalk, WalkSettings, choose_pairs, linear_path
from monai_plan.utils import load_artifact

FAST = WalkSettings.fast()
RECIPES = {
    "published: Adam, constant rate, 500 steps": WalkSettings.published(),
    "default: 200 steps of 25 points, 30 of 50": FAST,
    "the same, β2 0.999 instead of 0.95": replace(FAST, beta2=0.999),
    "250 steps of 18 points, 30 of 50": replace(FAST, coarse_points=18, coarse_steps=250),
    "100 steps of 13 points, 30 of 50": replace(FAST, coarse_points=13, coarse_steps=100),
    "all 50 points, 126 steps": replace(FAST, coarse_points=0, steps=126),
}


def clock(device: torch.device) -> float:
    """Seconds: of the processor, or on a GPU those that have passed when it has done all."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def published_seconds(walk: LatentWalk, w_a: torch.Tensor, w_b: torch.Tensor, label: int, repeats: int = 3) -> float:
    """Seconds of one step of the published form, after one to warm up."""
    networks = (plain(walk.generator), walk.identity_net, walk.class_net)
    for network in networks:
        network.requires_grad_(True)  # as published, where nothing is frozen
    path = linear_path(w_a, w_b, walk.settings.num_points).to(walk.device).requires_grad_()
    published_loss(networks, path, label).backward()
    began = clock(walk.device)
    for _ in range(repeats):
        published_loss(networks, path, label).backward()
    return (clock(walk.device) - began) / repeats


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output_dir", help="of the finished run")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recipes", type=int, nargs="+", help="their numbers, 0 the published one; by default all")
    options = parser.parse_args()

    trained: LatentWalk = FinishedRun.read(options.output_dir).config("common", "walk").get_parsed_content("walk")
    anchors = load_artifact(Path(options.output_dir) / "private" / "anchors.pt", kind="anchors")
    labels = sorted(set(anchors["labels"].tolist()))
    wanted = {label: -(-options.pairs // len(labels)) for label in labels}
    pairs = choose_pairs(anchors["labels"], num_pairs=wanted, seed=options.seed)[: options.pairs]
    ends, classes = anchors["latents"][pairs].unbind(1), anchors["labels"][pairs[:, 0]].tolist()
    networks = (trained.generator, trained.identity_net, trained.class_net)

    published = LatentWalk(*networks, settings=WalkSettings.published(), device=trained.device)
    form = published.settings.steps * published_seconds(published, ends[0][0], ends[1][0], classes[0])
    print(f"\nThe published form takes {form:.0f} s per path. L is the mean over {len(pairs)} pairs.\n")
    print("| recipe | images per point | s per path | ratio to the published form | straight | L | no higher |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    reference = None
    for number, (name, settings) in enumerate(RECIPES.items()):
        if number and options.recipes and number not in options.recipes:
            continue
        walk = LatentWalk(*networks, settings=settings, device=trained.device)
        began = clock(walk.device)
        total = torch.stack([result.total for result in walk.walk_pairs(*ends, classes)])
        passed = (clock(walk.device) - began) / len(pairs)
        reference = total[:, -1] if reference is None else reference
        coarse = settings.coarse_steps * (settings.coarse_points - 2) if settings.coarse_points else 0
        images = settings.steps + coarse / (settings.num_points - 2)
        print(
            f"| {name} | {images:.0f} | {passed:.1f} | {form / passed:.1f} "
            f"| {total[:, 0].mean():.3f} | {total[:, -1].mean():.3f} | {int((total[:, -1] <= reference).sum())} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
