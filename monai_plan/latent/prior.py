"""Safe end points from G's own distribution: draws of the mapping, of which those that know no patient are taken.

The first experiment of PLAN (Pennisi et al., MICCAI 2023, arXiv 2307.02984) walks between random points of W. No
patient is behind such a point as the members are behind an average; what is left is that G may have learnt a patient
by heart, and against that the points are chosen.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from monai_plan.latent.k_same import Anchors
from monai_plan.latent.settings import SelectionSettings
from monai_plan.latent.variety import farthest_first
from monai_plan.latent.w_statistics import w_statistics
from monai_plan.networks import BatchSplitter, LatentDecoder, frozen, images_at_once, prepare_networks
from monai_plan.utils import ConfigError, TrainingError, seeded_generator

logger = logging.getLogger(__name__)

ROUNDS = 3  # of draws for a class, before less is taken


@dataclass(frozen=True, eq=False)
class _Draws:
    """Draws of one class that are not among those nearest to a patient in W, with what the networks say of them.

    Attributes:
        latents: [M, w_dim].
        of_class: [M], φ_class's probability of the class.
        top_identity: [M], φ_id's greatest probability.
        chances: [M], in [0, 1): of each the one draw by which the final check judges it, in every round the same.
    """

    latents: Tensor
    of_class: Tensor
    top_identity: Tensor
    chances: Tensor

    def __add__(self, other: _Draws) -> _Draws:
        return _Draws(*(torch.cat([mine, theirs]) for mine, theirs in zip(self.columns, other.columns, strict=True)))

    @property
    def columns(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All of them."""
        return self.latents, self.of_class, self.top_identity, self.chances

    def __getitem__(self, rows: Tensor | slice) -> _Draws:
        return _Draws(*(column[rows] for column in self.columns))

    @property
    def least_known_first(self) -> _Draws:
        """The same, by ``top_identity``."""
        return self[self.top_identity.argsort(stable=True)]


