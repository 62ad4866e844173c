"""Where the mapping puts w: its mean and its spread, measured once for all that begin there or count in it."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_plan.networks import LatentDecoder, frozen
from monai_plan.utils import TrainingError, seeded_generator


@torch.no_grad()
def w_statistics(
    generator: LatentDecoder, labels: Tensor | None = None, *, num_samples: int = 10_000, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """E w and σ_w, σ_w² = E ‖w − E w‖², of w = mapping(z, y), z ~ N(0, I), for each label or over all classes.

    Args:
        generator: G, on the device where to draw; only its mapping is used.
        labels: [N] int, the classes y; None, or an unconditional G: y is uniform over the classes.
        num_samples: draws of z, the same for each class, at least 2.
        seed: of the draws.

    Returns:
        E w [N, w_dim] and σ_w [N], float32, on the CPU; of N = 1 without labels.

    Raises:
        TrainingError: if the mapping gives values that are not finite.
    """
    rng = seeded_generator(seed, "mean")
    device = next(generator.parameters()).device
    z = torch.randn(num_samples, generator.z_dim, generator=rng).to(device)
    draws: list[Tensor | None]
    if generator.num_classes == 0:
        draws, rows = [None], torch.zeros(1 if labels is None else len(labels), dtype=torch.int64)
    elif labels is None:
        draws, rows = [torch.randint(generator.num_classes, (num_samples,), generator=rng)], torch.zeros(1).long()
    else:
        classes, rows = labels.cpu().unique(return_inverse=True)
        draws = [torch.full((num_samples,), int(label)) for label in classes]
    with frozen(generator):
        ws = [generator.mapping(z, None if y is None else y.to(device)).cpu().float() for y in draws]
    means = torch.stack([w.mean(0) for w in ws])
    sigmas = torch.stack([(w - w.mean(0)).square().sum(1).mean().sqrt() for w in ws])
    if not sigmas.isfinite().all():
        raise TrainingError("The generator's mapping gives values that are not finite: train the generator again.")
    return means[rows], sigmas[rows]
