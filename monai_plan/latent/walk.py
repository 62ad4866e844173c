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

By option, and none by default: further terms (``monai_plan.latent.terms``), and an objective that is relative to the
straight line; see ``LatentWalk``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from monai_plan.latent.terms import WeightedTerm
from monai_plan.networks import BatchSplitter, LatentDecoder, frozen, prepare_networks
from monai_plan.utils import ConfigError, TrainingError

__all__ = ["LatentWalk", "WalkResult", "class_loss", "distance_loss", "identity_loss", "linear_path"]

_FINE_RATE = 0.1  # of lr, after a coarse walk: at the full rate a fresh Adam throws the path off again
_CHECK_EVERY = 50  # steps between looks at the losses: each look makes the host wait for the device
_PUBLISHED_LOSSES = ("distance", "identity", "class")


def linear_path(w_a: Tensor, w_b: Tensor, num_points: int) -> Tensor:
    """The straight line w̄_t = w_a + (t − 1)/(T − 1) · (w_b − w_a), t = 1 … T, from which the walk starts.

    Args:
        w_a: [w_dim], or [num_ws, w_dim] with num_ws ≥ 2 in W+; the first point.
        w_b: the same, the last point.
        num_points: T, at least 2.

    Returns:
        [T, w_dim] or [T, num_ws, w_dim]; the first and last row are exactly ``w_a`` and ``w_b``.

    Raises:
        ConfigError: if the shapes differ or are none of the two, or ``num_points`` is less than 2.
    """
    if not _is_latent(w_a) or w_a.shape != w_b.shape:
        raise ConfigError(
            "w_a and w_b must both be [w_dim], or both [num_ws, w_dim] with num_ws ≥ 2: got "
            f"{list(w_a.shape)} and {list(w_b.shape)}."
        )
    if num_points < 2:
        raise ConfigError(f"num_points must be at least 2, the two end points: got {num_points}.")
    # lerp is exact at 0 and 1.
    return torch.lerp(w_a, w_b, _rows(torch.linspace(0, 1, num_points, dtype=w_a.dtype, device=w_a.device), w_a[None]))


def _is_latent(w: Tensor) -> bool:
    """[w_dim], or [num_ws, w_dim] with num_ws ≥ 2: no G has a single layer, so [1, w_dim] is a batch by mistake."""
    return w.ndim == 1 or (w.ndim == 2 and len(w) > 1)


def _rows(values: Tensor, like: Tensor) -> Tensor:
    """One value a row, [N], in the shape [N, 1, …] that multiplies the rows of ``like``."""
    return values.view(-1, *[1] * (like.ndim - 1))


def distance_loss(path: Tensor) -> Tensor:
    """L_dist = Σ_{t=1}^{T−1} ‖w̄_{t+1} − w̄_t‖² (PLAN); least on the straight, evenly spaced line.

    Args:
        path: [T, w_dim] or [T, num_ws, w_dim].

    Returns:
        A scalar, at least 0.
    """
    return (path[1:] - path[:-1]).square().sum()


def identity_loss(logits: Tensor) -> Tensor:
    """L_id = Σ_t KL(U ‖ softmax φ_id(x̄_t)) = Σ_t (−log n − 1/n · Σ_{i=1}^{n} log softmax_i φ_id(x̄_t)) (PLAN).

    Args:
        logits: [P, n], φ_id of P points over n identities, n ≥ 2.

    Returns:
        A scalar, at least 0: 0 where every identity is equally probable.

    Raises:
        ConfigError: if the logits are not [P, n] with n ≥ 2.
    """
    return _identity_terms(logits).sum()


def _identity_terms(logits: Tensor) -> Tensor:
    """The terms of ``identity_loss``, [P]."""
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ConfigError(f"The identity classifier must return [B, n], n ≥ 2 identities: got {list(logits.shape)}.")
    return -math.log(logits.shape[1]) - logits.float().log_softmax(1).mean(1)


def class_loss(logits: Tensor, label: int) -> Tensor:
    """L_class = Σ_t CE(φ_class(x̄_t), y) = −Σ_t log softmax_y φ_class(x̄_t) (PLAN).

    Args:
        logits: [P, num_classes], φ_class of P points.
        label: y, from 0 to num_classes − 1.

    Returns:
        A scalar, at least 0.

    Raises:
        ConfigError: if the logits are not [P, num_classes] or the label lies outside the classes.
    """
    _check_labels([label], logits)
    return functional.cross_entropy(logits, torch.full(logits.shape[:1], label, device=logits.device), reduction="sum")


