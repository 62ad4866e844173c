"""Registered copies: does a released image, laid over a real one, match it as no stranger's image does?"""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from monai_plan.audit.attacks.base import CopyAttack, People, Scores, register_attack
from monai_plan.audit.attacks.maps import FAINTEST, TRIMMED, blurred, local_maps, small, small_greys, stretched
from monai_plan.audit.attacks.registration import agreement, fit_motions

__all__ = ["RegisteredCopies", "orientations"]

COARSE_STEPS, FINE_STEPS = 12, 12
COARSE = 1.5  # blur of the maps in the first half of the fit, in elements
FIT_SMOOTH = 1.0
HALVED = 24  # elements of the shortest axis of maps from which that half takes them at half the size
BLURS = (0.0, 2.0)  # at which the fitted pair is compared: noise leaves the coarser one
OF_ONE = 4  # of the pairs fitted to the end, at most so many are of the most promising patient
AT_ONCE = 64  # images that are blurred together
NOTHING = -0.5 * math.log(2)  # t of a correlation of 0
STATISTICS = ("t", "lead", "ahead of all others, blurred")
SHORTLIST_SIZE = 64  # elements of the longest axis, at most, of images whose features are compared,
SHORTLIST_BLUR = 1 / 64  # and their blur in its lengths, so that noise and a zoom change less
SHORTLIST_SMOOTH = 1.5  # of the maps that stand in for features


class _Index(NamedTuple):
    features: Tensor  # [M, E]
    maps: Tensor  # [M, 1, *spatial]
    coarse: Tensor
    greys: Tensor
    subjects: Tensor  # [M]


