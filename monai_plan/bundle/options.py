"""The ids of a bundle that people set: what each is, in a few words, and what it may be. The stage check asks here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from monai_plan.data.intensity import INTENSITIES
from monai_plan.engines import ClassifierSettings
from monai_plan.gan.losses import OBJECTIVES
from monai_plan.gan.projected import BACKBONES
from monai_plan.latent import ANCHORS, WALKS, InversionSettings, SelectionSettings, WalkSettings
from monai_plan.metrics.perceptual import EMBEDDING_NAMES
from monai_plan.rules import Rule, check_rule, list_of, number, one_of, or_none, switch, text, whole
from monai_plan.utils import ConfigError

__all__ = ["OPTIONS", "check_options"]


def _is_there(device: Any) -> bool:
    try:
        return torch.zeros(1, device=device).item() == 0  # a meta device has no values
    except (RuntimeError, AssertionError):
        return False


def _is_autoencoder(value: Any) -> bool:
    return value in ("auto", None) or isinstance(value, Mapping)


_CLASSIFIER, _WALK, _INVERSION = ClassifierSettings.rules(), WalkSettings.rules(), InversionSettings.rules()
_SELECTION = SelectionSettings.rules()
_ABOVE_0 = number(lambda value: value > 0, "above 0 and finite")
_AT_LEAST_0 = number(lambda value: value >= 0, "at least 0 and finite")
_AUTOENCODER = "'auto', None, or a dict of the arguments of ImageAutoencoder"
_LEVELS = list_of(whole(1), 4)
_PERCENTILES: Rule = (lambda value: _RANGE[0](value) and value[0] >= 0 and value[1] <= 100, "two numbers in 0 to 100")
_RANGE: Rule = (
    lambda value: len(value) == 2 and all(abs(end) < float("inf") for end in value) and value[0] < value[1],
    "two numbers, the lower one first",
)

OPTIONS: dict[str, tuple[str, Rule]] = {
    # all stages
    "device": ("where to compute", (_is_there, "a device that is there, such as 'cpu' or 'cuda:0'")),
    "seed": ("of all that is drawn", whole(0)),
    "skip_bad_images": ("leave out images that cannot be used", switch),
    "spatial_dims": ("axes of an image", one_of(2, 3)),
    "img_size": ("elements of each axis, after resizing", list_of(whole(8), 2, 3)),
    "img_channels": ("1 for grey, 3 for RGB", whole(1)),
    "num_classes": ("labels are 0 to this number less one", whole(1)),
    "intensity": ("how values are scaled", one_of(*INTENSITIES)),
    "intensity_range": ("values of the files that become -1 and 1", or_none(_RANGE)),
    "intensity_percentiles": ("per cent of the values below -1 and 1", _PERCENTILES),
    "shape_by": ("how images come to img_size", one_of("resizing", "cropping")),
    "spacing": ("millimetres of an element along each axis, to resample to", or_none(list_of(_ABOVE_0, 2, 3))),
    "merge_duplicates": ("count patients who share a picture as one", switch),
    "perceptual": ("the perceptual distance", one_of(*EMBEDDING_NAMES)),
    "perceptual_weights": ("file of its weights", or_none(text)),
    # the GAN
    "objective": ("of the GAN", or_none(one_of(*OBJECTIVES))),
    "autoencoder": ("behind which the GAN works: its arguments; 'auto' chooses", (_is_autoencoder, _AUTOENCODER)),
    "autoencoder_weights": ("file of a published one's, in place of training", or_none(text)),
    "autoencoder_source": ("the data that a published one was trained on, for the card", or_none(text)),
    "autoencoder_epochs": ("epochs of its training", whole(1)),
    "autoencoder_epoch_steps": ("steps of such an epoch", whole(1)),
    "autoencoder_batch_size": ("images of such a step", whole(1)),
    "autoencoder_lr": ("learning rate of its training", _ABOVE_0),
    "z_dim": ("length of z", whole(1)),
    "w_dim": ("length of w", whole(1)),
    "channel_base": ("channels of a block times its length", whole(1)),
    "channel_max": ("channels of a block, at most", whole(1)),
    "backbone": ("pretrained features that aid the discriminator", one_of(*BACKBONES)),
    "backbone_weights": ("file of their weights", or_none(text)),
    "feature_size": ("pixels of the images that they see", or_none(whole(1))),
    "minutes": ("wall clock of the GAN's training, in place of total_images", or_none(_ABOVE_0)),
    "total_images": ("real images shown in all", whole(1)),
    "epoch_images": ("real images between two checkpoints", whole(1)),
    "batch_size": ("images of a step", whole(1)),
    "aid_weight": ("of the loss on pretrained features", _ABOVE_0),
    "class_weight": ("of the loss that tells the classes of images apart", _AT_LEAST_0),
    "variety_weight": ("of the loss that keeps generated images apart as real ones are", _AT_LEAST_0),
    "g_lr": ("learning rate of G", _ABOVE_0),
    "d_lr": ("learning rate of D", _ABOVE_0),
    "r1_weight": ("of the gradient penalty on real images", _AT_LEAST_0),
    "r1_interval": ("steps between two penalties", whole(1)),
    "r2_weight": ("of the gradient penalty on generated images", _AT_LEAST_0),
    "ema_half_life": ("of the moving average, in images", _ABOVE_0),
    "amp": ("bfloat16; None where it is fast", or_none(switch)),
    "metric_images": ("images between two measurements of G", whole(1)),
    "use_best": ("go on with the best G that was measured, or the last", switch),
    "tensorboard": ("write its logs; None if it is installed", or_none(switch)),
    # the encoder and the inversion
    "encoder_layers": ("blocks of each level", _LEVELS),
    "encoder_channels": ("channels of each level", _LEVELS),
    "encoder_epochs": ("epochs of the encoder", whole(1)),
    "encoder_epoch_steps": ("steps of such an epoch", whole(1)),
    "encoder_batch_size": ("images of such a step", whole(2)),
    "encoder_lr": ("learning rate of the encoder", _ABOVE_0),
    "encoder_noise": ("noise on its images, at most", _AT_LEAST_0),
    "inversion_init": ("where the inversion begins", one_of("encoder", "mean")),
    "inversion_space": ("where latents live", _INVERSION["space"]),
    "inversion_steps": ("steps of an inversion, at most", or_none(_INVERSION["steps"])),
    "inversion_lr": ("its learning rate", or_none(_INVERSION["lr"])),
    "inversion_starts": ("starts of every image", or_none(_INVERSION["starts"])),
    "inversion_patience": ("steps without progress that end it", or_none(_INVERSION["patience"])),
    "inversion_tolerance": ("what counts as progress", or_none(_INVERSION["tolerance"])),
    "inversion_batch_size": ("latents at a time", whole(1)),
    # the classifiers
    "classifier_layers": ("blocks of each level", _LEVELS),
    "classifier_channels": ("channels of each level", _LEVELS),
    "classifier_stride": ("of the first convolution", whole(1)),
    "classifier_lr": ("learning rate of φ_id and φ_class", _CLASSIFIER["lr"]),
    "classifier_batch_size": ("images of their steps", _CLASSIFIER["batch_size"]),
    "patience": ("validations without progress that end their training", _CLASSIFIER["patience"]),
    "identity_of": ("what φ_id tells apart", one_of("subject", "image")),
    "identity_epochs": ("epochs of φ_id", _CLASSIFIER["epochs"]),
    "identity_epsilon": ("strength of its adversarial training", _CLASSIFIER["epsilon"]),
    "class_epochs": ("epochs of φ_class", _CLASSIFIER["epochs"]),
    # anchors, walks and the release
    "anchor_kind": ("the ends of the walks: points of G's own distribution, or averages of patients", one_of(*ANCHORS)),
    "walk_kind": ("the walk, or none: the anchors leave themselves", one_of(*WALKS)),
    "prior_candidates": ("draws of G per anchor", _SELECTION["candidates"]),
    "prior_truncation": ("of these draws", _SELECTION["truncation"]),
    "prior_class_probability": ("of φ_class for an anchor, at least", _SELECTION["min_class_probability"]),
    "prior_latent_share": ("of the draws, left out for lying near to a patient in W", _SELECTION["latent_share"]),
    "prior_identity_share": ("of the draws, those that φ_id knows least", _SELECTION["identity_share"]),
    "k": (
        "patients behind an anchor",
        (whole(2)[0], "a whole number, best 5 or more: a centroid of 1 hides nobody"),
    ),
    "num_points": ("points of a path", _WALK["num_points"]),
    "num_images": ("synthetic images; None: as many as real ones", or_none(whole(1))),
    "balance": ("of the classes", one_of("real", "balanced")),
    "walk_steps": ("steps with all points", or_none(_WALK["steps"])),
    "walk_lr": ("learning rate of the walk", or_none(_WALK["lr"])),
    "walk_schedule": ("of this rate", or_none(_WALK["schedule"])),
    "walk_beta2": ("of Adam", or_none(_WALK["beta2"])),
    "walk_amp": ("bfloat16", _WALK["amp"]),
    "walk_normalize": ("relative to the straight line", _WALK["normalize"]),
    "walk_coarse_points": ("points of the coarse path before", or_none(_WALK["coarse_points"])),
    "walk_coarse_steps": ("steps with the coarse path", or_none(_WALK["coarse_steps"])),
    "lambda_id": ("weight of L_id", or_none(_WALK["lambda_id"])),
    "lambda_class": ("weight of L_class", or_none(_WALK["lambda_class"])),
    "lambda_margin": ("weight of the distance to real images", _AT_LEAST_0),
    "walk_margin": ("the distance that is enough; None: measured", or_none(_ABOVE_0)),
    "min_end_distance": ("from both ends of a path, as a share of its length", or_none(_WALK["min_end_distance"])),
    "min_distance_quantile": ("of the final check", or_none(number(lambda q: 0 <= q <= 1, "from 0 to 1"))),
    "points_per_batch": ("points at a time; None: found", or_none(whole(1))),
    "release_name": ("name of the synthetic data set", text),
    # the evaluation
    "evaluation_epochs": ("epochs of its classifiers", _CLASSIFIER["epochs"]),
    "evaluation_seeds": ("classifiers per row; 3 show a spread", whole(1)),
    "evaluation_batch_size": ("images of their steps", _CLASSIFIER["batch_size"]),
    "evaluation_lr": ("their learning rate", _CLASSIFIER["lr"]),
}


def check_options(options: Mapping[str, Any]) -> None:
    """Check the values of config ids, before anything is read or trained.

    Args:
        options: id to value; each id in ``OPTIONS``.

    Raises:
        ConfigError: naming the first id whose value cannot work, or that is not in the table.
    """
    for id, value in options.items():
        if id not in OPTIONS:
            raise ConfigError(f"{id} is not in the table of options: add it to monai_plan.bundle.options.")
        words, rule = OPTIONS[id]
        check_rule(id, value, rule, of=f" ({words})")
