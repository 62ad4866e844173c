"""Networks: the decoder contract, StyleGAN2 in two and three dimensions, autoencoders, files that hold networks."""

from monai_plan.networks.autoencoder import (
    ImageAutoencoder,
    load_autoencoder,
    new_autoencoder,
    save_autoencoder,
)
from monai_plan.networks.checkpoint import (
    classifier_outputs,
    is_imported,
    load_classifier,
    load_generator,
    save_classifier,
    save_generator,
)
from monai_plan.networks.classifier import resnet_classifier
from monai_plan.networks.decoder import LatentDecoder, register_decoder
from monai_plan.networks.discriminator import StyleGAN2Discriminator
from monai_plan.networks.export import OneInputGenerator, latent_items, one_input_generator
from monai_plan.networks.import_stylegan2 import load_stylegan2_pickle
from monai_plan.networks.running import BatchSplitter, frozen, images_at_once, prepare_networks
from monai_plan.networks.stylegan2 import (
    MappingNetwork,
    StyleGAN2Generator,
    SynthesisNetwork,
)

__all__ = [
    "BatchSplitter",
    "ImageAutoencoder",
    "LatentDecoder",
    "MappingNetwork",
    "OneInputGenerator",
    "StyleGAN2Discriminator",
    "StyleGAN2Generator",
    "SynthesisNetwork",
    "classifier_outputs",
    "frozen",
    "images_at_once",
    "is_imported",
    "latent_items",
    "load_autoencoder",
    "load_classifier",
    "load_generator",
    "load_stylegan2_pickle",
    "new_autoencoder",
    "one_input_generator",
    "prepare_networks",
    "register_decoder",
    "resnet_classifier",
    "save_autoencoder",
    "save_classifier",
    "save_generator",
]
