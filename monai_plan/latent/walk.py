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
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from monai_plan.latent.generator import BatchSplitter, LatentGenerator, frozen, prepare_networks
from monai_plan.utils import ConfigError, TrainingError

__all__ = ["LatentWalk", "WalkResult", "class_loss", "distance_loss", "identity_loss", "linear_path"]

_CHECK_EVERY = 50  # steps between looks at the losses: each look makes the host wait for the device


def linear_path(w_a: Tensor, w_b: Tensor, num_points: int) -> Tensor:
    """The straight line w̄_t = w_a + (t − 1)/(T − 1) · (w_b − w_a), t = 1 … T, from which the walk starts.

    Args:
        w_a: [w_dim], the first point.
        w_b: [w_dim], the last point.
        num_points: T, at least 2.

    Returns:
        [T, w_dim]; the first and last row are exactly ``w_a`` and ``w_b``.

    Raises:
        ConfigError: if the shapes differ or are not [w_dim], or ``num_points`` is less than 2.
    """
    if w_a.ndim != 1 or w_a.shape != w_b.shape:
        raise ConfigError(f"w_a and w_b must both be [w_dim]: got {list(w_a.shape)} and {list(w_b.shape)}.")
    if num_points < 2:
        raise ConfigError(f"num_points must be at least 2, the two end points: got {num_points}.")
    # lerp is exact at 0 and 1.
    return torch.lerp(w_a, w_b, torch.linspace(0, 1, num_points, dtype=w_a.dtype, device=w_a.device)[:, None])


def distance_loss(path: Tensor) -> Tensor:
    """L_dist = Σ_{t=1}^{T−1} ‖w̄_{t+1} − w̄_t‖² (PLAN); least on the straight, evenly spaced line.

    Args:
        path: [T, w_dim].

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
        path: [T, w_dim], w̄_1 … w̄_T; the first and last row are the given end points.
        losses: ``"distance"``, ``"identity"`` and ``"class"``: L_dist, L_id and L_class, unweighted, [steps + 1] each:
            before every step and after the last.
        total: [steps + 1], L.
    """

    path: Tensor
    losses: dict[str, Tensor]
    total: Tensor


