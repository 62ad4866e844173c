"""The Fréchet distance of the three ways to train over wall-clock time, and a sheet of samples of each.

    python benchmarks/gan_quality.py --dataset_dir cxr_pneumonia --weights squeezenet1_0.pth --output_dir OUT \\
        --img_size 64 --seconds 600 --device cuda

Only the training counts as time, measuring does not. The distance is that of pooled SqueezeNet-1.0 features, a backbone
that none of the three has seen; the discriminator on pretrained features has EfficientNet-lite0's. The floor is the
distance of the real test images to the training images. Started again with more seconds, each way goes on where it was.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from matplotlib.figure import Figure
from monai.transforms import Compose, LoadImaged, Resized, ScaleIntensityRanged

from monai_plan.bundle import ResumeHandler
from monai_plan.data import CheckedDataset
from monai_plan.gan import (
    AdaptiveStrength,
    BestGenerator,
    DifferentiableAugment,
    GANProgressBar,
    ProjectedDiscriminator,
    ResidentLoader,
    SampleSheetHandler,
    StyleGAN2Trainer,
    gan_defaults,
)
from monai_plan.metrics import embed, frechet_distance, perceptual_embedding
from monai_plan.networks import StyleGAN2Discriminator, StyleGAN2Generator
from monai_plan.utils import write_json

WAYS = ("logistic", "relativistic", "hinge")


class Clock:
    """Seconds of training, without what the handlers take; ends the training when they are up."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.curve = seconds, [0.0]

    def attach(self, engine: StyleGAN2Trainer) -> None:
        """Register with the trainer, before the handlers that measure."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: StyleGAN2Trainer) -> None:
        """Take in one epoch."""
        self.curve.append(self.curve[-1] + engine.state.times[Events.EPOCH_COMPLETED.name])
        if self.curve[-1] >= self.seconds:
            engine.terminate()

    def state_dict(self) -> dict[str, Any]:
        """The seconds after each epoch."""
        return {"curve": self.curve}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what ``state_dict`` gave."""
        self.curve = list(state["curve"])


def train(
    way: str, data: CheckedDataset, embedding: Any, options: argparse.Namespace
) -> list[tuple[float, int, float]]:
    """Train one way; (seconds, images, distance) after each epoch."""
    device, size = torch.device(options.device), [options.img_size] * 2
    defaults = gan_defaults(size)
    widths = {"channel_base": defaults.channel_base, "channel_max": defaults.channel_max}
    torch.manual_seed(0)
    generator = StyleGAN2Generator(
        2, size, 1, defaults.z_dim, defaults.w_dim, 2, mapping_layers=4, **widths
    ).to(device)  # fmt: skip
    if way == "hinge":
        discriminator = ProjectedDiscriminator(2, size, 1, 2, feature_size=options.feature_size).to(device)
    else:
        discriminator = StyleGAN2Discriminator(2, size, 1, 2, **widths).to(device)
    rate = 0.002 if way == "hinge" else defaults.learning_rate
    saved = {
        "generator": generator,
        "ema": copy.deepcopy(generator),
        "discriminator": discriminator,
        "g_optimizer": torch.optim.Adam(generator.parameters(), lr=rate, betas=(0.0, 0.99), fused=True),
        "d_optimizer": torch.optim.Adam(discriminator.parameters(), lr=rate, betas=(0.0, 0.99), fused=True),
    }
    regularisers = {
        "logistic": {"r1_weight": defaults.r1_weight},
        "relativistic": {"r1_weight": defaults.r1_weight, "r2_weight": defaults.r1_weight, "r1_interval": 4},
        "hinge": {"r1_weight": 0.0},
    }[way]
    augment = DifferentiableAugment(p=options.p)
    adaptive = AdaptiveStrength(augment, images_to_full=100_000) if options.adaptive and way != "hinge" else None
    folder = Path(options.output_dir) / way
    clock = Clock(options.seconds)
    best = BestGenerator(dataset=data, embedding=embedding, path=folder / "best.pt", every_images=1)
    states = {"clock": clock, "best": best} | ({"adaptive": adaptive} if adaptive is not None else {})
    trainer = StyleGAN2Trainer(
        device=device, max_epochs=1_000_000, epoch_length=-(-options.epoch_images // defaults.batch_size),
        train_data_loader=ResidentLoader(data, batch_size=defaults.batch_size, device=device),
        objective=way, augment=augment, adaptive=adaptive, ema_half_life=defaults.ema_half_life,
        **regularisers, **saved,
        train_handlers=[
            clock,
            SampleSheetHandler(path=folder / "samples.png", columns=12),
            best,
            ResumeHandler(path=folder / "checkpoint.pt", save_dict={**saved, **states}),
            GANProgressBar(desc=way),
        ],
    )  # fmt: skip
    trainer.run()
    return [(seconds, seen, value) for seconds, (seen, value) in zip(clock.curve[1:], best.history, strict=True)]


def load(options: argparse.Namespace, section: str) -> CheckedDataset:
    """One section of the data list."""
    steps = [
        LoadImaged(keys="image", ensure_channel_first=True),
        Resized(keys="image", spatial_size=[options.img_size] * 2, mode="area"),
        ScaleIntensityRanged(keys="image", a_min=0, a_max=255, b_min=-1.0, b_max=1.0, clip=True),
    ]
    return CheckedDataset(
        datalist_file=Path(options.dataset_dir) / "datalist.json", section=section, transform=Compose(steps),
        img_size=[options.img_size] * 2, img_channels=1, num_classes=2,
    )  # fmt: skip


def main() -> None:
    """Print the table and write ``curve.json``, ``curve.png`` and a sheet a way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("--weights", required=True, help="SqueezeNet 1.0's file")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--img_size", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--epoch_images", type=int, default=4000, help="between two measurements")
    parser.add_argument("--p", type=float, default=0.5, help="probability of augmentation, at the start if adaptive")
    parser.add_argument("--adaptive", action="store_true", help="adapt it (not with hinge)")
    parser.add_argument("--feature_size", type=int, help="of the projected discriminator (default: its own)")
    options = parser.parse_args()

    data, test = load(options, "training"), load(options, "test")
    embedding = perceptual_embedding("squeezenet1_0", spatial_dims=2, img_channels=1, weights=options.weights)
    features = [embed(embedding, part.images, device=options.device, pooled=True) for part in (data, test)]
    floor = frechet_distance(*features)
    curves = {way: train(way, data, embedding, options) for way in options.ways}
    write_json(Path(options.output_dir) / "curve.json", {"floor": floor, **curves})

    print(f"floor, {len(test)} real test images against {len(data)} training images: {floor / 1000:.1f} thousand")
    print("| way | seconds | images | images/s | Fréchet, last, thousand | best |\n|---|---:|---:|---:|---:|---:|")
    axes = (figure := Figure(figsize=(6, 4))).add_subplot()
    for way, curve in curves.items():
        seconds, seen, value = curve[-1]
        least = min(distance for *_, distance in curve)
        print(f"| {way} | {seconds:.0f} | {seen} | {seen / seconds:.0f} | {value / 1000:.1f} | {least / 1000:.1f} |")
        axes.plot([point[0] for point in curve], [point[2] / 1000 for point in curve], label=way)
    axes.axhline(floor / 1000, color="black", linestyle=":", label="real test images")
    axes.set(xlabel="seconds of training", ylabel="Fréchet distance, thousand", yscale="log")
    axes.legend()
    figure.savefig(Path(options.output_dir) / "curve.png", dpi=150, bbox_inches="tight")


if __name__ == "__main__":
    main()
