"""How a classifier is run in its training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import SimpleInferer
from torch import Tensor, nn
from torch.nn import functional

from monai_plan.networks import frozen
from monai_plan.utils import ConfigError


class AdversarialInferer(SimpleInferer):
    """Shows a network in training adversarial images as well: what little changes would fool it, it learns to see.

    A walk minimises the opinion of φ_id and so finds images that fool it. Here the first half of every batch (rounded
    up), which a shuffling loader makes a random one, is moved by the fast gradient sign method (Goodfellow et al.,
    arXiv 1412.6572),

        x ← clamp(x + ε · sign ∇_x CE(φ(x), ŷ), −1, 1),      ŷ = argmax φ(x),

    with the network's own prediction for the label, as in virtual adversarial training (Miyato et al., arXiv
    1704.03976). The gradient is taken in eval mode and with frozen weights, so that batch statistics, dropout and the
    weights' gradients are not touched. A network in eval mode sees the images as they are, as do all with ε = 0.

    Args:
        epsilon: ε, at least 0; the images lie in [−1, 1], so 2/255 is a grey level of 8 bits.

    Raises:
        ConfigError: if ``epsilon`` is negative or not finite.
    """

    def __init__(self, *, epsilon: float = 0.0) -> None:
        if not 0 <= epsilon < math.inf:
            raise ConfigError(f"epsilon is {epsilon}, but must be at least 0 and finite; 0 moves no image.")
        super().__init__()
        self.epsilon = epsilon

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Any:
        """The network's output [B, n] for ``inputs`` [B, C, *spatial] in [−1, 1], half of them moved in training."""
        if self.epsilon and isinstance(network, nn.Module) and network.training:
            half = (len(inputs) + 1) // 2
            inputs = torch.cat([self._moved(inputs[:half], network, *args, **kwargs), inputs[half:]])
        return super().__call__(inputs, network, *args, **kwargs)

    def _moved(self, images: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        with frozen(network), torch.enable_grad():
            x = images.detach().requires_grad_()
            logits = network(x, *args, **kwargs).float()
            (gradient,) = torch.autograd.grad(functional.cross_entropy(logits, logits.argmax(1), reduction="sum"), x)
        return (images.detach() + self.epsilon * gradient.sign()).clamp(-1, 1)
