"""The GAN: losses, adaptive augmentation, the Ignite trainer, and what shows how it goes."""

from monai_plan.gan.aided import AidedDiscriminator, gan_discriminator
from monai_plan.gan.augment import AdaptiveStrength, DifferentiableAugment
from monai_plan.gan.defaults import GANDefaults, gan_defaults
from monai_plan.gan.loader import ResidentLoader
from monai_plan.gan.losses import (
    OBJECTIVES,
    GANObjective,
    aided_d_loss,
    aided_g_loss,
    gan_objective,
    hinge_d_loss,
    hinge_g_loss,
    logistic_d_loss,
    logistic_g_loss,
    r1_penalty,
    relativistic_d_loss,
    relativistic_g_loss,
)
from monai_plan.gan.projected import ProjectedDiscriminator
from monai_plan.gan.trainer import StyleGAN2Trainer, bf16_is_fast
from monai_plan.gan.watch import BestGenerator, GANProgressBar, SampleSheetHandler, summary_writer

__all__ = [
    "OBJECTIVES",
    "AdaptiveStrength",
    "AidedDiscriminator",
    "BestGenerator",
    "DifferentiableAugment",
    "GANDefaults",
    "GANObjective",
    "GANProgressBar",
    "ProjectedDiscriminator",
    "ResidentLoader",
    "SampleSheetHandler",
    "StyleGAN2Trainer",
    "aided_d_loss",
    "aided_g_loss",
    "bf16_is_fast",
    "gan_defaults",
    "gan_discriminator",
    "gan_objective",
    "hinge_d_loss",
    "hinge_g_loss",
    "logistic_d_loss",
    "logistic_g_loss",
    "r1_penalty",
    "relativistic_d_loss",
    "relativistic_g_loss",
    "summary_writer",
]
