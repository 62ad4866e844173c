"""The objective of the walk, of many paths at once, and its gradient: L_dist and the sum of the weighted terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from monai_plan.latent.path import distance_loss, per_row
from monai_plan.latent.settings import WalkSettings
from monai_plan.networks import BatchSplitter, LatentDecoder


class WalkObjective:
    """With c = n = 1, or, relative to the straight line, c = ‖w_b − w_a‖² / (T − 1) and n = T − 2,

        L = L_dist / c + 1/n · Σ_term λ_term · Σ_{t=2}^{T−1} term(w̄_t, x̄_t, y),    x̄_t = clamp(G(w̄_t), −1, 1)

    Paths are given by their straight lines [P, T, *latent], of which the ends count, and by their inner points
    [P, T − 2, *latent]. With ``min_end_distance`` these, n and the sums of terms are of the points that move, and
    L_dist is that of ``whole``.

    Args:
        generator: G.
        terms: by name, each (w [N, *latent], images x̄ [N, C, *spatial] in [−1, 1], labels [N] int64 on the CPU) → [N]
            float32.
        settings: λ of each term, and whether L is relative to the straight line.
        in_batches: how many points are synthesised at once.
    """

    def __init__(
        self,
        generator: LatentDecoder,
        terms: Mapping[str, nn.Module],
        settings: WalkSettings,
        in_batches: BatchSplitter,
    ) -> None:
        self.generator, self.terms, self.settings = generator, terms, settings
        self._weights = [settings.weights[name] for name in terms]
        self._in_batches = in_batches

    @property
    def names(self) -> tuple[str, ...]:
        """Of the K losses: L_dist and each term."""
        return ("distance", *self.terms)

    def unit(self, lines: Tensor) -> Tensor:
        """The length in W in which Adam counts, [P]: 1, or, relative to the straight line, ‖w_b − w_a‖ / √d."""
        if not self.settings.normalize:
            return torch.ones(len(lines), device=lines.device)
        return (lines[:, -1] - lines[:, 0]).flatten(1).square().mean(1).sqrt()

    def reference(self, lines: Tensor) -> Tensor:
        """c, [P]."""
        if not self.settings.normalize:
            return torch.ones(len(lines), device=lines.device)
        return (lines[:, -1] - lines[:, 0]).flatten(1).square().sum(1) / (lines.shape[1] - 1)

    def total(self, losses: Tensor, lines: Tensor) -> Tensor:
        """L, [steps, P], of losses [steps, K, P] of paths with these straight lines."""
        total = losses[:, 0] / self.reference(lines)
        for weight, loss in zip(self._weights, losses.unbind(1)[1:], strict=True):
            total = total + weight * loss / self._divisor
        return total

    def losses_and_gradient(self, lines: Tensor, inner: Tensor, labels: Sequence[int]) -> tuple[Tensor, Tensor]:
        """All losses of each path, unweighted sums, [K, P], and ∂L/∂w̄ at the inner points, in their shape."""
        inner = inner.detach().requires_grad_()
        distance = distance_loss(self.whole(lines, inner))
        (gradient,) = torch.autograd.grad(distance.sum(), inner)
        points, targets = _points(inner.detach(), labels)

        def one_batch(part: slice) -> tuple[Tensor, Tensor]:
            w = points[part].requires_grad_()
            losses = self._of_points(w, targets[part])
            weighted = [weight * loss for weight, loss in zip(self._weights, losses, strict=True)]
            pulling = sum(weighted[1:], start=weighted[0])
            (pull,) = torch.autograd.grad(pulling.sum(), w)
            return torch.stack(losses).detach(), pull

        losses, pulls = zip(*self._in_batches(one_batch, len(points)), strict=True)
        gradient = gradient / per_row(self.reference(lines), gradient)
        gradient = gradient + torch.cat(pulls).view_as(inner) / self._divisor
        return _of_paths(distance.detach(), losses), gradient

    @torch.no_grad()
    def losses(self, lines: Tensor, inner: Tensor, labels: Sequence[int]) -> Tensor:
        """All losses of each path, unweighted sums, [K, P]."""
        points, targets = _points(inner, labels)
        losses = self._in_batches(lambda part: torch.stack(self._of_points(points[part], targets[part])), len(points))
        return _of_paths(distance_loss(self.whole(lines, inner)), losses)

    def moving(self, paths: Tensor) -> Tensor:
        """The points of whole paths [P, T, *latent] that move."""
        return paths[:, 1 + self.settings.num_idle : paths.shape[1] - 1 - self.settings.num_idle]

    def whole(self, lines: Tensor, inner: Tensor) -> Tensor:
        """The whole paths [P, T, *latent]: the idle points lie evenly between the ends and what moves."""
        start, end = lines[:, :1], lines[:, -1:]
        if num_idle := self.settings.num_idle:
            place = per_row(torch.linspace(0, 1, num_idle + 2, device=lines.device)[:-1], lines[0])
            start = torch.lerp(start, inner[:, :1], place)
            end = torch.lerp(end, inner[:, -1:], place).flip(1)
        return torch.cat([start, inner, end], dim=1)

    @property
    def _divisor(self) -> int:
        """n."""
        return self.settings.num_moving if self.settings.normalize else 1

    def _of_points(self, w: Tensor, labels: Tensor) -> list[Tensor]:
        """What the points w [N, *latent] add to each term, [N] each."""
        with torch.autocast(w.device.type, torch.bfloat16, enabled=self.settings.amp):
            images = self.generator.synthesis(w).clamp(-1, 1)
        return [term(w, images.float(), labels) for term in self.terms.values()]


def _points(inner: Tensor, labels: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The inner points of all paths one after the other, [P · (T − 2), *latent], and their labels, on the CPU."""
    return inner.flatten(0, 1), torch.tensor(labels).repeat_interleave(inner.shape[1])


def _of_paths(distance: Tensor, losses: Sequence[Tensor]) -> Tensor:
    """The sums over the points of each path, [K, P], from L_dist [P] and the losses of batches of points [K − 1, N]."""
    of_points = torch.cat(list(losses), dim=1)
    return torch.cat([distance[None], of_points.view(len(of_points), len(distance), -1).sum(2)])
