"""The GAN: losses, adaptive augmentation, the Ignite trainer, and what shows how it goes."""

from monai_plan.gan.aided import AidedDiscriminator, gan_discriminator
from monai_plan.gan.augment import AdaptiveStrength, DifferentiableAugment
from monai_plan.gan.autoencoding import (
    AutocastInferer,
    AutoencoderBatches,
    AutoencoderLoss,
    BeforeDecoderInferer,
    LatentImages,
    latent_images,
)
from monai_plan.gan.defaults import GANDefaults, gan_defaults
from monai_plan.gan.loader import ResidentLoader
from monai_plan.gan.losses import OBJECTIVES, GANObjective, gan_objective
from monai_plan.gan.outlook import Outlook, outlook
from monai_plan.gan.projected import ProjectedDiscriminator, frozen_features
from monai_plan.gan.trainer import StyleGAN2Trainer
from monai_plan.gan.watch import BestGenerator, GANProgressBar, SampleSheetHandler, summary_writer

__all__ = [
    "OBJECTIVES",
    "AdaptiveStrength",
    "AidedDiscriminator",
    "AutocastInferer",
    "AutoencoderBatches",
    "AutoencoderLoss",
    "BeforeDecoderInferer",
    "BestGenerator",
    "DifferentiableAugment",
    "GANDefaults",
    "GANObjective",
    "GANProgressBar",
    "LatentImages",
    "Outlook",
    "ProjectedDiscriminator",
    "ResidentLoader",
    "SampleSheetHandler",
    "StyleGAN2Trainer",
    "frozen_features",
    "gan_defaults",
    "gan_discriminator",
    "gan_objective",
    "latent_images",
    "outlook",
    "summary_writer",
]
