"""Networks: StyleGAN2 in two and three dimensions, and files that hold a generator with its architecture."""

from monai_plan.networks.checkpoint import (
    classifier_outputs,
    load_classifier,
    load_discriminator,
    load_generator,
    save_classifier,
    save_generator,
)
from monai_plan.networks.classifier import resnet_classifier
from monai_plan.networks.export import OneInputGenerator
from monai_plan.networks.import_stylegan2 import load_stylegan2_pickle
from monai_plan.networks.stylegan2 import (
    MappingNetwork,
    StyleGAN2Discriminator,
    StyleGAN2Generator,
    SynthesisNetwork,
)

__all__ = [
    "MappingNetwork",
    "OneInputGenerator",
    "StyleGAN2Discriminator",
    "StyleGAN2Generator",
    "SynthesisNetwork",
    "classifier_outputs",
    "load_classifier",
    "load_discriminator",
    "load_generator",
    "load_stylegan2_pickle",
    "resnet_classifier",
    "save_classifier",
    "save_generator",
]
