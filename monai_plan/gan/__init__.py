"""The GAN: losses, differentiable augmentation and the Ignite trainer."""

from monai_plan.gan.augment import DifferentiableAugment
from monai_plan.gan.losses import logistic_d_loss, logistic_g_loss, path_lengths, r1_penalty
from monai_plan.gan.trainer import SampleSheetHandler, StyleGAN2Trainer, bf16_is_fast

__all__ = [
    "DifferentiableAugment",
    "SampleSheetHandler",
    "StyleGAN2Trainer",
    "bf16_is_fast",
    "logistic_d_loss",
    "logistic_g_loss",
    "path_lengths",
    "r1_penalty",
]
