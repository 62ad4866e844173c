"""Re-identification: is a released image linked to a patient as another image of that patient would be?

A metric is learnt from the pairs of *other* patients, and so it needs patients with several images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from monai_plan.audit.attacks import Embedder, People
from monai_plan.audit.attacks.maps import stretched
from monai_plan.audit.findings import ALARM
from monai_plan.audit.rows import ENOUGH, Row
from monai_plan.audit.statistics import (
    Estimate,
    RankTest,
    Share,
    area_under_curve,
    exact_interval,
    fewest_noticed,
    rank_test,
    smallest_rate,
)
from monai_plan.utils import seeded_generator

__all__ = ["REIDENTIFICATION_FIGURES", "Linked", "halves", "learn_metric", "link", "reidentification_row"]

REIDENTIFICATION_FIGURES = (
    "p", "found", "tested", "pairs", "pairs_low", "pairs_high",
    "second_images", "second_first", "second_found", "guess", "fewest_noticed",
)  # fmt: skip

FEWEST_PAIRED = 10  # patients with several images in each half
LONGEST, CELLS = 64, 4  # elements of an image's longest axis, and places per axis at which its features are averaged
AXES, IMAGES_PER_AXIS = 150, 4  # of the space that is learnt in, at most, and images that each of them needs
SHRINKAGE = 0.3  # of the spread within patients towards that of all images
AT_ONCE = 64


class Linked(NamedTuple):
    """What was found with one half of the patients in the gallery.

    Attributes:
        rank: released groups that lie nearer to one patient than any stranger does.
        second: second images of a patient in the gallery that do.
        first: second images whose nearest patient is their own.
        pairs: the chance that two images of a patient are more alike than two of different ones.
        patients: in the gallery.
    """

    rank: RankTest
    second: Share
    first: Share
    pairs: Estimate
    patients: int


def learn_metric(features: Tensor, patients: Tensor) -> Tensor:
    """The matrix under which images of one patient lie together: within-class covariance normalisation.

    Hatch, Kajarekar and Stolcke, Interspeech 2006: the inverse root of the covariance within patients, here shrunk
    towards that of all images. It is a siamese network of one layer, found without a step of training.

    Args:
        features: [N, A], whitened.
        patients: [N]; those with a single image say nothing of the spread within.

    Returns:
        [A, A]; ``features @ map`` are compared by their cosine.
    """
    counts = torch.bincount(patients)
    means = features.new_zeros(len(counts), features.shape[1]).index_add_(0, patients, features)
    apart = (features - (means / counts.clamp_min(1)[:, None])[patients])[counts[patients] > 1]
    degrees = int((counts - 1).clamp_min(0).sum())
    within = apart.T @ apart / max(degrees, 1) + SHRINKAGE * torch.eye(features.shape[1])
    return torch.linalg.cholesky(torch.linalg.inv(within.double())).to(features)


def link(
    metric: Tensor,
    *,
    gallery: Tensor,
    patients: Tensor,
    strangers: Tensor,
    stranger_patients: Tensor,
    released: Tensor,
    groups: Sequence[str],
) -> Linked:
    """Compare released images, strangers and second images of patients with a gallery.

    Args:
        metric: see ``learn_metric``; of other patients than all of these.
        gallery, patients: features [N, A] of members, and whose they are.
        strangers, stranger_patients: of held-out images.
        released, groups: of the release.
    """
    gallery, strangers, released = (functional.normalize(x @ metric, dim=1) for x in (gallery, strangers, released))
    alike, same = gallery @ gallery.T, patients[:, None] == patients[None]
    upper = torch.ones_like(same).triu(1)
    itself = torch.eye(len(gallery), dtype=torch.bool)
    second, nearest = _leads(alike.masked_fill(itself, -torch.inf), patients)
    others, _ = _leads(alike.masked_fill(same, -torch.inf), patients)
    several = (same.sum(1) > 1).nonzero()[:, 0]
    null = torch.cat(
        [
            _peaks(_leads(strangers @ gallery.T, patients)[0], stranger_patients.tolist()),
            _peaks(others, patients.tolist()),
        ]
    )
    of_groups = _peaks(_leads(released @ gallery.T, patients)[0], groups)
    above = int((second[several] > null.max()).sum())
    own = int((patients[nearest[several]] == patients[several]).sum())
    # pairs of one patient are not independent: a patient's mean counts, against as many strangers' pairs
    of_patients = [
        float(alike[(patients == p)[:, None] & (patients == p)[None] & upper].mean())
        for p in patients[several].unique()
    ]
    of_others = alike[~same & upper]
    some = of_others[torch.linspace(0, len(of_others) - 1, min(len(of_others), 10 * len(gallery))).long()]
    return Linked(
        rank=rank_test(of_groups.numpy(), null.numpy()),
        second=exact_interval(above, len(several)),
        first=exact_interval(own, len(several)),
        pairs=area_under_curve(of_patients, some.numpy()),
        patients=len(patients.unique()),
    )


def _leads(alike: Tensor, patients: Tensor) -> tuple[Tensor, Tensor]:
    """[N]: how far the most similar patient is ahead of the next; and the row of the most similar image."""
    first, nearest = alike.max(1)
    of_others = patients[None] != patients[nearest][:, None]
    next_one = alike.masked_fill(~of_others, -torch.inf).amax(1)
    return torch.where(next_one.isfinite() & first.isfinite(), first - next_one, 0.0), nearest


def _peaks(values: Tensor, names: Sequence[object]) -> Tensor:
    numbers = People(values, [str(name) for name in names]).numbers
    return values.new_full((int(numbers.max()) + 1,), -torch.inf).scatter_reduce(0, numbers, values, "amax")


def halves(
    embedder: Embedder,
    *,
    members: People,
    held_out: People,
    released: Tensor,
    groups: Sequence[str],
    seed: int = 0,
) -> list[Linked]:
    """Learn from one half of the patients and link the release with the other half, in both ways.

    Args:
        embedder: of the features, which are averaged over 4 x 4 places.
        members, held_out: real images.
        released: [N, C, *spatial] in [-1, 1].
        groups: of every released image.
        seed: of the halves.

    Returns:
        What was found with each half in the gallery; nothing where a half has too few patients with several images.
    """
    people = People(torch.cat([members.images, held_out.images]), [*members.subjects, *held_out.subjects])
    numbers, is_member = people.numbers, torch.arange(len(people.images)) < len(members.images)
    half = torch.randperm(int(numbers.max()) + 1, generator=seeded_generator(seed, "reidentification")) % 2
    several = torch.bincount(numbers) > 1
    sides = [half[numbers] == side for side in (0, 1)]
    if min(int((several & (half == side)).sum()) for side in (0, 1)) < FEWEST_PAIRED:
        return []
    features, of_release = _whitened(_features(embedder, people.images), _features(embedder, released))
    found = []
    for tested, learnt in (sides, sides[::-1]):
        gallery, strangers = tested & is_member, tested & ~is_member
        if len(numbers[gallery].unique()) < 2 or not strangers.any():
            return []
        _, own = numbers[learnt].unique(return_inverse=True)
        found.append(
            link(
                learn_metric(features[learnt], own),
                gallery=features[gallery],
                patients=numbers[gallery],
                strangers=features[strangers],
                stranger_patients=numbers[strangers],
                released=of_release,
                groups=groups,
            )
        )
    return found


def reidentification_row(found: Sequence[Linked], *, why_not: str = "") -> Row:
    """The row of the attack, of both halves together.

    Args:
        found: see ``halves``.
        why_not: why there is nothing, if another reason than too few patients with several images.
    """
    title, attacker = "Re-identification", "the released images, images of the person sought, and several of others"
    if not found:
        why = why_not or f"it needs {FEWEST_PAIRED} patients with several images in each half of the data"
        return Row(
            name="reidentification", title=title, category="linkability", attacker=attacker, main="not played",
            control="none", baseline="none", power="none", verdict="No answer",
            sentence=f"No answer: {why}.", figures={"p": None},
        )  # fmt: skip
    p_value = min(1.0, len(found) * min(half.rank.p_value for half in found))
    above, second, first = (
        sum(part.above if isinstance(part, RankTest) else part.hits for part in parts)
        for parts in zip(*((half.rank, half.second, half.first) for half in found), strict=True)
    )
    tested, trials = max(half.rank.tested for half in found), sum(half.second.trials for half in found)
    strangers = min(half.rank.null for half in found)
    guess = sum(half.first.trials / half.patients for half in found) / trials
    area, low, high = (sum(values) / len(found) for values in zip(*(half.pairs[:3] for half in found), strict=True))
    pairs = Estimate(area, low, high)
    verdict, sentence = _verdict(p_value, above, exact_interval(second, trials), pairs)
    return Row(
        name="reidentification",
        title=title,
        category="linkability",
        attacker=attacker,
        main=f"{above} of {tested} groups nearer to one patient than any of {strangers} strangers, p = {p_value:.2g}",
        control=f"strangers; pairs of one patient are more alike than pairs of two with a chance of {pairs}",
        baseline=f"{100 * guess:.2g} % of second images find their patient first",
        power=(
            f"of {trials} second images of patients {first} find their patient first, and {second} are nearer to one "
            f"than any stranger; with {strangers} strangers, rates below {100 * smallest_rate(strangers):.2g} % cannot "
            "be seen"
        ),
        verdict=verdict,
        sentence=sentence,
        figures={
            "p": None if verdict == "No answer" else p_value, "found": above, "tested": tested,
            "pairs": area, "pairs_low": low, "pairs_high": high,
            "second_images": trials, "second_first": first, "second_found": second, "guess": guess,
            "fewest_noticed": fewest_noticed(second, trials, needed=2),
        },
    )  # fmt: skip


def _verdict(p_value: float, above: int, second: Share, pairs: Estimate) -> tuple[str, str]:
    if pairs.low <= 0.5 or not second.hits:
        return "No answer", (
            "No answer: what was learnt from other patients' pairs does not find even a patient's second image "
            f"({second.hits} of {second.trials})."
        )
    if p_value < ALARM:
        return "Attention", (
            f"Attention: {above} groups of released images lie nearer to one patient than any stranger does (p = "
            f"{p_value:.2g}), as other images of that patient would."
        )
    weak = " The attack is weak alone:" if second.value < ENOUGH else " The attack is no weak one:"
    return "Nothing found", f"Nothing found.{weak} it finds {second.hits} of {second.trials} second images of patients."


@torch.no_grad()
def _features(embedder: Embedder, images: Tensor) -> Tensor:
    """[N, F]: maps of images of at most 64 elements, averaged over 4 x 4 places."""
    scale = min(1.0, LONGEST / max(images.shape[2:]))
    size = [round(length * scale) for length in images.shape[2:]]
    pool = functional.adaptive_avg_pool2d if images.ndim == 4 else functional.adaptive_avg_pool3d
    rows = []
    for part in stretched(images).split(AT_ONCE):
        if scale < 1:
            part = functional.interpolate(part, size=size, mode="area")
        maps = embedder.embedding.feature_maps(part.to(embedder.device))
        rows.append(torch.cat([pool(map, CELLS).flatten(1).cpu() for map in maps], dim=1))
    return torch.cat(rows)


def _whitened(real: Tensor, released: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the axes in which the real images spread most, each of spread 1."""
    mean, spread = real.mean(0), real.std(0).clamp_min(1e-6)
    real, released = (real - mean) / spread, (released - mean) / spread
    count = max(2, min(AXES, len(real) // IMAGES_PER_AXIS, real.shape[1]))
    _, _, axes = torch.linalg.svd(real, full_matrices=False)
    axes = axes[:count].T
    spread = (real @ axes).std(0).clamp_min(1e-6)
    return real @ axes / spread, released @ axes / spread
