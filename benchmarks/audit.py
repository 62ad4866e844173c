"""What the audit's attack on copies finds, and how often it alarms for nothing: many splits by patient of one data set.

    python benchmarks/audit.py --real DATALIST --img_size 64
    python benchmarks/audit.py --phantoms 1200 --img_size 64
    python benchmarks/audit.py --real DATALIST --img_size 32 --patients 120 --copies 16
    python benchmarks/audit.py --finished QUICKSTART

Patients are split at random into members, held-out ones and others, whose real images play the release: all that is
found in it is a false alarm. Into each release copies of five members are planted under each disguise. A table says how
many of them are found one by one, in how many splits one or more alarm, and how often the clean release does.

Every image is laid over all others once, and a split looks at its members among them. So the shortlist is longer than
the audit's and then cut to members; all else is the audit's own code.

Of a finished run it says what the attacks make of its release, of G's reconstructions of its members in the place of
the release, and of its held-out patients with noise that nobody else has; and, where its points are averages, what is
found by who knows all patients of one but the last, from the points that leave and from all points between the ends.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from monai_plan.audit.attacks import Embedder, People, RegisteredCopies, Scores, SoftReconstructions
from monai_plan.audit.attacks.copies import NOTHING, STATISTICS, statistics
from monai_plan.audit.attacks.maps import blurred, stretched
from monai_plan.audit.attacks.reconstructions import leads
from monai_plan.audit.controls import DISGUISES, disguise
from monai_plan.audit.exclusion import exclusion_row, of_nearness
from monai_plan.audit.findings import ALARM, CopyFindings, find_copies, judge
from monai_plan.audit.privacy import shortlist_embedding
from monai_plan.audit.reading import read_real, read_released
from monai_plan.audit.reidentification import halves
from monai_plan.audit.rows import copy_row
from monai_plan.audit.statistics import Share, wilson_interval
from monai_plan.bundle.stages.audit import differencing
from monai_plan.data import phantom_image
from monai_plan.metrics import RandomFeatureEmbedding
from monai_plan.networks import load_generator
from monai_plan.release import points_to_leave, synthesize_images
from monai_plan.utils import finished_part, load_artifact, seeded_generator

BLOCK = 128
SHARES = (0.5, 0.2)  # of the patients: members, held out; the rest plays the release
MORE = 3  # times as many pairs are fitted to the end as the audit does
NOISES = (0.02, 0.05, 0.1)  # standard deviations, of the range


def jpeg(images: Tensor) -> Tensor:
    """Saved as JPEG of quality 50 and read again; of volumes every slice."""
    slices = ((images + 1) * 127.5).round().clamp(0, 255).byte().movedim(1, -1)
    done = []
    for pixels in slices.reshape(-1, *slices.shape[-3:])[..., 0].numpy():
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=50)
        done.append(torch.from_numpy(np.array(Image.open(buffer))))
    return (torch.stack(done).reshape(images.shape).float() / 127.5) - 1


def downscaled(images: Tensor) -> Tensor:
    """Halved and enlarged again."""
    size, mode = images.shape[2:], "bilinear" if images.ndim == 4 else "trilinear"
    half = functional.interpolate(images, [length // 2 for length in size], mode="area")
    return functional.interpolate(half, size, mode=mode, align_corners=False)


FURTHER: dict[str, Callable[[Tensor], Tensor]] = {
    "inverted": torch.neg,
    "other way up": lambda images: images.transpose(2, 3) if images.ndim == 4 else images.flip(3, 4),
    "other way up, combined": lambda images: disguise(FURTHER["other way up"](images), "combined"),
    "gamma": lambda images: ((images + 1) / 2) ** 1.5 * 2 - 1,
    "blur": lambda images: blurred(images, max(images.shape[2:]) / 64),
    "JPEG 50": jpeg,
    "downscale": downscaled,
}


def pool_of(options: argparse.Namespace) -> People:
    """All images of a data list, of both sections, or one of each phantom."""
    if options.real:
        with tempfile.TemporaryDirectory() as work:
            sides = read_real(options.real, work_dir=work, img_size=options.img_size)
        people = People(
            torch.cat([side.images for side in sides]), [subject for side in sides for subject in side.subjects]
        )
        drawn = torch.randperm(int(people.numbers.max()) + 1, generator=seeded_generator(0, "patients"))
        rows = torch.isin(people.numbers, drawn[: options.patients]).nonzero()[:, 0]
        return People(people.images[rows], [people.subjects[row] for row in rows.tolist()])
    images = [
        phantom_image(
            subject=number, image=0, label=number % 2, img_size=options.img_size, spatial_dims=options.spatial_dims
        )
        for number in range(options.phantoms)
    ]
    return People(torch.stack(images) * 2 - 1, [f"{number:05d}" for number in range(options.phantoms)])


class Pool:
    """All images laid over all others, and what a split sees of it."""

    def __init__(self, people: People, options: argparse.Namespace, work_dir: Path) -> None:
        self.work_dir = work_dir
        dims, channels = people.images.ndim - 2, people.images.shape[1]
        shortlist, note = shortlist_embedding(dims, channels)
        print(note or "shortlist by EfficientNet-lite0")
        self.attack = RegisteredCopies(embedder=None if shortlist is None else Embedder(shortlist))
        # so many that among the members of nearly every split, half of all, there are as many as the audit keeps
        self.kept = self.attack.kept
        for name in ("shortlist", "tried"):
            setattr(self.attack, name, round(getattr(self.attack, name) / SHARES[0]))
        self.attack.kept = MORE * self.kept
        self.people, self.numbers = people, people.numbers
        self.index = self.attack.index(people)
        self.candidates = torch.randperm(len(self.numbers), generator=seeded_generator(0, "planted"))[: options.copies]
        start = time.perf_counter()
        self.reals = self._fitted("all", people.images, self.numbers)
        print(f"{len(people.images)} images laid over in {time.perf_counter() - start:.0f} s")
        chosen = people.images[self.candidates]
        made = {kind: disguise(chosen, kind) for kind in DISGUISES if kind != "softened"}
        made |= {kind: change(chosen) for kind, change in FURTHER.items()}
        self.planted = {kind: self._fitted(kind, made[kind], None) for kind in options.disguises or made}
        distances = Embedder(RandomFeatureEmbedding(dims, channels))
        soft, features = SoftReconstructions(embedder=distances), distances(stretched(people.images))
        of_all = soft.features(people.images)
        self.distances = torch.cdist(features, features)
        self.soft = [torch.cdist(one, one) for one in of_all]
        self.soft_planted = {
            kind: [torch.cdist(a, b) for a, b in zip(soft.features(disguise(chosen, kind)), of_all, strict=True)]
            for kind in SoftReconstructions.planted
        }

    def _fitted(self, name: str, images: Tensor, own: Tensor | None) -> tuple[Tensor, Tensor]:
        owns = [None] * len(images.split(BLOCK)) if own is None else own.split(BLOCK)
        parts = []
        for number, (block, of_block) in enumerate(zip(images.split(BLOCK), owns, strict=True)):
            part = finished_part(
                self.work_dir / f"{name}-{number:03d}.pt",
                kind="part of the benchmark",
                made_by=[self.attack.settings(), self.people.images, list(self.people.subjects), block, of_block],
                make=lambda block=block, of_block=of_block: dict(
                    zip(("t", "rows"), self.attack.fitted(self.index, block, own=of_block), strict=True)
                ),
            )
            parts.append(part)
        return torch.cat([part["t"] for part in parts], dim=1), torch.cat([part["rows"] for part in parts])

    def scores(
        self, fitted: tuple[Tensor, Tensor], rows: Tensor, members: Tensor, *, used: Sequence[int] | None = None
    ) -> Scores:
        """Of some rows, with the members (a mask over all images) alone, by all statistics or those that are used."""
        closeness, found = fitted[0][:, rows], fitted[1][rows]
        shown = members[found]
        shown &= shown.cumsum(1) <= self.kept  # the most promising come first
        values, nearest = statistics(closeness.masked_fill(~shown, NOTHING), found, self.numbers[found])
        return Scores(values if used is None else values[:, list(used)], nearest)

    def soft_scores(self, distances: list[Tensor], rows: Tensor, members: Tensor, *, own: bool = False) -> Scores:
        """Of some rows, with the members alone, and without a row's own patient where it is one."""
        shown = members.expand(len(rows), -1)
        if own:
            shown = shown & (self.numbers[rows][:, None] != self.numbers)
        return leads([of_blur[rows].masked_fill(~shown, torch.inf) for of_blur in distances], self.numbers)

    def nearness(self, rows: Tensor, released: Tensor) -> Tensor:
        """[patients]: minus the least distance of the rows of every patient to the release."""
        least = self.distances[rows][:, released].amin(1)
        return torch.stack([-least[self.numbers[rows] == number].min() for number in self.numbers[rows].unique()])


