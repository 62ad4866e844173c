"""Images as a release holds them: what G makes of latents, clamped and with 8 bits per value."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_plan.networks import LatentDecoder, images_at_once

__all__ = ["synthesize_images"]


@torch.no_grad()
def synthesize_images(generator: LatentDecoder, latents: Tensor) -> Tensor:
    """x̄ = clamp(G(w), −1, 1) with 8 bits per value, as a release holds it.

    Args:
        generator: G, in eval mode.
        latents: w [N, w_dim] or [N, num_ws, w_dim].

    Returns:
        [N, C, *spatial], on the CPU, in [−1, 1].
    """
    device = next(generator.parameters()).device
    images, batch_size = torch.empty(0), images_at_once(generator.img_size)
    for start in range(0, len(latents), batch_size):
        made = generator.synthesis(latents[start : start + batch_size].to(device)).clamp(-1, 1).cpu()
        if not start:
            images = made.new_empty(len(latents), *made.shape[1:])
        images[start : start + batch_size] = ((made + 1) * 127.5).round() / 127.5 - 1
    return images
