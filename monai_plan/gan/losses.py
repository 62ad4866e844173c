"""The losses of StyleGAN2 (arXiv 1912.04958): non-saturating logistic, R1 and path length."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["logistic_d_loss", "logistic_g_loss", "path_lengths", "r1_penalty"]


def logistic_g_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating generator loss: mean of -log σ(D(G(z))). Logits [B] → scalar."""
    return F.softplus(-fake_logits).mean()


def logistic_d_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Discriminator loss: mean of -log σ(D(x)) plus mean of -log(1 - σ(D(G(z)))). Logits [B] → scalar."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def r1_penalty(real_logits: Tensor, images: Tensor) -> Tensor:
    """R1 (Mescheder et al., arXiv 1801.04406): the mean squared norm of the gradient of D at the real images.

    Args:
        real_logits: D(images) [B], with its graph.
        images: [B, C, *spatial], a tensor that requires a gradient.

    Returns:
        Scalar E‖∇D(x)‖²; the objective holds γ/2 times it.
    """
    (gradient,) = torch.autograd.grad(real_logits.sum(), images, create_graph=True)
    return gradient.float().square().flatten(1).sum(1).mean()


def path_lengths(synthesis: nn.Module, w: Tensor) -> Tensor:
    """‖J_wᵀ y‖₂ for images y of normal noise divided by √(number of pixels) (arXiv 1912.04958, eq. 4).

    Args:
        synthesis: w [B, w_dim] → images [B, C, *spatial].
        w: [B, w_dim], requires a gradient.

    Returns:
        [B]; the penalty is the squared difference to their running mean.
    """
    images = synthesis(w)
    y = torch.randn_like(images) / math.sqrt(math.prod(images.shape[2:]))
    (gradient,) = torch.autograd.grad((images * y).sum(), w, create_graph=True)
    return gradient.float().square().sum(1).sqrt()