@register_attack
class RegisteredCopies(CopyAttack):
    """Each released image is laid over those real ones that resemble it, turned, enlarged and shifted until it fits.

    An image is taken in every orientation, see ``orientations``, with its greys as they are and inverted. The members
    nearest in features are fitted on locally normalised maps. With s the normalised correlation there,
    t = −½ ln(2 − 2 s) is minus the logarithm of the distance of two unit vectors. An image has three scores: t of the
    best member; how far that is ahead of the best *other* patient; and, where all are blurred, which leaves less of
    noise, how far the best is ahead of the mean of all others that were fitted.

    Args:
        embedder: of the shortlist; without it coarse maps are compared.
    """

    name = "copies"
    title = "Registered copies"
    attacker = "the released images and images of the person sought"
    alarm = "tail"
    planted = ("exact", "turned", "cropped", "mirrored", "noised", "combined")
    must_find = ("exact", "turned", "cropped", "mirrored")

    limits = (
        "turns of more than 14° from one of the eight orientations (of volumes: from a mirror image), zoom over 21 %, "
        "shifts over 8 %, stretching and elastic warps, parts of images, mixtures of patients"
    )

    shortlist = 10  # members that an image is compared with, for each way of turning it
    tried = 80  # of these pairs are fitted, the nearest
    kept = 10  # pairs of an image that are fitted to the end

    def settings(self) -> dict[str, Any]:
        """See the base class."""
        embedding = None if self.embedder is None else self.embedder.embedding
        numbers = [self.shortlist, self.tried, self.kept, COARSE_STEPS, FINE_STEPS, COARSE, FIT_SMOOTH, HALVED, BLURS]
        shortlist = [embedding, embedding and embedding.title, SHORTLIST_SIZE, SHORTLIST_BLUR, SHORTLIST_SMOOTH]
        return {"shortlist": shortlist, "numbers": numbers, "greys": [TRIMMED, FAINTEST], "statistics": STATISTICS}

    def _features(self, images: Tensor, greys: Tensor) -> Tensor:
        if self.embedder is not None:
            images = small(images, longest=SHORTLIST_SIZE)
            blur = SHORTLIST_BLUR * max(images.shape[2:])
            return torch.cat([self.embedder(blurred(part, blur)) for part in images.split(AT_ONCE)])
        maps = local_maps(greys, smooth=SHORTLIST_SMOOTH).flatten(1)
        return maps / maps.norm(dim=1, keepdim=True).clamp_min(1e-6)

    def index(self, members: People) -> _Index:
        """See the base class."""
        images = stretched(members.images)
        greys = small_greys(images)
        maps = local_maps(greys, smooth=FIT_SMOOTH)
        return _Index(self._features(images, greys), maps, _coarse(maps), greys, members.numbers)

    def scores(self, index: _Index, images: Tensor, *, own: Tensor | None = None) -> Scores:
        """See the base class."""
        closeness, members = self.fitted(index, images, own=own)
        return statistics(closeness, members, index.subjects[members])

    def fitted(self, index: _Index, images: Tensor, *, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Lay images over the members of their shortlists.

        Args:
            index, images, own: see ``scores``.

        Returns:
            t [blurs, N, kept], and the rows of the members [N, kept]; a member of the image's own patient, where there
            are too few others, has the t of images that have nothing in common.
        """
        images, n = stretched(images), len(images)
        count = min(self.shortlist, len(index.subjects))
        greys, nearest = [], []
        for shape in (sign * turned for sign in (1, -1) for turned in orientations(images)):
            greys.append(small_greys(shape))
            distances = torch.cdist(self._features(shape, greys[-1]), index.features)
            if own is not None:
                distances.masked_fill_(own[:, None] == index.subjects, torch.inf)
            nearest.append(distances.topk(count, largest=False))
        fixed = torch.cat(greys)  # row v · n + i: the image i in the shape v
        rows = torch.arange(len(fixed)).reshape(len(greys), n).T[:, :, None].expand(-1, -1, count)
        pairs = torch.stack([rows, torch.stack([found.indices for found in nearest], dim=1)], dim=-1).reshape(n, -1, 2)
        distances = torch.stack([found.values for found in nearest], dim=1).reshape(n, -1)
        pairs = _taken(pairs, distances.topk(min(self.tried, distances.shape[1]), largest=False).indices)

        maps = local_maps(fixed, smooth=FIT_SMOOTH)
        motions, rough = fit_motions(_coarse(maps), index.coarse, pairs.flatten(0, 1), steps=COARSE_STEPS)
        kept = _promising(rough.reshape(n, -1), index.subjects[pairs[..., 1]], own, self.kept)
        pairs, motions = _taken(pairs, kept), _taken(motions.reshape(n, -1, motions.shape[1]), kept)
        flat = pairs.flatten(0, 1)
        motions, _ = fit_motions(maps, index.maps, flat, start=motions.flatten(0, 1), steps=FINE_STEPS)
        found = agreement(fixed, index.greys, flat, motions, blurs=BLURS)
        closeness = log_closeness(found).reshape(len(BLURS), n, -1)
        if own is not None:
            closeness = closeness.masked_fill(index.subjects[pairs[..., 1]] == own[:, None], NOTHING)
        return closeness, pairs[..., 1]


def orientations(images: Tensor) -> list[Tensor]:
    """Images [N, C, *spatial] as they are, mirrored and turned: all eight ways in 2D, mirrored along any axes in 3D.

    Those on their side are brought back to the size: so would be, on reading, a file that lies on its side.
    """
    spatial = images.shape[2:]
    if len(spatial) == 3:
        return [
            images.flip([2 + axis for axis in axes]) for count in range(4) for axes in combinations(range(3), count)
        ]
    upright = [images, images.flip(2), images.flip(3), images.flip(2, 3)]
    lying = [image.transpose(2, 3) for image in upright]
    if spatial[0] != spatial[1]:
        lying = [functional.interpolate(image, size=tuple(spatial), mode="area") for image in lying]
    return upright + lying


def _taken(values: Tensor, places: Tensor) -> Tensor:
    """[N, pairs, E] at places [N, K] → [N, K, E]."""
    return values.gather(1, places[:, :, None].expand(-1, -1, values.shape[2]))


def _coarse(maps: Tensor) -> Tensor:
    """Maps of the first half of the fit: blurred, and of half as many elements along each axis where that is enough."""
    maps, spatial = blurred(maps, COARSE), maps.shape[2:]
    if min(spatial) < HALVED:
        return maps
    return functional.interpolate(maps, size=[length // 2 for length in spatial], mode="area")


def _promising(rough: Tensor, patients: Tensor, own: Tensor | None, count: int) -> Tensor:
    """[N, at most count]: the pairs to be fitted to the end, by their rough correlations [N, pairs].

    Others than the best patient are among them, or nothing would say how far he is ahead.
    """
    if own is not None:  # where there are too few others, the list ends with the image's own patient
        rough = rough.masked_fill(patients == own[:, None], -2.0)
    best = patients == patients.gather(1, rough.argmax(1, keepdim=True))
    order = rough.masked_fill(~best, -3.0).argsort(dim=1, descending=True).argsort(dim=1)
    return rough.masked_fill(best & (order >= OF_ONE), -2.0).topk(min(count, rough.shape[1]), dim=1).indices


def log_closeness(correlations: Tensor) -> Tensor:
    """t = −½ ln(2 − 2 s): minus the logarithm of the distance of two unit vectors; ends at 6.9, a distance of 0.001."""
    return -0.5 * (2 - 2 * correlations).clamp_min(1e-6).log()


def statistics(closeness: Tensor, members: Tensor, patients: Tensor) -> Scores:
    """The scores of images, in the order of ``STATISTICS``.

    Args:
        closeness: t [blurs, N, pairs].
        members, patients: [N, pairs], the rows of the members and whose they are.
    """
    best = closeness[0].max(dim=1)
    ahead = _above_the_rest(closeness[-1], patients, (closeness > NOTHING).all(0))
    values = [best.values, _lead(closeness[0], patients), ahead]
    return Scores(torch.stack(values, dim=1), members.gather(1, best.indices[:, None])[:, 0])


def _lead(closeness: Tensor, patients: Tensor) -> Tensor:
    """[N]: how far the best patient is ahead of the second; 0 where there is no second."""
    best, index = closeness.max(dim=1)
    of_others = patients != patients.gather(1, index[:, None])
    second = closeness.masked_fill(~of_others, -torch.inf).amax(1)
    return torch.where(of_others.any(1), best - second, torch.zeros_like(best))


def _above_the_rest(closeness: Tensor, patients: Tensor, counted: Tensor) -> Tensor:
    """[N]: how far the best patient is ahead of the mean of all others that count; 0 where there is none."""
    best, index = closeness.max(dim=1)
    others = (patients != patients.gather(1, index[:, None])) & counted
    number = others.sum(1)
    mean = (closeness * others).sum(1) / number.clamp_min(1)
    return torch.where(number > 0, best - mean, torch.zeros_like(best))