class PriorAnchors:
    """Draws points of W for each class, and chooses those that resemble no patient.

    With w = w̄_y + ψ · (mapping(z, y) − w̄_y), z ~ N(0, I), w̄_y the mean of class y, and x = clamp(G(w), −1, 1), of
    n · ``candidates`` draws those remain for which

        φ_class(x)_y ≥ ``min_class_probability``,
        min_s ‖w − w_s‖ is not among the least ``latent_share`` of the draws, w_s the inverted latents of patients,
        ``far`` says that x is far from every real image,

    and of the ``identity_share`` of them with the least max φ_id(x), those that φ_id knows least, the n are taken that
    lie farthest apart in W (``farthest_first``): else they would be nearly the same picture many times. Where fewer
    remain, up to three times as many are drawn; after that those follow of which φ_class is surest.

    Args:
        generator: G; the networks are moved to its device.
        identity_net: φ_id, images [B, C, *spatial] in [−1, 1] → logits.
        class_net: φ_class, the same.
        settings: ψ, the number of draws and the thresholds; by default ``SelectionSettings.published()``: as the paper,
            which chooses nothing.
        seed: of the draws.

    Raises:
        ConfigError: if the generator does not fulfil the contract.
    """

    def __init__(
        self,
        generator: LatentDecoder,
        identity_net: nn.Module,
        class_net: nn.Module,
        *,
        settings: SelectionSettings | None = None,
        seed: int = 0,
    ) -> None:
        self.generator, self.identity_net, self.class_net = generator, identity_net, class_net
        self.settings = SelectionSettings.published() if settings is None else settings
        self.seed = seed
        self.device = prepare_networks(generator, identity_net, class_net)
        self._in_batches = BatchSplitter(images_at_once(generator.img_size))

    @torch.no_grad()
    def __call__(
        self, wanted: Mapping[int, int], *, patients: Tensor, far: Callable[[Tensor, Tensor], Tensor] | None = None
    ) -> Anchors:
        """The anchors.

        Args:
            wanted: class → n.
            patients: [P, w_dim] or [P, num_ws, w_dim], the inverted latents.
            far: images [M, C, *spatial] in [−1, 1] and of each a draw of [0, 1) → [M] bool; None: all are.

        Returns:
            Anchors without members, ordered by class and then by max φ_id. A class may have fewer than n, or some of
            which φ_class is less sure, with a warning.

        Raises:
            ConfigError: if a class is none of G's.
            TrainingError: if all draws of a class are too near to a real image.
        """
        classes = self.generator.num_classes  # 0: unconditional, and φ_class alone decides
        for label in wanted:
            if classes and not 0 <= label < classes:
                raise ConfigError(f"anchors of class {label} are wanted, but G has the classes 0 to {classes - 1}.")
        with frozen(self.generator, self.identity_net, self.class_net):
            chosen = {label: self._of_class(label, n, patients, far) for label, n in sorted(wanted.items())}
        labels = [label for label, (latents, _) in chosen.items() for _ in latents]
        points = torch.cat([latents for latents, _ in chosen.values()])
        less_sure = sum(count for _, count in chosen.values())
        return Anchors(points, torch.tensor(labels, dtype=torch.int64), [], None, less_sure)

    def _of_class(
        self, label: int, number: int, patients: Tensor, far: Callable[[Tensor, Tensor], Tensor] | None
    ) -> tuple[Tensor, int]:
        """[n, w_dim], or fewer, those first that φ_id knows least; and of how many φ_class is less sure."""
        draws = None
        for turn in range(ROUNDS):
            more = self._draw(label, number * self.settings.candidates, patients, turn=turn)
            draws = more if draws is None else draws + more
            sure = draws.of_class >= self.settings.min_class_probability
            ranked = self._ranked(draws[sure], number)
            chosen, near = self._far_ones(ranked, number, far)
            if len(chosen.latents) == number:
                return chosen.least_known_first.latents, 0
        assert draws is not None
        surest = draws.of_class[~sure].argsort(descending=True, stable=True)
        others, also_near = self._far_ones(draws[~sure][surest], number - len(chosen.latents), far)
        latents = torch.cat([chosen.least_known_first.latents, others.latents])
        if not len(latents):
            raise TrainingError(
                f"class {label}: all of {near + also_near} draws of G are too near to a real image: lower "
                "min_distance_quantile, or train G on more patients."
            )
        logger.warning(
            "class %d: of %d draws φ_class is sure of %d, and %d of these are too near to a real image; so %d of %d "
            "points are draws of which it is less sure: train G and φ_class longer",
            label, len(sure), len(ranked.latents), near, len(others.latents), len(latents),
        )  # fmt: skip
        return latents, len(others.latents)

    def _ranked(self, sure: _Draws, number: int) -> _Draws:
        """All of them, in the order in which they are asked: those first that are little known and far apart."""
        known_least = sure.least_known_first
        share = max(number, round(self.settings.identity_share * len(sure.latents)))
        return known_least[:share][farthest_first(known_least.latents[:share])] + known_least[share:]

    def _draw(self, label: int, number: int, patients: Tensor, *, turn: int) -> _Draws:
        z = torch.randn(number, self.generator.z_dim, generator=seeded_generator(self.seed, "prior", label, turn))
        mean = w_statistics(self.generator, torch.tensor([label]), seed=self.seed)[0].to(self.device)
        of_patients = patients.to(self.device).flatten(1)

        def judged(rows: slice) -> tuple[Tensor, ...]:
            noise = z[rows].to(self.device)
            labels = torch.full((len(noise),), label, device=self.device) if self.generator.num_classes else None
            w = mean + self.settings.truncation * (self.generator.mapping(noise, labels) - mean)
            images = self.generator.synthesis(w).clamp(-1, 1)
            of_class = self.class_net(images).softmax(1)[:, label]
            top_identity = self.identity_net(images).softmax(1).amax(1)
            as_patients = w.repeat(1, of_patients.shape[1] // w.shape[1])  # in W+ the same w for every layer
            nearest = torch.cdist(as_patients, of_patients).amin(1)
            return tuple(part.cpu().float() for part in (w, of_class, top_identity, nearest))

        parts = self._in_batches(judged, number)
        w, of_class, top_identity, nearest = (torch.cat(column) for column in zip(*parts, strict=True))
        chances = torch.rand(number, generator=seeded_generator(self.seed, "check of anchors", label, turn))
        near = int(self.settings.latent_share * number)
        apart = nearest.argsort(stable=True)[near:].sort().values
        return _Draws(w, of_class, top_identity, chances)[apart]

    def _far_ones(
        self, ranked: _Draws, number: int, far: Callable[[Tensor, Tensor], Tensor] | None
    ) -> tuple[_Draws, int]:
        """The first ``number`` of the draws whose images are far from every real one, and how many were not."""
        if far is None:
            return ranked[:number], 0
        chosen, near, start = ranked[:0], 0, 0
        while len(chosen.latents) < number and start < len(ranked.latents):
            group = ranked[start : start + max(number - len(chosen.latents), self._in_batches.size)]
            images = torch.cat(self._in_batches(self._images_of(group.latents), len(group.latents)))
            is_far = far(images, group.chances)
            chosen, near = chosen + group[is_far], near + int((~is_far).sum())
            start += len(images)
        return chosen[:number], near

    def _images_of(self, latents: Tensor) -> Callable[[slice], Tensor]:
        return lambda rows: self.generator.synthesis(latents[rows].to(self.device)).clamp(-1, 1).cpu()