def _check_labels(labels: Sequence[int], logits: Tensor) -> None:
    if logits.ndim != 2:
        raise ConfigError(f"The class classifier must return [B, num_classes]: got {list(logits.shape)}.")
    wrong = [label for label in labels if not 0 <= label < logits.shape[1]]
    if wrong:
        raise ConfigError(
            f"Label {wrong[0]} lies outside the classes 0 … {logits.shape[1] - 1} of the class classifier."
        )


@dataclass(frozen=True, eq=False)
class WalkResult:
    """A path and how it came about. All tensors are float32 on the CPU.

    Attributes:
        path: [T, w_dim] or [T, num_ws, w_dim], w̄_1 … w̄_T; the first and last row are the given end points.
        losses: ``"distance"``, ``"identity"``, ``"class"`` and each further term by its name: L_dist, L_id, L_class
            and Σ_t term, unweighted sums, [steps + 1] each: before every step and after the last. With
            ``coarse_points`` [steps + 2]: those of the straight line come before.
        total: [steps + 1] or [steps + 2], L.
    """

    path: Tensor
    losses: dict[str, Tensor]
    total: Tensor


class LatentWalk:
    """Bend the straight line between two latents of a class away from the identities of the training set.

    Minimises L (see the module) over the inner points with Adam, started from ``linear_path``; the end
    points stay fixed. During a call the networks are frozen and in eval mode, and after it as they were before;
    no gradient is left in them. No call depends on an earlier one, and no pair on those it is walked with.

    With ``terms``, L gains Σ_term λ_term · Σ_t term(w̄_t, x̄_t, y).

    With ``normalize`` every part is relative, and one λ serves any w_dim, T and distance of the anchors:

        L = L_dist / (‖w_b − w_a‖² / (T − 1)) + λ_id · mean_t KL + λ_class · mean_t CE + Σ_term λ_term · mean_t term

    The divisor is L_dist of the straight line, so L begins at 1 plus what the networks say. Adam then moves w in units
    of ‖w_b − w_a‖ / √d, d the numbers of a latent: ``lr`` is a fraction of that a step. It is the published objective,
    divided by a constant, where λ is (T − 1)(T − 2) / ‖w_b − w_a‖² times that of the sums (2352 / ‖w_b − w_a‖² at
    T = 50): the same numbers λ mean the same where ‖w_b − w_a‖² = (T − 1)(T − 2).

    Args:
        generator: G.
        identity_net: φ_id, images [B, C, *spatial] in [−1, 1] → logits [B, n] over n ≥ 2 identities.
        class_net: φ_class, the same → logits [B, num_classes].
        num_points: T, at least 3, end points included.
        steps: Adam steps, at least 0; 0 gives the linear path with its losses.
        lr: learning rate of the first step, above 0.
        schedule: "constant", as published, or "decay", which lowers the rate to 0 by a cosine over the second half of
            the steps: Adam at a constant rate circles the minimum.
        beta2: decay of Adam's second moment, in [0, 1); its first is 0.9. Where the straight line has lost the class,
            the first gradients are many times the later ones, and at 0.999, as published, they hold the points back
            for hundreds of steps; at 0.95 they are soon forgotten.
        smoothing: α ≥ 0. The gradient is multiplied by (I + α Δ)⁻¹ along the path before Adam sees it, Δ the second
            difference between fixed ends, half of L_dist's Hessian. L stays as it is, but stiff zigzags no longer
            hold the steps back: with α = 10 fewer steps reach the same L (docs/results.md). 0, as published, is off.
        coarse_points: T_c, at least 3 and less than T: first ``coarse_steps`` steps, at a rate that decays, with a path
            of T_c points, whose λ and α are scaled so that the same curve is the best one; then T points on that curve
            and ``steps`` steps at a tenth of ``lr``. Far fewer images are made for the same L.
        coarse_steps: at least 1; without ``coarse_points`` it has no part.
        lambda_id: λ_id, at least 0.
        lambda_class: λ_class, at least 0.
        terms: further terms by name; computed in float32. Their modules are moved and frozen like the networks.
        normalize: see above; False is as published.
        points_per_batch: how many points are synthesised at once, which bounds the memory but does not change the
            result; default: 1024 on a GPU, where it is halved whenever the memory does not suffice, and the points of
            one pair on a CPU, which gains nothing from more.
        amp: bfloat16 autocast of the three networks, the losses in float32; faster where ``bf16_is_fast``, and
            accurate to about three digits. False computes all in float32.
        device: where to compute; the networks are moved there. Default: where the generator is.

    Raises:
        ConfigError: if an argument lies outside its range or the generator does not fulfil the contract.
    """

    def __init__(
        self,
        generator: LatentDecoder,
        identity_net: nn.Module,
        class_net: nn.Module,
        *,
        num_points: int = 50,
        steps: int = 500,
        lr: float = 0.1,
        schedule: str = "constant",
        beta2: float = 0.999,
        smoothing: float = 0.0,
        coarse_points: int | None = None,
        coarse_steps: int = 40,
        lambda_id: float = 0.025,
        lambda_class: float = 0.25,
        terms: Mapping[str, WeightedTerm] | None = None,
        normalize: bool = False,
        points_per_batch: int | None = None,
        amp: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        if num_points < 3:
            raise ConfigError(f"num_points must be at least 3, two end points and one between: got {num_points}.")
        for name, value, valid in (
            ("steps", steps, isinstance(steps, int) and steps >= 0),
            ("lr", lr, 0 < lr < math.inf),
            ("schedule", schedule, schedule in ("constant", "decay")),
            ("beta2", beta2, 0 <= beta2 < 1),
            ("smoothing", smoothing, 0 <= smoothing < math.inf),
            (
                "coarse_points",
                coarse_points,
                coarse_points is None or (isinstance(coarse_points, int) and 3 <= coarse_points < num_points),
            ),
            ("coarse_steps", coarse_steps, coarse_steps >= 1),
            ("lambda_id", lambda_id, 0 <= lambda_id < math.inf),
            ("lambda_class", lambda_class, 0 <= lambda_class < math.inf),
            ("points_per_batch", points_per_batch, points_per_batch is None or points_per_batch >= 1),
        ):
            if not valid:
                raise ConfigError(f"{name} of the walk is {value}, outside its range: see LatentWalk.")
        self.terms = dict(terms or {})
        taken = sorted(self.terms.keys() & set(_PUBLISHED_LOSSES))
        if taken:
            raise ConfigError(f"terms has the name {taken[0]!r}, which a loss of the walk bears: choose another one.")
        self._networks = (identity_net, class_net, *(weighted.term for weighted in self.terms.values()))
        self.device = prepare_networks(generator, *self._networks, device=device)
        self.generator = generator
        self.identity_net = identity_net
        self.class_net = class_net
        self.num_points = num_points
        self.steps = steps
        self.lr = lr
        self.schedule = schedule
        self.beta2 = beta2
        self.smoothing = smoothing
        self.lambda_id = lambda_id
        self.lambda_class = lambda_class
        self.normalize = normalize
        self.amp = amp
        if points_per_batch is None:
            points_per_batch = self._num_inner if self.device.type == "cpu" else max(1024, self._num_inner)
        self._in_batches = BatchSplitter(points_per_batch)
        self.coarse_points, self.coarse_steps = coarse_points, coarse_steps
        self._coarse = None if coarse_points is None else self._of_fewer_points(coarse_points, coarse_steps)

    def _of_fewer_points(self, num_points: int, steps: int) -> LatentWalk:
        """The walk of a coarser path that is least on the same curve.

        Two neighbours' pull on a point goes as the square of the step, 1/(T − 1)², so λ and α⁻¹ do; the relative
        objective has the factor (T − 1)/(T − 2) of its means besides.
        """
        finer = (self.num_points - 1) / (num_points - 1)
        scale = finer * (num_points - 2) / (self.num_points - 2) if self.normalize else finer**2
        return LatentWalk(
            self.generator,
            self.identity_net,
            self.class_net,
            num_points=num_points,
            steps=steps,
            lr=self.lr,
            schedule="decay",
            beta2=self.beta2,
            smoothing=self.smoothing / finer**2,
            lambda_id=self.lambda_id * scale,
            lambda_class=self.lambda_class * scale,
            terms={name: WeightedTerm(term.weight * scale, term.term) for name, term in self.terms.items()},
            normalize=self.normalize,
            points_per_batch=self._in_batches.size,
            amp=self.amp,
            device=self.device,
        )

    @property
    def _num_inner(self) -> int:
        """The points that move."""
        return self.num_points - 2

    @property
    def pairs_per_batch(self) -> int:
        """How many pairs fill one batch of points; walking as many at once keeps a GPU busy."""
        return max(self._in_batches.size // self._num_inner, 1)

    @property
    def settings(self) -> dict[str, Any]:
        """The options that decide what a walk gives, as plain values for the header of a file; terms by weight."""
        names = ("num_points", "steps", "lr", "schedule", "beta2", "smoothing", "amp", "lambda_id")
        further = ("lambda_class", "coarse_points", "coarse_steps", "normalize")
        options = {name: getattr(self, name) for name in (*names, *further)}
        return {**options, "terms": {name: weighted.weight for name, weighted in self.terms.items()}}

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """G, φ_id, φ_class and the modules of the terms."""
        return (self.generator, *self._networks)

    def __call__(
        self, w_a: Tensor, w_b: Tensor, label: int, *, progress: Callable[[int, int], None] | None = None
    ) -> WalkResult:
        """Walk from ``w_a`` to ``w_b``.

        Args:
            w_a: [w_dim], or [num_ws, w_dim] with num_ws ≥ 2 in W+; the first point.
            w_b: the same, the last point.
            label: y, the class of both.
            progress: called with (steps done, steps in all) after every step.

        Returns:
            The path and its losses.

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
            w_a: the first points of P pairs, all [w_dim] or all [num_ws, w_dim].
            w_b: the last points.
            labels: y of each pair.
            progress: called with (steps done, steps in all) after every step, or (points, points in all) with
                ``coarse_points``, whose steps are cheaper.

        Returns:
            P results.

        Raises:
            ConfigError: if there are not as many of each, or as in a call for one pair.
            TrainingError: as in a call for one pair.
        """
        if not len(w_a) == len(w_b) == len(labels):
            raise ConfigError(
                f"There are {len(w_a)} w_a, {len(w_b)} w_b and {len(labels)} labels: give as many of each."
            )
        if not len(labels):
            return []
        coarse = None if self._coarse is None else self._coarse_paths(self._coarse, w_a, w_b, labels, progress)
        lines = self._lines(w_a, w_b)
        smoother = _smoother(self._num_inner, self.smoothing).to(self.device) if self.smoothing else None
        history = torch.zeros(self.steps + 1, 3 + len(self.terms), len(labels), device=self.device)
        unit = _rows(self._unit(lines), lines)
        # Adam sees the inner points in units of ``unit``.
        variables = ((lines if coarse is None else coarse)[:, 1:-1] / unit).requires_grad_()
        adam = torch.optim.Adam([variables], self.lr, (0.9, self.beta2))
        with torch.enable_grad(), frozen(*self.networks):
            straight = None if coarse is None else self._losses(lines, lines[:, 1:-1], labels)
            for step in range(self.steps):
                points = (variables.detach() * unit).requires_grad_()
                history[step], gradient = self._losses_and_gradient(lines, points, labels)
                if step % _CHECK_EVERY == 0:
                    self._check_finite(history[: step + 1])
                adam.param_groups[0]["lr"] = self._rate(step)
                gradient = gradient * unit
                variables.grad = gradient if smoother is None else _along_path(smoother, gradient)
                adam.step()
                self._report(progress, step + 1)
            points = variables.detach() * unit
            history[-1] = self._losses(lines, points, labels)
        self._check_finite(history)
        if straight is not None:
            history = torch.cat([straight[None], history])

        paths = torch.cat([lines[:, :1], points, lines[:, -1:]], dim=1).cpu()
        total = self._total(history, lines).cpu()
        return [
            WalkResult(path=path, losses=dict(zip(self._loss_names, losses.unbind(1), strict=True)), total=of_pair)
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
                progress(step * coarse._num_inner, self._points_in_all)

        paths = torch.stack([result.path for result in coarse.walk_pairs(w_a, w_b, labels, progress=show)])
        place = torch.linspace(0, coarse.num_points - 1, self.num_points)
        before = place.long().clamp(max=coarse.num_points - 2)
        weight = _rows(place - before, paths[0])
        return torch.lerp(paths[:, before], paths[:, before + 1], weight).to(self.device)

    @property
    def _points_in_all(self) -> int:
        """Points that are synthesised for a pair in all steps."""
        coarse = 0 if self._coarse is None else self._coarse.steps * self._coarse._num_inner
        return coarse + self.steps * self._num_inner

    def _report(self, progress: Callable[[int, int], None] | None, step: int) -> None:
        if progress is None:
            return
        if self._coarse is None:
            progress(step, self.steps)
        else:
            left = (self.steps - step) * self._num_inner
            progress(self._points_in_all - left, self._points_in_all)

    @property
    def _loss_names(self) -> tuple[str, ...]:
        return (*_PUBLISHED_LOSSES, *self.terms)

    @property
    def _weights(self) -> tuple[float, ...]:
        """λ of every loss after L_dist."""
        return (self.lambda_id, self.lambda_class, *(weighted.weight for weighted in self.terms.values()))

    @property
    def _divisor(self) -> int:
        """What the sums over points are divided by."""
        return self._num_inner if self.normalize else 1

    def _lines(self, w_a: Sequence[Tensor] | Tensor, w_b: Sequence[Tensor] | Tensor) -> Tensor:
        """The checked straight lines [P, T, *latent]."""
        w_dim = self.generator.w_dim
        for name, ends in (("w_a", w_a), ("w_b", w_b)):
            for w in ends:
                if not _is_latent(w) or w.shape[-1] != w_dim:
                    raise ConfigError(
                        f"{name} must be [w_dim] = [{w_dim}]: got {list(w.shape)}; [num_ws, {w_dim}] with num_ws ≥ 2 "
                        "would be a latent of W+."
                    )
                if not w.isfinite().all():
                    raise ConfigError(f"{name} has values that are not finite: repeat the inversion it comes from.")
        firsts, lasts = (
            [w.detach().as_subclass(Tensor).to(self.device, torch.float32) for w in ends] for ends in (w_a, w_b)
        )
        lines = [linear_path(first, last, self.num_points) for first, last in zip(firsts, lasts, strict=True)]
        shapes = {line.shape[1:]: None for line in lines}
        if len(shapes) > 1:
            raise ConfigError(f"The end points have the shapes {[list(s) for s in shapes]}: walk each on its own.")
        stacked = torch.stack(lines)
        if self.normalize and not (self._reference(stacked) > 0).all():
            raise ConfigError(
                "w_a and w_b are the same point, but normalize divides by their distance: choose two different "
                "anchors, or leave normalize out."
            )
        return stacked

    def _unit(self, lines: Tensor) -> Tensor:
        """The length in W of one unit of what Adam sees, [P]: 1, or by ``normalize`` ‖w_b − w_a‖ / √d."""
        if not self.normalize:
            return torch.ones(len(lines), device=lines.device)
        return (lines[:, -1] - lines[:, 0]).flatten(1).square().mean(1).sqrt()

    def _reference(self, lines: Tensor) -> Tensor:
        """What L_dist of each pair is divided by, [P]: 1, or L_dist of its straight line ‖w_b − w_a‖² / (T − 1)."""
        if not self.normalize:
            return torch.ones(len(lines), device=lines.device)
        return (lines[:, -1] - lines[:, 0]).flatten(1).square().sum(1) / (self.num_points - 1)

    def _rate(self, step: int) -> float:
        lr = self.lr if self._coarse is None else self.lr * _FINE_RATE
        done = 2 * step / max(self.steps, 1) - 1  # of the second half
        if self.schedule == "constant" or done <= 0:
            return lr
        return lr * (0.5 + 0.5 * math.cos(math.pi * done))

    def _total(self, losses: Tensor, lines: Tensor) -> Tensor:
        """L, [steps, P], of losses [steps, K, P] of pairs with these straight lines."""
        total = losses[:, 0] / self._reference(lines)
        for weight, loss in zip(self._weights, losses.unbind(1)[1:], strict=True):
            total = total + weight * loss / self._divisor
        return total

    def _losses_and_gradient(self, lines: Tensor, moving: Tensor, labels: Sequence[int]) -> tuple[Tensor, Tensor]:
        """All losses of each pair, [K, P], and ∂L/∂w̄ at the moving points [P, points, *latent]."""
        distance = _distances(lines, moving)
        (gradient,) = torch.autograd.grad(distance.sum(), moving)
        points, targets = self._points(moving.detach(), labels)

        def one_batch(part: slice) -> tuple[Tensor, Tensor]:
            w = points[part].requires_grad_()
            losses = self._point_losses(w, targets[part])
            pulling = self._weights[0] * losses[0]
            for weight, loss in zip(self._weights[1:], losses[1:], strict=True):
                pulling = pulling + weight * loss
            (pull,) = torch.autograd.grad(pulling.sum(), w)
            return torch.stack(losses).detach(), pull

        losses, pulls = zip(*self._in_batches(one_batch, len(points)), strict=True)
        gradient = gradient / _rows(self._reference(lines), gradient) + torch.cat(pulls).view_as(moving) / self._divisor
        return _of_pairs(distance.detach(), losses), gradient

    @torch.no_grad()
    def _losses(self, lines: Tensor, moving: Tensor, labels: Sequence[int]) -> Tensor:
        """All losses of each pair, [K, P]."""
        points, targets = self._points(moving, labels)
        losses = self._in_batches(
            lambda part: torch.stack(self._point_losses(points[part], targets[part])), len(points)
        )
        return _of_pairs(_distances(lines, moving), losses)

    def _points(self, moving: Tensor, labels: Sequence[int]) -> tuple[Tensor, list[int]]:
        """The moving points of all pairs in a row, [P · points, *latent], and the label of each."""
        return moving.flatten(0, 1), [label for label in labels for _ in range(self._num_inner)]

    def _point_losses(self, w: Tensor, labels: Sequence[int]) -> list[Tensor]:
        """What the points w [N, *latent] add to L_id, to L_class and to each further term, [N] each."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            images = self.generator.synthesis(w).clamp(-1, 1)
            identity_logits, class_logits = self.identity_net(images), self.class_net(images)
        _check_labels(labels, class_logits)
        targets = torch.tensor(labels, device=self.device)
        classes = functional.cross_entropy(class_logits.float(), targets, reduction="none")
        further = [weighted.term(w, images.float(), targets) for weighted in self.terms.values()]
        return [_identity_terms(identity_logits), classes, *further]

    def _check_finite(self, history: Tensor) -> None:
        """Look at losses [steps, K, P]."""
        bad = (~history.isfinite().all(1)).nonzero().tolist()
        if bad:
            step, pair = bad[0]
            named = zip(self._loss_names, history[step, :, pair].tolist(), strict=True)
            values = ", ".join(f"{name} {value:g}" for name, value in named)
            raise TrainingError(
                f"The walk's loss is not finite after {step} steps ({values}): lower lr, or check that the generator "
                "and the classifiers were trained to the end."
            )


def _along_path(matrix: Tensor, gradient: Tensor) -> Tensor:
    """``matrix`` [points, points] times each pair's ``gradient`` [P, points, *latent]."""
    return (matrix @ gradient.flatten(2)).view_as(gradient)


def _smoother(count: int, smoothing: float) -> Tensor:
    """(I + α Δ)⁻¹ for ``count`` points between fixed ends, [count, count]; Δ has 2 on its diagonal and −1 beside it."""
    beside = torch.ones(count - 1, dtype=torch.float64)
    second_difference = 2 * torch.eye(count, dtype=torch.float64) - beside.diag(1) - beside.diag(-1)
    return torch.linalg.inv(torch.eye(count, dtype=torch.float64) + smoothing * second_difference).float()


def _distances(lines: Tensor, moving: Tensor) -> Tensor:
    """L_dist of the moving points [P, points, *latent] that hang between the ends of ``lines``, [P]."""
    paths = torch.cat([lines[:, :1], moving, lines[:, -1:]], dim=1)
    return (paths[:, 1:] - paths[:, :-1]).flatten(2).square().sum((1, 2))


def _of_pairs(distance: Tensor, losses: Sequence[Tensor]) -> Tensor:
    """The sums over the points of each pair, [K, P], from L_dist [P] and the losses of batches of points [K − 1, N]."""
    of_points = torch.cat(list(losses), dim=1)
    return torch.cat([distance[None], of_points.view(len(of_points), len(distance), -1).sum(2)])
