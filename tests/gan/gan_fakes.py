"""A tiny trainer and its parts."""

from __future__ import annotations

import copy

import torch
from torch.utils.data import DataLoader

from monai_plan.engines import ResumeHandler
from monai_plan.gan import OBJECTIVES, AidedDiscriminator, ProjectedDiscriminator, ResidentLoader, StyleGAN2Trainer
from monai_plan.networks import StyleGAN2Discriminator, StyleGAN2Generator

# (spatial_dims, objective): features are of 2D images only
PLAYED = [(dims, objective) for dims in (2, 3) for objective in OBJECTIVES if (dims, objective) != (3, "aided")]


class Images:
    """What the loader needs of a ``CheckedDataset``."""

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.images)


def make_discriminator(spatial_dims=2, num_classes=2, *, objective="logistic", channel_max=4):
    """The smallest that goes with an objective."""
    own = StyleGAN2Discriminator(spatial_dims, 8, 1, num_classes, channel_base=64, channel_max=channel_max)
    if objective != "aided":
        return own
    aid = ProjectedDiscriminator(2, 8, 1, num_classes, backbone="random", width=4, embed_dim=4, feature_size=32)
    return AidedDiscriminator(own, aid)


def make_trainer(
    spatial_dims=2,
    num_classes=2,
    *,
    folder=None,
    handlers=(),
    best=None,
    seed=0,
    channel_max=4,
    num_images=8,
    images=None,
    batch_size=4,
    lr=0.002,
    d_lr=None,
    resident=False,
    discriminator=None,
    **options,
):
    """A trainer; with ``folder`` it keeps a checkpoint there, of ``best`` too, as the bundle's does."""
    torch.manual_seed(seed)
    size = {"channel_base": 64, "channel_max": channel_max}
    generator = StyleGAN2Generator(spatial_dims, 8, 1, 5, 6, num_classes, mapping_layers=2, **size)
    if discriminator is None:
        objective = options.get("objective", "logistic")
        discriminator = make_discriminator(spatial_dims, num_classes, objective=objective, channel_max=channel_max)
    ema = copy.deepcopy(generator)
    g_optimizer = torch.optim.Adam(generator.parameters(), lr=lr, betas=(0.0, 0.99))
    d_optimizer = torch.optim.Adam(discriminator.parameters(), lr=lr if d_lr is None else d_lr, betas=(0.0, 0.99))
    saved = {
        "generator": generator,
        "ema": ema,
        "discriminator": discriminator,
        "g_optimizer": g_optimizer,
        "d_optimizer": d_optimizer,
    }
    if images is None:
        images = torch.rand(num_images, 1, *(8,) * spatial_dims) * 2 - 1
    data = [{"image": x, "label": i % 2} for i, x in enumerate(images)]
    loader = DataLoader(data, batch_size=batch_size, drop_last=True)
    if resident:
        loader = ResidentLoader(Images(images, torch.arange(len(images)) % 2), batch_size=batch_size)
    adaptive = {"adaptive": options["adaptive"]} if "adaptive" in options else {}
    states = saved | adaptive | {"best": best}
    resume = [ResumeHandler(path=folder / "checkpoint.pt", save_dict=states)] if folder is not None else []
    watched = [best] if best is not None else []
    return StyleGAN2Trainer(
        device="cpu",
        train_data_loader=loader,
        **saved,
        train_handlers=[*watched, *resume, *handlers],
        **{"max_epochs": 1, "amp": False, **options},
    )


class On:
    """A handler made of a function."""

    def __init__(self, event, function):
        self.event, self.function = event, function

    def attach(self, engine):
        engine.add_event_handler(self.event, self.function)
