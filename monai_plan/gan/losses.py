"""The losses of the ways to train, and their regularisers.

Logistic and R1: StyleGAN2 (arXiv 1912.04958). Relativistic pairing with R1 and R2: R3GAN (arXiv
2501.05441). Hinge: Projected GAN (arXiv 2111.01007). Aided: the logistic loss of one discriminator and the hinge loss
of another on pretrained features, as in vision-aided GAN training (arXiv 2112.09130).

Logits are [B], or [B, L] from a discriminator that scores an image at L places; losses are means over all of them, in
"aided" over those of either discriminator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_plan.utils import ConfigError


def logistic_g_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating generator loss: mean of -log σ(D(G(z))). Logits [B] or [B, L] → scalar."""
    return F.softplus(-fake_logits).mean()


def logistic_d_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Discriminator loss: mean of -log σ(D(x)) plus mean of -log(1 - σ(D(G(z)))). Logits [B] or [B, L] → scalar."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def relativistic_d_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Relativistic pairing, discriminator (R3GAN, arXiv 2501.05441): mean of -log σ(D(x) - D(G(z))) over pairs.

    The loss sees no constant that is added to D, which in a conditional GAN may depend on the class and would decide
    every pair of different classes: the i-th generated image must be made with the i-th real one's label. Logits [B]
    or [B, L], of the same shape → scalar.

    Raises:
        ValueError: if the shapes differ, so that there are no pairs.
    """
    if real_logits.shape != fake_logits.shape:
        raise ValueError(
            f"real logits have shape {tuple(real_logits.shape)} and fake ones {tuple(fake_logits.shape)}, but they are "
            "compared in pairs: make as many fakes as there are reals, with the reals' labels."
        )
    return F.softplus(fake_logits - real_logits).mean()


def relativistic_g_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Relativistic pairing, generator: mean of -log σ(D(G(z)) - D(x)) over the pairs of ``relativistic_d_loss``."""
    return relativistic_d_loss(fake_logits, real_logits)


def hinge_g_loss(fake_logits: Tensor) -> Tensor:
    """Hinge loss, generator: minus the mean of D(G(z)). Logits [B] or [B, L] → scalar."""
    return -fake_logits.mean()


def hinge_d_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Hinge loss, discriminator: mean of max(0, 1 - D(x)) plus mean of max(0, 1 + D(G(z))). [B] or [B, L] → scalar.

    Of Projected GAN's discriminators, with equally many logits of each in [B, L], it is the mean.
    """
    return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()


def aided_d_loss(real_logits: Tensor, fake_logits: Tensor, *, aid_weight: float) -> Tensor:
    """Discriminator loss of an ``AidedDiscriminator``: logistic for its own logit + aid_weight · hinge for the others.

    After arXiv 2112.09130, section 3. Logits [B, 1 + L], the own one first → scalar.
    """
    own = logistic_d_loss(real_logits[:, 0], fake_logits[:, 0])
    return own + aid_weight * hinge_d_loss(real_logits[:, 1:], fake_logits[:, 1:])


def aided_g_loss(fake_logits: Tensor, *, aid_weight: float) -> Tensor:
    """Generator loss against an ``AidedDiscriminator``, see ``aided_d_loss``. Logits [B, 1 + L] → scalar."""
    return logistic_g_loss(fake_logits[:, 0]) + aid_weight * hinge_g_loss(fake_logits[:, 1:])


@dataclass(frozen=True)
class GANObjective:
    """The losses of the two players.

    Args:
        d_loss: (real logits, fake logits) → the discriminator's loss.
        generator_loss: (fake logits) or, in pairs, (real logits, fake logits) → the generator's loss.
        in_pairs: whether the generator's loss compares the i-th fake with the i-th real, of the same class: then the
            generator's step has to score real images too.
        aided: whether the losses take the logits of an ``AidedDiscriminator``.
    """

    d_loss: Callable[[Tensor, Tensor], Tensor]
    generator_loss: Callable[..., Tensor]
    in_pairs: bool = False
    aided: bool = False

    def g_loss(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        """The generator's loss; ``real_logits`` are needed, and used, only in pairs."""
        return self.generator_loss(real_logits, fake_logits) if self.in_pairs else self.generator_loss(fake_logits)


def _aided(aid_weight: float) -> GANObjective:
    return GANObjective(
        partial(aided_d_loss, aid_weight=aid_weight), partial(aided_g_loss, aid_weight=aid_weight), aided=True
    )


AID_WEIGHT = 0.3  # of 0.3 and 1 the one that is better after the first minutes
OBJECTIVES: Mapping[str, GANObjective] = {
    "aided": _aided(AID_WEIGHT),
    "logistic": GANObjective(logistic_d_loss, logistic_g_loss),
    "relativistic": GANObjective(relativistic_d_loss, relativistic_g_loss, in_pairs=True),
    "hinge": GANObjective(hinge_d_loss, hinge_g_loss),
}


def gan_objective(name: str, *, aid_weight: float = AID_WEIGHT) -> GANObjective:
    """The objective of that name.

    Args:
        name: "aided", "logistic", "relativistic" or "hinge".
        aid_weight: weight of the loss on pretrained features in "aided"; the others have none.

    Raises:
        ConfigError: if there is no such objective, or the weight is not above 0 and finite.
    """
    if name not in OBJECTIVES:
        raise ConfigError(f"there is no GAN objective {name!r}: use one of {', '.join(OBJECTIVES)}.")
    if name != "aided":
        return OBJECTIVES[name]
    if not 0 < aid_weight < math.inf:
        raise ConfigError(
            f"aid_weight is {aid_weight}, but must be above 0 and finite: to train without the pretrained features, "
            "use the objective logistic."
        )
    return _aided(aid_weight)


def variety_loss(fakes: Tensor, reals: Tensor, labels: Tensor | None) -> Tensor:
    """How much less images of a class differ among generated ones than among real ones: max(0, 1 − d_fake / d_real).

    d is the mean absolute difference of two images that follow each other when the batch is sorted by class. It works
    against mode collapse as the mode seeking term of Mao et al., CVPR 2019, arXiv 1903.05628, does, and asks for no
    more than the variety of the real images.

    Args:
        fakes, reals: [B, C, *spatial], the i-th of either of the same class.
        labels: [B] int; None: one class.

    Returns:
        Scalar in [0, 1], 0 where the generated images differ as much as the real ones.
    """
    order = torch.arange(len(reals), device=reals.device) if labels is None else labels.argsort(stable=True)
    fake, real = ((x[order] - x[order].roll(1, 0)).abs().mean() for x in (fakes.float(), reals.float()))
    return F.relu(1 - fake / real.clamp_min(1e-8))


def r1_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """The mean squared norm of the gradient of D at images: R1 at real ones, R2 at generated ones.

    Both are of Mescheder et al., arXiv 1801.04406. The logistic loss does with R1; the relativistic one diverges
    without R2 (arXiv 2501.05441).

    Args:
        logits: D(images), [B] or [B, L], with its graph; the gradient is that of the sum over L.
        images: [B, C, *spatial], a tensor that requires a gradient.

    Returns:
        Scalar E‖∇D(x)‖²; the objective holds γ/2 times it.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.float().square().flatten(1).sum(1).mean()
