"""The Fréchet distance of the ways to train over wall-clock time, and a sheet of samples of each.

    python benchmarks/gan_quality.py --dataset_dir cxr_pneumonia --weights squeezenet1_0.pth --output_dir OUT \\
        --img_size 64 --seconds 600 --device cuda

Each way's last generator is also judged by what a classifier learns from it: a ResNet-18 is trained on as many samples
as there are training images, class by class, and tested on the real test images, with several seeds; the row "real"
trains on the training images. The mean stands with half the width of the 95 % interval of the seeds (Student's t).

The ways "decoder" and "decoder, aided" have the objectives logistic and aided, behind the autoencoder of a run in the
folder ``--autoencoder OUT``; their seconds begin with those of its stage ``train_autoencoder``:

    python -m monai_plan run chest_xray_plan --dataset_dir cxr_pneumonia --output_dir OUT --img_size "[128,128]" \\
        --perceptual squeezenet1_0 --perceptual_weights squeezenet1_0.pth --only check train_autoencoder \\
        --autoencoder '{"channels": [16, 32, 64], "latent_channels": 8}'

Only the training counts as time, measuring does not. The distance is that of pooled SqueezeNet-1.0 features, a backbone
that none of them has seen; the discriminators on pretrained features have EfficientNet-lite0's. The floor is the
distance of the real test images to the training images; an autoencoder's perceptual loss has the same features as the
judge, which flatters it. Started again with more seconds, each way goes on where it was.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from matplotlib.figure import Figure
from monai.transforms import Compose, LoadImaged, Resized, ScaleIntensityRanged
from scipy import stats
from torch import Tensor

from monai_plan.data import CheckedDataset
from monai_plan.engines import (
    ClassifierSettings,
    ResumeHandler,
    classification_scores,
    fit_classifier,
    new_classifier,
    predict_probabilities,
)
from monai_plan.gan import (
    AdaptiveStrength,
    BeforeDecoderInferer,
    BestGenerator,
    DifferentiableAugment,
    GANProgressBar,
    ResidentLoader,
    SampleSheetHandler,
    StyleGAN2Trainer,
    gan_defaults,
    gan_discriminator,
    latent_images,
)
from monai_plan.gan.losses import AID_WEIGHT, gan_objective
from monai_plan.metrics import embed_statistics, frechet_distance, perceptual_embedding
from monai_plan.networks import (
    ImageAutoencoder,
    StyleGAN2Generator,
    load_autoencoder,
    new_autoencoder,
    resnet_classifier,
)
from monai_plan.utils import seeded_generator, write_json

WAYS = ("aided", "logistic", "relativistic", "hinge")
FALLING = "aided, falling"  # the weight of its pretrained features falls evenly to a tenth over the seconds
BEHIND = {"decoder": "logistic", "decoder, aided": "aided"}  # the objective of each way behind an autoencoder


class Clock:
    """Seconds of training, without what the handlers take; ends the training when they are up.

    On a CPU they are the processor's: others who use it do not count.
    """

    def __init__(self, seconds: float, *, begin: float = 0.0) -> None:
        self.seconds, self.curve, self.began = seconds, [begin], 0.0

    def attach(self, engine: StyleGAN2Trainer) -> None:
        """Register with the trainer, before the handlers that measure."""
        engine.add_event_handler(Events.EPOCH_STARTED, self.stop_if_up)  # when started again with no more seconds
        engine.add_event_handler(Events.EPOCH_STARTED, self.start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def start(self, engine: StyleGAN2Trainer) -> None:
        """Begin an epoch."""
        self.began = time.process_time()

    def stop_if_up(self, engine: StyleGAN2Trainer) -> None:
        """End the training."""
        if self.curve[-1] >= self.seconds:
            engine.terminate()

    def __call__(self, engine: StyleGAN2Trainer) -> None:
        """Take in one epoch."""
        on_cpu = engine.state.device.type == "cpu"
        took = time.process_time() - self.began if on_cpu else engine.state.times[Events.EPOCH_COMPLETED.name]
        self.curve.append(self.curve[-1] + took)
        self.stop_if_up(engine)

    def state_dict(self) -> dict[str, Any]:
        """The seconds after each epoch."""
        return {"curve": self.curve}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what ``state_dict`` gave."""
        self.curve = list(state["curve"])


