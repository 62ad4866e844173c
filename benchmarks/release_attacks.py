"""What a release gives away to those who attack it with what they know: order, ends of paths, the final check, figures.

    python benchmarks/release_attacks.py OUTPUT_DIR

plays four attacks on any finished run, with its private files for the truth, and prints a table:

- **order**: walks are numbered as ``choose_pairs`` chose them, and the files of a walk run from anchor to anchor. The
  first and last images of the walks that so belong to an anchor are averaged; is the average nearest to its anchor?
- **k-th member**: who has G, and knows all patients behind an anchor but one, finds the last among all of the class
  from one released image, whose latent w he has exactly: the candidate nearest to k · w less the known ones. Of each
  image and its nearer end; and from all images of a walk, on a line through them that he follows outwards.
- **final check**: the shares of patients' images that lie nearer to the release than a bound does, by section.
- **figures**: released distances that are those of a pair of a test and a training image, to six digits.

The first two ask for the patients behind an anchor: of points of G's own distribution there are none, and no such row.
``benchmarks/anchor_kinds.py`` has the attack of who has G, on any kind of points.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monai_plan.bundle.finished_run import FinishedRun
from monai_plan.data import HeldImages
from monai_plan.latent import choose_pairs
from monai_plan.metrics import embed, nearest_other_images
from monai_plan.release import read_release, synthesize_images
from monai_plan.utils import load_artifact

BOUNDS = (0.0, 1 / 6, 1 / 3, 0.375, 0.501)  # shares of the path's length between which images are told apart
QUANTILE = 0.1  # of the check, as far as an attacker knows
FACTORS = (2, 2.5, 3, 3.5, 4)  # how far the ends of a path may lie, in halves of what is seen of it


class Run:
    """A finished run: its release and the truth behind it."""

    def __init__(self, options: argparse.Namespace) -> None:
        config = FinishedRun.read(options.output_dir).config("common", "walk")
        private = Path(options.output_dir) / "private"
        self.training, self.test, self.generator, self.embedding = (
            config.get_parsed_content(name) for name in ("training", "test", "trained_generator", "embedding")
        )
        self.anchors = load_artifact(private / "anchors.pt", kind="anchors")
        self.paths = load_artifact(private / "paths.pt", kind="paths")
        latents = load_artifact(private / "latents.pt", kind="latents")
        found = latents["latents"][torch.arange(len(latents["best"])), latents["best"]]
        of_subject: dict[tuple[int, str], list[Tensor]] = defaultdict(list)
        for label, subject, w in zip(latents["labels"].tolist(), latents["subjects"], found, strict=True):
            of_subject[label, subject].append(w)
        self.means = {key: torch.stack(ws).mean(0).flatten() for key, ws in of_subject.items()}
        self.members = [sorted({latents["subjects"][index] for index in group}) for group in self.anchors["members"]]
        self.release = read_release(Path(options.output_dir) / "release")
        self.figures = json.loads((Path(options.output_dir) / "release" / "evaluation.json").read_text())
        self.places = self._places()

    def _places(self) -> Tensor:
        """Path and point of every released image, [N, 2]."""
        paths = self.paths["paths"]
        drawn = synthesize_images(self.generator, paths.flatten(0, 1)).flatten(1)
        nearest = torch.cdist(self.release.images.flatten(1), drawn).argmin(1)
        return torch.stack([nearest // paths.shape[1], nearest % paths.shape[1]], dim=1)


def order(run: Run, seed: int) -> tuple[int, float, int]:
    """Anchors found, how many chance finds in the mean, and how many it finds at most in 95 % of cases."""
    images, labels = run.release.images.flatten(1), run.anchors["labels"]
    walks: dict[str, list[int]] = defaultdict(list)
    for index, group in enumerate(run.release.groups):
        walks[group].append(index)
    in_order = [walks[group] for group in sorted(walks)]
    of_class = {y: [w for w in in_order if run.release.labels[w[0]] == y] for y in sorted(set(labels.tolist()))}
    pairs = choose_pairs(labels, num_pairs={y: len(found) for y, found in of_class.items()}, seed=seed).tolist()
    ends = [(walk[0], walk[-1]) for found in of_class.values() for walk in found]
    drawn = synthesize_images(run.generator, run.anchors["latents"]).flatten(1)

    def found(ends: list[tuple[int, int]]) -> int:
        of_anchor: dict[int, list[int]] = defaultdict(list)
        for pair, images_of in zip(pairs, ends, strict=False):
            for anchor, image in zip(pair, images_of, strict=True):
                of_anchor[anchor].append(image)
        hits = 0
        for anchor, members in of_anchor.items():
            same = torch.where(labels == labels[anchor])[0]
            nearest = (drawn[same] - images[members].mean(0)).square().sum(1).argmin()
            hits += int(same[nearest] == anchor)
        return hits

    by_chance = []
    for number in range(200):
        generator = torch.Generator().manual_seed(number)
        shuffled = []
        for y in of_class:
            indices = [index for index, label in enumerate(run.release.labels) if label == y]
            drawn_ends = torch.randint(len(indices), (len(of_class[y]), 2), generator=generator).tolist()
            shuffled += [(indices[a], indices[b]) for a, b in drawn_ends]
        by_chance.append(found(shuffled))
    return found(ends), sum(by_chance) / len(by_chance), sorted(by_chance)[int(0.95 * len(by_chance))]


def hidden_members(run: Run, anchor: int) -> Iterator[tuple[Tensor, Tensor, int]]:
    """For every member of an anchor, hidden: the sum of the others, all candidates [C, w], and which one it is."""
    label, members = int(run.anchors["labels"][anchor]), run.members[anchor]
    for hidden in members:
        known = torch.stack([run.means[label, subject] for subject in members if subject != hidden]).sum(0)
        names = [s for y, s in run.means if y == label and (s == hidden or s not in members)]
        yield known, torch.stack([run.means[label, subject] for subject in names]), names.index(hidden)


def nearest_end(run: Run) -> list[tuple[float, float, float]]:
    """Of every released image and each end: its share of the path's length from there, the rate of rank 1, chance."""
    paths = run.paths["paths"].flatten(2)
    steps = paths.diff(dim=1).norm(dim=2)
    share = torch.cat([steps.new_zeros(len(steps), 1), steps.cumsum(1)], dim=1) / steps.sum(1, keepdim=True)
    found = []
    for path, point in run.places.tolist():
        for side, anchor in enumerate(run.paths["pairs"][path].tolist()):
            k, far = len(run.members[anchor]), float(share[path, point])
            far = far if side == 0 else 1 - far
            if far <= 0.5:
                tries = [
                    (int((c - (k * paths[path, point] - known)).norm(dim=1).argmin()) == right, 1 / len(c))
                    for known, c, right in hidden_members(run, anchor)
                ]
                found.append((far, sum(hit for hit, _ in tries) / k, tries[0][1]))
    return found