class LatentWalk:
    """Bend the straight line between two latents of a class away from the identities of the training set.

    Minimises L (see the module) over the inner points with Adam (0.9, 0.999), started from ``linear_path``; the end
    points stay fixed. During a call the networks are frozen and in eval mode, and after it as they were before;
    no gradient is left in them. No call depends on an earlier one, and no pair on those it is walked with.

    Args:
        generator: G, see ``LatentGenerator``.
        identity_net: φ_id, images [B, C, *spatial] in [−1, 1] → logits [B, n] over n ≥ 2 identities.
        class_net: φ_class, the same → logits [B, num_classes].
        num_points: T, at least 3, end points included.
        steps: Adam steps, at least 0; 0 gives the linear path with its losses.
        lr: learning rate of the first step, above 0.
        schedule: "constant", as published, or "decay", which lowers the rate to 0 by a cosine over the second half of
            the steps: Adam at a constant rate circles the minimum.
        smoothing: α ≥ 0. The gradient is multiplied by (I + α Δ)⁻¹ along the path before Adam sees it, Δ the second
            difference between fixed ends, half of L_dist's Hessian. L stays as it is, but stiff zigzags no longer
            hold the steps back: with α = 10 fewer steps reach the same L (docs/results.md). 0, as published, is off.
        lambda_id: λ_id, at least 0.
        lambda_class: λ_class, at least 0.
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
        generator: LatentGenerator,
        identity_net: nn.Module,
        class_net: nn.Module,
        *,
        num_points: int = 50,
        steps: int = 500,
        lr: float = 0.1,
        schedule: str = "constant",
        smoothing: float = 0.0,
        lambda_id: float = 0.025,
        lambda_class: float = 0.25,
        points_per_batch: int | None = None,
        amp: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        if num_points < 3:
            raise ConfigError(f"num_points must be at least 3, two end points and one between: got {num_points}.")
        for name, value, valid in (
            ("steps", steps, steps >= 0),
            ("lr", lr, 0 < lr < math.inf),
            ("schedule", schedule, schedule in ("constant", "decay")),
            ("smoothing", smoothing, 0 <= smoothing < math.inf),
            ("lambda_id", lambda_id, 0 <= lambda_id < math.inf),
            ("lambda_class", lambda_class, 0 <= lambda_class < math.inf),
            ("points_per_batch", points_per_batch, points_per_batch is None or points_per_batch >= 1),
        ):
            if not valid:
                raise ConfigError(f"{name} of the walk is {value}, outside its range: see LatentWalk.")
        self.device = prepare_networks(generator, identity_net, class_net, device=device)
        self.generator = generator
        self.identity_net = identity_net
        self.class_net = class_net
        self.num_points = num_points
        self.steps = steps
        self.lr = lr
        self.schedule = schedule
        self.smoothing = smoothing
        self.lambda_id = lambda_id
        self.lambda_class = lambda_class
        self.amp = amp
        if points_per_batch is None:
            points_per_batch = num_points - 2 if self.device.type == "cpu" else max(1024, num_points - 2)
        self._in_batches = BatchSplitter(points_per_batch)

    @property
    def pairs_per_batch(self) -> int:
        """How many pairs fill one batch of points; walking as many at once keeps a GPU busy."""
        return max(self._in_batches.size // (self.num_points - 2), 1)

    def __call__(
        self, w_a: Tensor, w_b: Tensor, label: int, *, progress: Callable[[int, int], None] | None = None
    ) -> WalkResult:
        """Walk from ``w_a`` to ``w_b``.

        Args:
            w_a: [w_dim], the first point.
            w_b: [w_dim], the last point.
            label: y, the class of both.
            progress: called with (steps done, steps in all) after every step.

        Returns:
            The path and its losses.

        Raises:
            ConfigError: if an end point is not [w_dim] or not finite, or the label lies outside the classes.
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
            w_a: the first points of P pairs, [w_dim] each.
            w_b: the last points.
            labels: y of each pair.
            progress: called with (steps done, steps in all) after every step.

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
        lines = torch.stack([self._line(a, b) for a, b in zip(w_a, w_b, strict=True)])
        inner = lines[:, 1:-1].clone().requires_grad_()
        adam = torch.optim.Adam([inner], lr=self.lr, betas=(0.9, 0.999))
        smoother = _smoother(self.num_points - 2, self.smoothing).to(self.device) if self.smoothing else None
        history = torch.zeros(self.steps + 1, 3, len(labels), device=self.device)
        with torch.enable_grad(), frozen(self.generator, self.identity_net, self.class_net):
            for step in range(self.steps):
                adam.param_groups[0]["lr"] = self._rate(step)
                history[step], gradient = self._losses_and_gradient(lines, inner, labels)
                inner.grad = gradient if smoother is None else smoother @ gradient
                adam.step()
                if step % _CHECK_EVERY == 0:
                    _check_finite(history[: step + 1])
                if progress is not None:
                    progress(step + 1, self.steps)
            history[-1] = self._losses(lines, inner.detach(), labels)
        _check_finite(history)

        lines[:, 1:-1] = inner.detach()
        return [self._result(path, losses) for path, losses in zip(lines.cpu(), history.cpu().unbind(2), strict=True)]

    def _line(self, w_a: Tensor, w_b: Tensor) -> Tensor:
        """The checked straight line [T, w_dim]."""
        for name, w in (("w_a", w_a), ("w_b", w_b)):
            if w.shape != (self.generator.w_dim,):
                raise ConfigError(f"{name} must be [w_dim] = [{self.generator.w_dim}]: got {list(w.shape)}.")
            if not w.isfinite().all():
                raise ConfigError(f"{name} has values that are not finite: repeat the inversion it comes from.")
        w_a, w_b = (w.detach().as_subclass(Tensor).to(self.device, torch.float32) for w in (w_a, w_b))
        return linear_path(w_a, w_b, self.num_points)

    def _rate(self, step: int) -> float:
        done = 2 * step / self.steps - 1  # of the second half
        if self.schedule == "constant" or done <= 0:
            return self.lr
        return self.lr * (0.5 + 0.5 * math.cos(math.pi * done))

    def _result(self, path: Tensor, losses: Tensor) -> WalkResult:
        distance, identity, classes = losses.unbind(1)
        return WalkResult(
            path=path,
            losses={"distance": distance, "identity": identity, "class": classes},
            total=distance + self.lambda_id * identity + self.lambda_class * classes,
        )

    def _losses_and_gradient(self, lines: Tensor, inner: Tensor, labels: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(L_dist, L_id, L_class) of each pair, [3, P], and ∂L/∂w̄ at the inner points [P, T − 2, w_dim]."""
        distance = _distances(lines, inner)
        (gradient,) = torch.autograd.grad(distance.sum(), inner)
        points, targets = self._points(inner.detach(), labels)

        def one_batch(part: slice) -> tuple[Tensor, Tensor]:
            w = points[part].requires_grad_()
            identity, classes = self._point_losses(w, targets[part])
            (pull,) = torch.autograd.grad((self.lambda_id * identity + self.lambda_class * classes).sum(), w)
            return torch.stack([identity, classes]).detach(), pull

        terms, pulls = zip(*self._in_batches(one_batch, len(points)), strict=True)
        return _of_pairs(distance.detach(), terms), gradient + torch.cat(pulls).view_as(inner)

    @torch.no_grad()
    def _losses(self, lines: Tensor, inner: Tensor, labels: Sequence[int]) -> Tensor:
        """(L_dist, L_id, L_class) of each pair, [3, P]."""
        points, targets = self._points(inner, labels)
        terms = self._in_batches(lambda part: torch.stack(self._point_losses(points[part], targets[part])), len(points))
        return _of_pairs(_distances(lines, inner), terms)

    def _points(self, inner: Tensor, labels: Sequence[int]) -> tuple[Tensor, list[int]]:
        """All inner points of all pairs, [P · (T − 2), w_dim], and the label of each."""
        return inner.flatten(0, 1), [label for label in labels for _ in range(self.num_points - 2)]

    def _point_losses(self, w: Tensor, labels: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The terms of L_id and L_class of the points w [N, w_dim], [N] each."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            images = self.generator.synthesis(w).clamp(-1, 1)
            identity_logits, class_logits = self.identity_net(images), self.class_net(images)
        _check_labels(labels, class_logits)
        targets = torch.tensor(labels, device=self.device)
        return _identity_terms(identity_logits), functional.cross_entropy(
            class_logits.float(), targets, reduction="none"
        )


def _smoother(count: int, smoothing: float) -> Tensor:
    """(I + α Δ)⁻¹ for ``count`` points between fixed ends, [count, count]; Δ has 2 on its diagonal and −1 beside it."""
    beside = torch.ones(count - 1, dtype=torch.float64)
    second_difference = 2 * torch.eye(count, dtype=torch.float64) - beside.diag(1) - beside.diag(-1)
    return torch.linalg.inv(torch.eye(count, dtype=torch.float64) + smoothing * second_difference).float()


def _distances(lines: Tensor, inner: Tensor) -> Tensor:
    """L_dist of the inner points [P, T − 2, w_dim] between the fixed ends of ``lines``, [P]."""
    paths = torch.cat([lines[:, :1], inner, lines[:, -1:]], dim=1)
    return (paths[:, 1:] - paths[:, :-1]).square().sum((1, 2))


def _of_pairs(distance: Tensor, terms: Sequence[Tensor]) -> Tensor:
    """The sums over the points of each pair, [3, P], from L_dist [P] and the terms of batches of points [2, N]."""
    sums = torch.cat(list(terms), dim=1).view(2, len(distance), -1).sum(2)
    return torch.cat([distance[None], sums])


def _check_finite(history: Tensor) -> None:
    """Look at losses [steps, 3, P]."""
    bad = (~history.isfinite().all(1)).nonzero().tolist()
    if bad:
        step, pair = bad[0]
        names = ("distance", "identity", "class")
        values = ", ".join(f"{n} {v:g}" for n, v in zip(names, history[step, :, pair].tolist(), strict=True))
        raise TrainingError(
            f"The walk's loss is not finite after {step} steps ({values}): lower lr, or check that the generator "
            "and the classifiers were trained to the end."
        )
