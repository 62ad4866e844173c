"""What can be made of averages of patients, and what each way gives away: why k-same is no default.

    python benchmarks/averages.py OUT --work_dir AVERAGES

takes the latents of a finished run (up to the stage ``train_class``), and prints for each way of mixing the patients of
a k-same group, as many images as there are real ones (of the average itself one per group):

- **average**: the mean of the group. **stretched**: the same, 1.5 times as far from the mean of the class.
- **random weights**: convex weights, uniform over all that give no patient more than 0.4.
- **overlapping**: the same of k patients drawn among the 2k nearest to one of them, so that groups overlap.

Columns: Fréchet distance, precision and recall against the real training images (the first row is of the real test
images); the share of images that φ_class takes for their class; for phantoms in 2D how many of the images of the last
class show no, one, two or more lesions; "members", the attack of who has G, as in ``anchor_kinds.py``; "last one", how
often somebody who has G and knows all patients of a group but one finds the last one first: among all patients of the
class whom he does not know, the one with whom the released point is best written as a mixture.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import torch
from anchor_kinds import membership, projections
from torch import Tensor

from monai_plan.bundle.finished_run import FinishedRun
from monai_plan.data.lesions import LesionCounter, lesion_shares
from monai_plan.engines import predict_probabilities
from monai_plan.latent import k_same
from monai_plan.metrics import FeatureStatistics, embed, frechet_distance, precision_recall
from monai_plan.release import synthesize_images
from monai_plan.utils import load_artifact, read_json, seeded_generator

MOST_WEIGHT = 0.4
STRETCH = 1.5
TRIALS = 120  # of the attack on the last patient


class Patients:
    """Mean latent and class of every patient of a class, and the k-same groups of them.

    Attributes:
        means: [P, L].
        labels: [P].
        groups: rows of ``means``.
    """

    def __init__(self, latents: Tensor, labels: Tensor, subjects: list[str], k: int, seed: int) -> None:
        rows: dict[tuple[int, str], list[int]] = defaultdict(list)
        for index, key in enumerate(zip(labels.tolist(), subjects, strict=True)):
            rows[key].append(index)
        flat = latents.flatten(1).double()
        self.means = torch.stack([flat[members].mean(0) for members in rows.values()])
        self.labels = torch.tensor([label for label, _ in rows])
        number = {key: n for n, key in enumerate(rows)}
        anchors = k_same(latents, labels, subjects, k, seed=seed)
        self.groups = [
            sorted({number[int(labels[i]), subjects[i]] for i in members}) for members in anchors.members
        ]  # fmt: skip
        self.k = k


def weights(count: int, rng: torch.Generator) -> Tensor:
    """Convex, uniform over all of which none is greater than ``MOST_WEIGHT``."""
    while True:
        drawn = -torch.rand(count, generator=rng, dtype=torch.float64).log()
        drawn = drawn / drawn.sum()
        if drawn.max() <= MOST_WEIGHT:
            return drawn


def mixtures(way: str, people: Patients, wanted: dict[int, int]) -> tuple[Tensor, Tensor, list[list[int]]]:
    """Points [A, L], their classes and who is behind each."""
    rng = seeded_generator(0, "averages", way)
    points, labels, behind = [], [], []
    for label, number in wanted.items():
        groups = [group for group in people.groups if people.labels[group[0]] == label]
        of_class = torch.where(people.labels == label)[0]
        centre = people.means[of_class].mean(0)
        for turn in range(len(groups) if way in ("average", "stretched") else number):
            group = groups[turn % len(groups)]
            if way == "overlapping":
                first = of_class[torch.randint(len(of_class), (1,), generator=rng)]
                near = of_class[torch.cdist(people.means[first], people.means[of_class])[0].argsort()[: 2 * people.k]]
                group = near[torch.randperm(len(near), generator=rng)[: people.k]].tolist()
            equal = torch.full((len(group),), 1 / len(group), dtype=torch.float64)
            share = equal if way in ("average", "stretched") else weights(len(group), rng)
            point = share @ people.means[group]
            points.append(centre + STRETCH * (point - centre) if way == "stretched" else point)
            labels.append(label)
            behind.append(group)
    return torch.stack(points), torch.tensor(labels), behind


def last_one_found(people: Patients, points: Tensor, labels: Tensor, behind: list[list[int]]) -> tuple[int, int, float]:
    """Hits, trials and the chance of a guess."""
    rng = seeded_generator(0, "last one")
    hits, trials, chance = 0, 0, 0.0
    for row in torch.randperm(len(points), generator=rng)[:TRIALS].tolist():
        group = behind[row]
        hidden = group[int(torch.randint(len(group), (1,), generator=rng))]
        known = people.means[[member for member in group if member != hidden]]
        of_class = torch.where(people.labels == labels[row])[0].tolist()
        candidates = [hidden, *(other for other in of_class if other not in group)]
        left = [_left(points[row], torch.cat([known, people.means[[one]]])) for one in candidates]
        hits += all(left[0] < other for other in left[1:])
        trials, chance = trials + 1, chance + 1 / len(candidates)
    return hits, trials, chance / trials


def _left(point: Tensor, members: Tensor) -> float:
    """What of a point no weights of sum 1 explain."""
    origin = members[0]
    return float((point - origin - _project(point - origin, members[1:] - origin)).norm())


def _project(vector: Tensor, span: Tensor) -> Tensor:
    basis = torch.linalg.qr(span.T).Q
    return basis @ (basis.T @ vector)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output_dir", help="of the finished run")
    parser.add_argument("--work_dir", required=True, type=Path)
    options = parser.parse_args()
    run = FinishedRun.read(options.output_dir)
    config = run.config("common", "invert")
    training, test, generator, embedding, class_net = (
        config.get_parsed_content(name) for name in ("training", "test", "trained_generator", "embedding", "class_net")
    )
    data = load_artifact(config.get_parsed_content("latents_file"), kind="latents")
    latents = data["latents"][torch.arange(len(data["best"])), data["best"]]
    people = Patients(latents, data["labels"], data["subjects"], config["k"], config["seed"])
    options.work_dir.mkdir(parents=True, exist_ok=True)
    found = projections(run, options.work_dir)
    phantoms = read_json(config.get_parsed_content("datalist_file")).get("name") == "phantoms"
    counter = LesionCounter(generator.img_size) if phantoms and len(generator.img_size) == 2 else None
    real = embed(embedding, training.images, pooled=True)

    def row(name: str, images: Tensor, labels: Tensor, more: str = " | |") -> None:
        made = embed(embedding, images, pooled=True)
        precision, recall = precision_recall(made, real)
        sure = predict_probabilities(class_net, images, batch_size=64, device="cpu").argmax(1) == labels
        lesions = lesion_shares(counter(images[labels == labels.max()])) if counter else []
        print(
            f"| {name} | {len(images)} | {frechet_distance(FeatureStatistics(made), FeatureStatistics(real)):.4g} "
            f"| {100 * precision:.0f} | {100 * recall:.0f} | {100 * sure.double().mean():.0f} "
            f"| {', '.join(f'{share:.1f}' for share in lesions)} {more}",
            flush=True,
        )

    print("| images | number | Fréchet | precision | recall | φ_class agrees, % | lesions, % | members | last one |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    row("real test images", test.images[:], test.labels)
    row("reconstructions", synthesize_images(generator, latents), data["labels"])
    wanted = {label: int((data["labels"] == label).sum()) for label in data["labels"].unique().tolist()}
    for way in ("average", "stretched", "random weights", "overlapping"):
        points, labels, behind = mixtures(way, people, wanted)
        as_latents = points.float().unflatten(1, latents.shape[1:])
        area = "{:.3f} [{:.2f}, {:.2f}]".format(*membership(points.float(), found))
        hits, trials, chance = last_one_found(people, points, labels, behind)
        attack = f"{100 * hits / trials:.0f} % (guess {100 * chance:.1f})"
        row(way, synthesize_images(generator, as_latents), labels, f"| {area} | {attack} |")


if __name__ == "__main__":
    main()