def whole_walk(run: Run) -> tuple[float, float]:
    """The rate of rank 1 from all images of a walk, and chance."""
    hits, chances = [], []
    paths = run.paths["paths"].flatten(2)
    for path in run.places[:, 0].unique().tolist():
        points = paths[path, run.places[run.places[:, 0] == path, 1].sort().values]
        if len(points) < 2:
            continue
        centre = points.mean(0)
        direction = torch.linalg.svd(points - centre, full_matrices=False).Vh[0]
        along = (points - centre) @ direction
        half = (along.max() - along.min()) / 2
        ends = torch.stack([centre + sign * factor * half * direction for sign in (1, -1) for factor in FACTORS])
        for anchor in run.paths["pairs"][path].tolist():
            for known, candidates, right in hidden_members(run, anchor):
                distances = torch.cdist(len(run.members[anchor]) * ends - known, candidates)
                hits.append(int(distances.amin(0).argmin()) == right)
                chances.append(1 / len(candidates))
    return sum(hits) / len(hits), sum(chances) / len(chances)


def distances_between(run: Run, images: Tensor, others: Tensor) -> Tensor:
    """The perceptual distance of every pair, [N, M]."""
    first, second = (embed(run.embedding, x).double() for x in (images, others))
    return torch.cdist(first, second).square()