class Played(NamedTuple):
    """One split.

    Attributes:
        hits: copies that were found, by disguise.
        alarms: of the clean release, the patients of each image that alarms and of the member that it resembles.
        ranked, biased: whether the clean release alarms by rank, and whether the split counts as biased.
        soft: planted copies that the attack of soft reconstructions found, by disguise.
        soft_alarms, excluded: whether that attack, and exclusion, alarm on the clean release.
    """

    hits: dict[str, Share]
    alarms: list[str]
    ranked: bool
    biased: bool
    soft: dict[str, Share]
    soft_alarms: bool
    excluded: bool


def rate(shares: Sequence[Share]) -> str:
    """Copies found in all splits together."""
    return f"{100 * sum(share.hits for share in shares) / sum(share.trials for share in shares):.0f} %"


def split(pool: Pool, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Members, held-out patients, released ones and planted copies as rows, and a mask of the members."""
    generator = seeded_generator(seed, "split")
    order = torch.randperm(int(pool.numbers.max()) + 1, generator=generator)
    ends = [round(len(order) * share) for share in (SHARES[0], sum(SHARES))]
    sides = [torch.isin(pool.numbers, part) for part in order.tensor_split(ends)]
    inside, outside, released = (side.nonzero()[:, 0] for side in sides)
    members = sides[0]
    chosen = members[pool.candidates].nonzero()[:, 0]
    chosen = chosen[torch.randperm(len(chosen), generator=generator)[:5]]
    return inside, outside, released, chosen, members


def copies_in(pool: Pool, seed: int, used: Sequence[int] | None = None) -> CopyFindings:
    """What the attack on copies makes of a split."""
    inside, outside, released, chosen, members = split(pool, seed)
    names = pool.people.subjects
    return judge(
        pool.scores(pool.reals, released, members, used=used),
        groups=[str(row) for row in released.tolist()],
        outside=pool.scores(pool.reals, outside, members, used=used).values,
        outside_subjects=[names[row] for row in outside.tolist()],
        inside=pool.scores(pool.reals, inside, members, used=used).values,
        inside_subjects=[names[row] for row in inside.tolist()],
        planted={kind: pool.scores(found, chosen, members, used=used).values for kind, found in pool.planted.items()},
        alarm="tail",
    )


def play(pool: Pool, seed: int) -> Played:
    """Split the patients, and judge the clean release and the planted copies."""
    inside, outside, released, chosen, members = split(pool, seed)
    names = pool.people.subjects
    found = copies_in(pool, seed)
    soft = judge(
        pool.soft_scores(pool.soft, released, members),
        groups=[names[row] for row in released.tolist()],
        outside=pool.soft_scores(pool.soft, outside, members).values,
        outside_subjects=[names[row] for row in outside.tolist()],
        inside=pool.soft_scores(pool.soft, inside, members, own=True).values,
        inside_subjects=[names[row] for row in inside.tolist()],
        planted={kind: pool.soft_scores(found, chosen, members).values for kind, found in pool.soft_planted.items()},
        alarm="rank",
    )
    exclusion = of_nearness(pool.nearness(inside, released), pool.nearness(outside, released))
    resembled = zip(released.tolist(), found.nearest, found.p_values, strict=True)
    return Played(
        hits=found.planted,
        alarms=[f"{names[row]} like {names[member]}" for row, member, p in resembled if p < ALARM],
        ranked=found.rank.p_value < ALARM,
        biased=found.biased,
        soft=soft.planted,
        soft_alarms=soft.rank.p_value < ALARM,
        excluded=exclusion.verdict == "Alarm",
    )


def costs(people: People, work_dir: Path) -> Iterator[tuple[str, ...]]:
    """Seconds of every attack on a half of the images and on all, three fifths of them members, and once more."""
    dims, channels = people.images.ndim - 2, people.images.shape[1]
    shortlist, _ = shortlist_embedding(dims, channels)
    copies = RegisteredCopies(embedder=None if shortlist is None else Embedder(shortlist))
    distances = Embedder(RandomFeatureEmbedding(dims, channels))
    soft = SoftReconstructions(embedder=distances)
    for share in (0.5, 1.0):
        numbers = people.numbers
        ends = [round(share * part * (int(numbers.max()) + 1)) for part in (0.6, 0.8, 1.0)]
        rows = [((numbers >= a) & (numbers < b)).nonzero()[:, 0] for a, b in zip([0, *ends], ends, strict=False)]
        members, held_out, released = (
            People(people.images[part], [people.subjects[row] for row in part.tolist()]) for part in rows
        )
        sides = {"members": members, "held_out": held_out, "released": released.images}
        folder = work_dir / f"cost-{share}"
        plays: dict[str, Callable[[], object]] = {
            attack.title: partial(find_copies, attack, **sides, groups=released.subjects, cache_dir=folder)
            for attack in (copies, soft)
        }
        plays["Exclusion"] = partial(exclusion_row, distances, **sides)
        if shortlist is not None:
            plays["Re-identification"] = partial(halves, Embedder(shortlist), **sides, groups=released.subjects)
        for title, play_it in plays.items():
            took = []
            for _ in range(2):
                start = time.perf_counter()
                play_it()
                took.append(f"{time.perf_counter() - start:.1f}")
            yield (str(sum(map(len, rows))), str(ends[-1]), title, *took)


def of_finished_run(folder: Path) -> Iterator[tuple[str, str]]:
    """What is said of a finished run, of its reconstructions, and of noise on one side: what was tried, and a row."""
    private = folder / "private"
    latents = load_artifact(private / "latents.pt", kind="latents")
    found = latents["latents"][torch.arange(len(latents["best"])), latents["best"]]
    with tempfile.TemporaryDirectory() as work:
        members, held_out = read_real(folder / "data" / "datalist.json", work_dir=work)
    dims, channels = members.images.ndim - 2, members.images.shape[1]
    shortlist, _ = shortlist_embedding(dims, channels)
    copies = RegisteredCopies(embedder=None if shortlist is None else Embedder(shortlist))
    soft = SoftReconstructions(embedder=Embedder(RandomFeatureEmbedding(dims, channels)))
    with tempfile.TemporaryDirectory() as work:
        released = read_released(folder / "release", like=members, work_dir=work)
        reconstructed = synthesize_images(load_generator(private / "model.pt"), found)
        tried = {"release": (released.images, released.subjects, held_out.images)}
        tried["reconstructions of members"] = (reconstructed, latents["subjects"], held_out.images)
        for noise in NOISES:
            drawn = torch.randn(held_out.images.shape, generator=seeded_generator(0, "noise", noise))
            noised = (held_out.images + 2 * noise * drawn).clamp(-1, 1)
            tried[f"noise of {noise:.0%} on held-out patients"] = (released.images, released.subjects, noised)
        for name, (images, groups, outside) in tried.items():
            for attack in (copies, soft):
                result = find_copies(
                    attack,
                    members=People(members.images, members.subjects),
                    held_out=People(outside, held_out.subjects),
                    released=images,
                    groups=groups,
                    cache_dir=work,
                )
                row = copy_row(attack, result)
                rank = f"rank {result.rank.above} of {result.rank.tested}, p = {result.rank.p_value:.2g}"
                yield name, f"{attack.title}: {row.main}; {rank}; bias {result.bias}. {row.sentence}"
    anchors, paths = (load_artifact(private / f"{kind}.pt", kind=kind) for kind in ("anchors", "paths"))
    if anchors["k"] is None:
        return
    for distance in (0.0, paths["min_end_distance"]):
        points = paths["paths"][points_to_leave(paths["paths"], distance)]
        row = differencing(found, latents, anchors["members"], points.flatten(1))
        yield f"points {distance:g} of the path from its ends", f"{row.title}: {row.main}, by guessing {row.baseline}"


def main() -> None:
    """See the text of the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--real", metavar="DATALIST", help="a data list; both sections are pooled and split anew")
    source.add_argument("--phantoms", type=int, metavar="N", help="phantoms, one image of each")
    source.add_argument("--finished", type=Path, metavar="DIR", help="output folder of a run, with its data")
    parser.add_argument("--img_size", type=int, default=64, help="elements of each axis")
    parser.add_argument("--spatial_dims", type=int, choices=(2, 3), default=2, help="of phantoms")
    parser.add_argument("--patients", type=int, metavar="N", help="so many patients of the data list, drawn")
    parser.add_argument("--splits", type=int, default=50)
    parser.add_argument("--copies", type=int, default=60, help="images from which the planted ones are drawn")
    parser.add_argument("--disguises", nargs="+", metavar="KIND", help="so many alone: volumes take seconds each")
    parser.add_argument(
        "--work_dir", type=Path, help="where finished parts are kept; the same command goes on from them"
    )
    parser.add_argument("--by_statistic", action="store_true", help="say as well what each statistic alone finds")
    parser.add_argument(
        "--cost", action="store_true", help="time every attack on a half and on all of the images instead"
    )
    options = parser.parse_args()
    if options.finished:
        print("| tried | found |\n|---|---|")
        for tried, row in of_finished_run(options.finished):
            print(f"| {tried} | {row} |", flush=True)
        return
    with ExitStack() as stack:
        work_dir = options.work_dir or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if options.cost:
            print("| images | patients | attack | seconds | a second time |\n|---:|---:|---|---:|---:|")
            for row in costs(pool_of(options), work_dir):
                print(f"| {' | '.join(row)} |", flush=True)
            return
        pool = Pool(pool_of(options), options, work_dir)
    played = [play(pool, seed) for seed in range(options.splits)]

    print("| disguise | copies found | releases that alarm, 5 copies in each |\n|---|---|---|")
    for kind in pool.planted:
        alarms = wilson_interval(sum(split.hits[kind].hits > 0 for split in played), len(played))
        print(f"| {kind} | {rate([split.hits[kind] for split in played])} | {alarms} |")
    for kind in pool.soft_planted:
        print(f"| {kind}, as a soft reconstruction | {rate([split.soft[kind] for split in played])} | |")
    false = {
        "by tail": [bool(split.alarms) for split in played],
        "by rank": [split.ranked for split in played],
        "biased": [split.biased for split in played],
        "soft reconstructions": [split.soft_alarms for split in played],
        "exclusion": [split.excluded for split in played],
        "any attack": [bool(split.alarms) or split.soft_alarms or split.excluded for split in played],
    }
    for name, alarmed in false.items():
        print(f"clean releases, {name}: {wilson_interval(sum(alarmed), len(alarmed))}")
    for pair, times in Counter(pair for split in played for pair in split.alarms).most_common():
        print(f"  {pair}: {times}")
    if options.by_statistic:
        print("\n| statistics | " + " | ".join(pool.planted) + " | clean releases that alarm |")
        print("|---|" + "---:|" * (len(pool.planted) + 1))
        for name, used in {**{name: [place] for place, name in enumerate(STATISTICS)}, "all": None}.items():
            found = [copies_in(pool, seed, used) for seed in range(options.splits)]
            hits = [rate([one.planted[kind] for one in found]) for kind in pool.planted]
            print(f"| {name} | " + " | ".join(hits) + f" | {sum(one.num_alarming > 0 for one in found)} |")


if __name__ == "__main__":
    main()