def train(
    way: str, data: CheckedDataset, embedding: Any, options: argparse.Namespace
) -> tuple[list[tuple[float, int, float]], StyleGAN2Generator]:
    """Train one way; (seconds, images, distance) after each epoch, and the last moving average."""
    device, size = torch.device(options.device), [options.img_size] * 2
    coder, settings, before = autoencoder(options) if way in BEHIND else (None, None, 0.0)
    objective = "aided" if way == FALLING else BEHIND.get(way, way)
    defaults = gan_defaults(size, objective=objective, autoencoder=settings)
    widths = {"channel_base": defaults.channel_base, "channel_max": defaults.channel_max}
    torch.manual_seed(0)
    generator = StyleGAN2Generator(
        2, size, 1, defaults.z_dim, defaults.w_dim, 2, mapping_layers=4, autoencoder=defaults.autoencoder,
        **widths,
    ).to(device)  # fmt: skip
    generator.use_decoder(coder)
    discriminator = gan_discriminator(
        objective, 2, size, 1, 2, feature_size=options.feature_size, autoencoder=coder, **widths
    ).to(device)  # fmt: skip
    seen = latent_images(data, coder)
    adam = {"lr": defaults.learning_rate, "betas": (0.0, 0.99), "fused": True}
    saved = {
        "generator": generator,
        "ema": copy.deepcopy(generator),
        "discriminator": discriminator,
        "g_optimizer": torch.optim.Adam(generator.parameters(), **adam),
        "d_optimizer": torch.optim.Adam(discriminator.parameters(), **adam),
    }
    augment = DifferentiableAugment(p=options.p)
    adaptive = AdaptiveStrength(augment, images_to_full=100_000) if options.adaptive and objective != "hinge" else None
    folder = Path(options.output_dir) / way
    clock = Clock(options.seconds, begin=before)
    best = BestGenerator(dataset=data, embedding=embedding, path=folder / "best.pt", every_images=1)
    states = {"clock": clock, "best": best} | ({"adaptive": adaptive} if adaptive is not None else {})
    trainer = StyleGAN2Trainer(
        device=device, max_epochs=1_000_000, epoch_length=-(-options.epoch_images // defaults.batch_size),
        train_data_loader=ResidentLoader(seen, batch_size=defaults.batch_size, device=device),
        inferer=BeforeDecoderInferer(), objective=objective, aid_weight=options.aid_weight,
        augment=augment, adaptive=adaptive,
        r1_weight=defaults.r1_weight, r1_interval=defaults.r1_interval, r2_weight=defaults.r2_weight,
        ema_half_life=defaults.ema_half_life, **saved,
        train_handlers=[
            clock,
            SampleSheetHandler(path=folder / "samples.png", columns=12),
            best,
            ResumeHandler(
                path=folder / "checkpoint.pt", save_dict={**saved, **states},
                inputs={"images": seen.images, "labels": data.labels, "p": options.p, "aid_weight": options.aid_weight},
            ),
            GANProgressBar(desc=way),
        ],
    )  # fmt: skip

    def fall(engine: StyleGAN2Trainer) -> None:
        weight = options.aid_weight * max(0.1, 1 - 0.9 * clock.curve[-1] / clock.seconds)
        engine.objective = gan_objective(objective, aid_weight=weight)

    if way == FALLING:
        trainer.add_event_handler(Events.EPOCH_STARTED, fall)
    trainer.run()
    curve = [(seconds, seen, value) for seconds, (seen, value) in zip(clock.curve[1:], best.history, strict=True)]
    return curve, trainer.ema


def autoencoder(options: argparse.Namespace) -> tuple[ImageAutoencoder | None, dict[str, Any], float]:
    """The one that is trained, its arguments, and the seconds that it took."""
    private = Path(options.autoencoder) / "private"
    settings = json.loads((private / "settings.json").read_text())["overrides"]["autoencoder"]
    record = json.loads((private / "run" / "train_autoencoder.json").read_text())
    coder = load_autoencoder(new_autoencoder(2, 1, settings), private / "autoencoder.pt", device=options.device)
    return coder, settings, record["seconds"]


@torch.no_grad()
def samples(generator: StyleGAN2Generator, labels: Tensor, device: str) -> Tensor:
    """One image a label, [N, 1, H, W] in [-1, 1], on the CPU."""
    z = torch.randn(len(labels), generator.z_dim, generator=seeded_generator(0, "utility"))
    batches = zip(z.split(64), labels.split(64), strict=True)
    return torch.cat([generator(x.to(device), y.to(device)).clamp(-1, 1).cpu() for x, y in batches])


def utility(
    images: Tensor, labels: Tensor, test: CheckedDataset, options: argparse.Namespace
) -> dict[str, list[float]]:
    """Accuracy and AUC on the real test images of classifiers trained on some images, one per seed."""
    found = []
    for seed in range(options.classifier_seeds):
        network = new_classifier(
            partial(resnet_classifier, 2, spatial_dims=2, img_channels=1, channels=options.classifier_channels),
            seed=seed,
        )
        fit_classifier(
            network,
            images,
            labels,
            settings=ClassifierSettings(options.classifier_epochs),
            seed=seed,
            device=options.device,
        )
        probabilities = predict_probabilities(network, test.images, device=options.device)
        found.append(classification_scores(probabilities, test.labels))
    return {name: [scores[name] for scores in found] for name in ("accuracy", "auc")}


def interval(values: list[float]) -> str:
    """Mean, and half the width of the 95 % interval where there are two values or more, in percent."""
    text = f"{100 * np.mean(values):.1f}"
    if len(values) < 2:
        return text
    width = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return f"{text} ± {100 * width:.1f}"


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
    """Print the tables and write ``curve.json``, ``curve.png``, ``utility.json`` and a sheet a way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("--weights", required=True, help="SqueezeNet 1.0's file")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--ways", nargs="+", choices=[*WAYS, FALLING, *BEHIND], default=WAYS)
    parser.add_argument("--autoencoder", help="folder of a run, for the ways behind a decoder")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--img_size", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--epoch_images", type=int, default=4000, help="between two measurements")
    parser.add_argument("--p", type=float, default=0.5, help="probability of augmentation, at the start if adaptive")
    parser.add_argument("--adaptive", action="store_true", help="adapt it (not with hinge)")
    parser.add_argument("--aid_weight", type=float, default=AID_WEIGHT, help="of aided")
    parser.add_argument("--feature_size", type=int, help="of the pretrained network (default: its own)")
    parser.add_argument("--classifier_seeds", type=int, default=5, help="classifiers a way; 0 leaves them out")
    parser.add_argument("--classifier_epochs", type=int, default=20)
    parser.add_argument("--classifier_channels", type=int, nargs=4, default=[64, 128, 256, 512])
    options = parser.parse_args()

    data, test = load(options, "training"), load(options, "test")
    embedding = perceptual_embedding("squeezenet1_0", spatial_dims=2, img_channels=1, weights=options.weights)
    sides = (embed_statistics(embedding, part.images, device=options.device) for part in (data, test))
    floor = frechet_distance(*sides)
    curves, sets = {}, {"real": data.images[:]}
    for way in options.ways:
        curves[way], generator = train(way, data, embedding, options)
        sets[way] = samples(generator, data.labels, options.device)
    write_json(Path(options.output_dir) / "curve.json", {"floor": floor, **curves})

    print(f"floor, {len(test)} real test images against {len(data)} training images: {floor / 1000:.1f} thousand")
    print("| way | seconds | images | images/s | Fréchet, last, thousand | best |\n|---|---:|---:|---:|---:|---:|")
    for way, curve in curves.items():
        seconds, seen, value = curve[-1]
        least = min(distance for *_, distance in curve)
        print(f"| {way} | {seconds:.0f} | {seen} | {seen / seconds:.0f} | {value / 1000:.1f} | {least / 1000:.1f} |")
    draw(floor, curves, Path(options.output_dir) / "curve.png")

    if options.classifier_seeds > 0:
        print(f"\n| trained on | accuracy, {options.classifier_seeds} seeds | AUC |\n|---|---:|---:|")
        scores = {}
        for name, images in sets.items():
            scores[name] = utility(images, data.labels, test, options)
            print(f"| {name} | {interval(scores[name]['accuracy'])} | {interval(scores[name]['auc'])} |", flush=True)
        write_json(Path(options.output_dir) / "utility.json", scores)


def draw(floor: float, curves: dict[str, list[tuple[float, int, float]]], path: Path) -> None:
    """The distance of each way over its seconds of training."""
    axes = (figure := Figure(figsize=(6, 4))).add_subplot()
    for way, curve in curves.items():
        axes.plot([point[0] for point in curve], [point[2] / 1000 for point in curve], label=way)
    axes.axhline(floor / 1000, color="black", linestyle=":", label="real test images")
    axes.set(xlabel="seconds of training", ylabel="Fréchet distance, thousand", yscale="log")
    axes.legend()
    figure.savefig(path, dpi=150, bbox_inches="tight")


if __name__ == "__main__":
    main()