def final_check(run: Run) -> list[tuple[str, float]]:
    """How the nearness of a patient's image to the release tells the sections apart, in percent."""
    sections = [run.training, run.test]
    trained, unseen = (distances_between(run, data.images, run.release.images).amin(1) for data in sections)
    images = HeldImages.joined(*(data.images for data in sections))
    identities = torch.cat([run.training.identities, run.test.identities + run.training.num_subjects])
    bound = nearest_other_images(images, identities, run.embedding).quantile(QUANTILE)

    def share(found: Tensor) -> float:
        return 100 * float(found.double().mean())

    return [
        ("training images nearer than the check's bound", share(trained < bound)),
        ("held-out images nearer than the check's bound", share(unseen < bound)),
        ("training images nearer than any held-out one", share(trained < unseen.min())),
        ("held-out images nearer than any training image", share(unseen < trained.min())),
    ]


def exact_matches(run: Run) -> int:
    """Released figures of distances that are that of one pair of a test and a training image, to six digits."""
    pairs = distances_between(run, run.test.images, run.training.images)
    figures = torch.tensor([value for key, value in _figures(run.figures) if "distance" in key], dtype=torch.float64)
    return int(((pairs.flatten() / figures[:, None] - 1).abs() < 2e-6).any(1).sum())


def _figures(value: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """All numbers of a JSON file with a decimal point, each with the names that lead to it."""
    if isinstance(value, float):
        yield key, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _figures(item, f"{key} {name}")
    elif isinstance(value, list):
        for item in value:
            yield from _figures(item, key)


def rows(run: Run, seed: int) -> list[tuple[str, Any, Any]]:
    """The table: attack, found, chance."""
    table = [] if run.anchors["k"] is None else of_averages(run, seed)
    table += [(name, f"{share:.1f} %", "") for name, share in final_check(run)]
    table.append(("exact matches of released figures", exact_matches(run), 0))
    return table


def of_averages(run: Run, seed: int) -> list[tuple[str, Any, Any]]:
    """The rows that ask for the patients behind an anchor."""
    found, mean, most = order(run, seed)
    table = [("anchors found by the order", f"{found} of {len(run.members)}", f"{mean:.1f}, at most {most}")]
    ends = nearest_end(run)
    chance = sum(c for *_, c in ends) / len(ends)
    for low, high in pairwise(BOUNDS):
        rates = [rate for far, rate, _ in ends if low <= far < high]
        if rates:
            name = f"k-th member from an image {low:.3g} to {min(high, 0.5):.3g} from the end ({len(rates)} images)"
            table.append((name, f"{100 * sum(rates) / len(rates):.1f} %", f"{100 * chance:.1f} %"))
    table.append(
        ("k-th member, all images", f"{100 * sum(r for _, r, _ in ends) / len(ends):.1f} %", f"{100 * chance:.1f} %")
    )
    rate, chance = whole_walk(run)
    table.append(("k-th member from all images of a walk", f"{100 * rate:.1f} %", f"{100 * chance:.1f} %"))
    return table


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("output_dir", help="of the finished run")
    parser.add_argument("--seed", type=int, default=0, help="that the attacker takes for the run's")
    options = parser.parse_args()
    print("| attack | found | chance |\n|---|---:|---:|")
    for row in rows(Run(options), options.seed):
        print("| " + " | ".join(map(str, row)) + " |")


if __name__ == "__main__":
    main()
