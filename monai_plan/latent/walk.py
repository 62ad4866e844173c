"""The privacy-preserving walk between two latent points: the objective of PLAN and its minimisation.

Pennisi et al., "A Privacy-Preserving Walk in the Latent Space of Generative Models for Medical Applications",
MICCAI 2023, arXiv 2307.02984. With w̄_1 = w_a and w̄_T = w_b fixed, and x̄_t = clamp(G(w̄_t), −1, 1) for the inner
points t = 2 … T − 1,

    L_dist  = Σ_{t=1}^{T−1} ‖w̄_{t+1} − w̄_t‖²
    L_id    = Σ_{t=2}^{T−1} KL(U ‖ softmax φ_id(x̄_t))        U uniform over the identities
    L_class = Σ_{t=2}^{T−1} CE(φ_class(x̄_t), y)
    L       = L_dist + λ_id · L_id + λ_class · L_class

The published code takes means over chunks of four points and weights their sums with 0.1 and 1. For T = 50 that is
λ_id = 0.025 and λ_class = 0.25 here; the sums above do not change their scale with T or with the batch size.

``WalkSettings.published()`` is that; ``WalkSettings.fast()``, the default, reaches a lower L with fewer images. By
option: further terms (``monai_plan.latent.terms``), and an objective that is relative to the straight line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from monai_plan.latent.objective import WalkObjective
from monai_plan.latent.path import per_row, refined, straight_lines
from monai_plan.latent.settings import WalkSettings
from monai_plan.latent.terms import ClassTerm, IdentityTerm
from monai_plan.networks import BatchSplitter, LatentDecoder, frozen, prepare_networks
from monai_plan.utils import ConfigError, TrainingError

_FINE_RATE = 0.1  # of lr, after a coarse walk: at the full rate a fresh Adam throws the path off again
_CHECK_EVERY = 50  # steps between looks at the losses: each look makes the host wait for the device


@dataclass(frozen=True, eq=False)
class WalkResult:
    """A path and how it came about. All tensors are float32 on the CPU.

    Attributes:
        path: [T, w_dim] or [T, num_ws, w_dim], w̄_1 … w̄_T; the first and last are the given end points.
        losses: ``"distance"``, ``"identity"``, ``"class"`` and each further term by its name: L_dist, L_id, L_class
            and Σ_t term, unweighted sums, [steps + 1] each: before every step and after the last. With
            coarse points [steps + 2]: those of the straight line come before.
        total: [steps + 1] or [steps + 2], L.
    """

    path: Tensor
    losses: dict[str, Tensor]
    total: Tensor


class LatentWalk:
    """Bend the straight line between two latents of a class away from the identities of the training set.

    Minimises L (see the module) over the inner points with Adam, started from ``linear_path``. With
    ``min_end_distance`` only the points of the middle move, and t in L_id and L_class counts these alone. During a call
    the networks are frozen and in eval mode, and after it as they were before. No call depends on an earlier one, and
    no pair on those it is walked with. With ``terms``, L gains Σ_term λ_term · Σ_t term(w̄_t, x̄_t, y).

    With ``normalize`` every part is relative, and one λ serves any w_dim, T and distance of the anchors:

        L = L_dist / (‖w_b − w_a‖² / (T − 1)) + λ_id · mean_t KL + λ_class · mean_t CE + Σ_term λ_term · mean_t term

    The divisor is L_dist of the straight line. Adam then moves w in units of ‖w_b − w_a‖ / √d, d the numbers of a
    latent: ``lr`` is a fraction of that per step. It is the published objective, divided by a constant, where λ is
    (T − 1)(T − 2) / ‖w_b − w_a‖² times that of the sums.

    Args:
        generator: G.
        identity_net: φ_id, images [B, C, *spatial] in [−1, 1] → logits [B, n] over n ≥ 2 identities.
        class_net: φ_class, the same → logits [B, num_classes].
        settings: how it walks; by default ``WalkSettings.fast()``.
        terms: further terms by name, each a module (w [N, *latent], images x̄ [N, C, *spatial] in [−1, 1], labels [N]
            int64 on the CPU) → [N] float32, differentiable; the value of a point must not depend on the others. They
            are moved and frozen like the networks, computed in float32, and weighted by ``settings.lambda_terms``.
        points_per_batch: how many points are synthesised at once, which does not change the result; default: 1024 on a
            GPU, halved whenever the memory does not suffice, and the points of one pair, or 16, on a CPU.
        device: where to compute; the networks are moved there. Default: where the generator is.

    Raises:
        ConfigError: if ``points_per_batch`` lies outside its range, the generator does not fulfil the contract, or the
            terms are not those that the settings weigh.
    """

    def __init__(
        self,
        generator: LatentDecoder,
        identity_net: nn.Module,
        class_net: nn.Module,
        *,
        settings: WalkSettings | None = None,
        terms: Mapping[str, nn.Module] | None = None,
        points_per_batch: int | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        if points_per_batch is not None and points_per_batch < 1:
            raise ConfigError(f"points_per_batch of the walk is {points_per_batch}, but must be at least 1.")
        self.settings = WalkSettings.fast() if settings is None else settings
        self.terms = dict(terms or {})
        _check_terms(self.terms, self.settings)
        self._networks = (identity_net, class_net, *self.terms.values())
        self.device = prepare_networks(generator, *self._networks, device=device)
        self.generator, self.identity_net, self.class_net = generator, identity_net, class_net
        if points_per_batch is None:
            points_per_batch = max(16 if self.device.type == "cpu" else 1024, self.settings.num_moving)
        self._in_batches = BatchSplitter(points_per_batch)
        amp = self.settings.amp
        published = {"identity": IdentityTerm(identity_net, amp=amp), "class": ClassTerm(class_net, amp=amp)}
        self.objective = WalkObjective(generator, {**published, **self.terms}, self.settings, self._in_batches)
        self._coarse: LatentWalk | None = None
        if self.settings.coarse_points:
            options: dict[str, Any] = {"terms": terms, "points_per_batch": points_per_batch, "device": self.device}
            self._coarse = LatentWalk(generator, identity_net, class_net, settings=self.settings.coarse(), **options)

    @property
    def _coarse_steps(self) -> int:
        return 0 if self._coarse is None else self._coarse.settings.steps

    @property
    def pairs_per_batch(self) -> int:
        """How many pairs fill one batch of points; walking as many at once keeps a GPU busy."""
        return max(self._in_batches.size // self.settings.num_moving, 1)

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """G, φ_id, φ_class and the modules of the terms."""
        return (self.generator, *self._networks)

    def __call__(
        self, w_a: Tensor, w_b: Tensor, label: int, *, progress: Callable[[int, int], None] | None = None
    ) -> WalkResult:
        """Walk from ``w_a`` to ``w_b``.

        Args:
            w_a, w_b: [w_dim], or [num_ws, w_dim] with num_ws ≥ 2 in W+; the first and the last point.
            label: y, the class of both.
            progress: see ``walk_pairs``.

        Raises:
            ConfigError: if an end point is of another shape or not finite, the label lies outside the classes, or
                both ends are the same and ``normalize`` divides by their distance.
            TrainingError: if a loss is not finite, or not even one point fits into the memory.
        """
        return self.walk_pairs([w_a], [w_b], [label], progress=progress)[0]

    def walk_pairs(
        self,
        w_a: Sequence[Tensor] | Tensor,
        w_b: Sequence[Tensor] | Tensor,
        labels: Sequence[int],
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[WalkResult]:
        """Walk many pairs at once: the same as one after the other, and faster.

        Args:
            w_a, w_b: the first and the last points of P pairs, all [w_dim] or all [num_ws, w_dim].
            labels: y of each pair.
            progress: called with (steps done, steps in all) after every step, coarse ones included.

        Returns:
            P results.

        Raises:
            ConfigError, TrainingError: as in a call for one pair; ConfigError also if there are not as many of each.
        """
        if not len(w_a) == len(w_b) == len(labels):
            raise ConfigError(
                f"There are {len(w_a)} w_a, {len(w_b)} w_b and {len(labels)} labels: give as many of each."
            )
        if not len(labels):
            return []
        settings, objective = self.settings, self.objective
        lines = straight_lines(w_a, w_b, w_dim=self.generator.w_dim, num_points=settings.num_points, device=self.device)
        if not (objective.reference(lines) > 0).all():
            raise ConfigError(
                "w_a and w_b are the same point, but normalize divides by their distance: choose two different "
                "anchors, or leave normalize out."
            )
        start = lines if self._coarse is None else self._coarse_paths(self._coarse, w_a, w_b, labels, progress)
        history = torch.zeros(settings.steps + 1, len(objective.names), len(labels), device=self.device)
        unit = per_row(objective.unit(lines), lines)
        variables = (objective.moving(start) / unit).requires_grad_()
        adam = torch.optim.Adam([variables], settings.lr, (0.9, settings.beta2))
        with torch.enable_grad(), frozen(*self.networks):
            for step in range(settings.steps):
                history[step], gradient = objective.losses_and_gradient(lines, variables.detach() * unit, labels)
                if step % _CHECK_EVERY == 0:
                    self._check_finite(history[: step + 1])
                adam.param_groups[0]["lr"] = self._rate(step)
                variables.grad = gradient * unit
                adam.step()
                if progress is not None:
                    progress(self._coarse_steps + step + 1, self._coarse_steps + settings.steps)
            inner = variables.detach() * unit
            history[-1] = objective.losses(lines, inner, labels)
            self._check_finite(history)
            if self._coarse is not None:
                history = torch.cat([objective.losses(lines, objective.moving(lines), labels)[None], history])
        paths = objective.whole(lines, inner).cpu()
        total = objective.total(history, lines).cpu()
        return [
            WalkResult(path=path, losses=dict(zip(objective.names, losses.unbind(1), strict=True)), total=of_pair)
            for path, losses, of_pair in zip(paths, history.cpu().unbind(2), total.unbind(1), strict=True)
        ]

    def _coarse_paths(
        self,
        coarse: LatentWalk,
        w_a: Sequence[Tensor] | Tensor,
        w_b: Sequence[Tensor] | Tensor,
        labels: Sequence[int],
        progress: Callable[[int, int], None] | None,
    ) -> Tensor:
        """The paths of the coarser walk, with T points, [P, T, *latent]."""

        def show(step: int, steps: int) -> None:
            if progress is not None:
                progress(step, steps + self.settings.steps)

        paths = torch.stack([result.path for result in coarse.walk_pairs(w_a, w_b, labels, progress=show)])
        return refined(paths, self.settings.num_points).to(self.device)

    def _rate(self, step: int) -> float:
        """The learning rate of a step."""
        lr = self.settings.lr * (1 if self._coarse is None else _FINE_RATE)
        done = 2 * step / max(self.settings.steps, 1) - 1  # of the second half
        if self.settings.schedule == "constant" or done <= 0:
            return lr
        return lr * (0.5 + 0.5 * math.cos(math.pi * done))

    def _check_finite(self, history: Tensor) -> None:
        """Look at losses [steps, K, P]."""
        bad = (~history.isfinite().all(1)).nonzero().tolist()
        if bad:
            step, pair = bad[0]
            named = zip(self.objective.names, history[step, :, pair].tolist(), strict=True)
            values = ", ".join(f"{name} {value:g}" for name, value in named)
            raise TrainingError(
                f"The walk's loss is not finite after {step} steps ({values}): lower lr, or check that the generator "
                "and the classifiers were trained to the end."
            )


def _check_terms(terms: Mapping[str, nn.Module], settings: WalkSettings) -> None:
    for name, term in terms.items():
        if not isinstance(term, nn.Module):
            raise ConfigError(
                f"The term {name} is a {type(term).__name__}, but must be a torch.nn.Module, so that it can be moved "
                "and frozen: wrap it in one."
            )
        if name not in settings.lambda_terms:
            raise ConfigError(f"The term {name} has no weight: name it in lambda_terms of the settings.")
    missing = [name for name, weight in settings.lambda_terms.items() if weight and name not in terms]
    if missing:
        raise ConfigError(f"lambda_terms weighs a term {missing[0]} that is not among the terms: give it, or weight 0.")
