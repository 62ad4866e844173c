"""Seconds a thousand images and peak memory of the GAN's training, against a plain StyleGAN2.

The plain form is what the paper's text says, without a thought for speed: one set of convolution weights a sample as a
grouped convolution, up- and downsampling by inserted zeros and a filter over all pixels, float32, images fetched by a
DataLoader, Adam without fusion. Both train networks of the same weights by the same schedule; before the clock starts,
the script checks that both generators give the same image.

    python benchmarks/gan_training.py                                  # small, on the CPU
    python benchmarks/gan_training.py --device cuda --img_size 64 128 256 --batch_size 16 64
    python benchmarks/gan_training.py --device cuda --img_size 128 --channel_base 16384 --channel_max 512 \\
        --batch_size 32                                                # as wide as the published trainer's

``--channels_last`` says how ours are run; with ``both`` each is timed without and with it. On a GPU
the time is that of the clock and the memory the GPU's peak. On a CPU the time is the processor's, that of all threads,
so that what else computes there counts little; the memory is the peak of the whole process, so a later row never shows
less. ``--objectives`` says what ours train by; the plain form is logistic. "first" is the time of as many iterations
before the timed ones.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import resource
import time
import types

import torch
import torch.nn.functional as F
from ignite.engine import Events
from torch import Tensor, nn
from torch.utils.data import DataLoader

from monai_plan.gan import (
    OBJECTIVES,
    AdaptiveStrength,
    DifferentiableAugment,
    ResidentLoader,
    StyleGAN2Trainer,
    gan_defaults,
    gan_discriminator,
)
from monai_plan.networks import StyleGAN2Discriminator, StyleGAN2Generator, layers
from monai_plan.networks.layers import EqualizedConv, ModulatedConv

CONV = {2: F.conv2d, 3: F.conv3d}


def plain_filter(x: Tensor, gain: float = 1.0) -> Tensor:
    """The 4-tap filter [1, 3, 3, 1] along every axis as one dense kernel over each channel."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], device=x.device, dtype=x.dtype) / 8
    kernel = taps
    for _ in range(x.ndim - 3):
        kernel = kernel[..., None] * taps
    images = x.reshape(-1, 1, *x.shape[2:])
    return CONV[x.ndim - 2](images, kernel[None, None] * gain).view(*x.shape[:2], *(s - 3 for s in x.shape[2:]))


def insert_zeros(x: Tensor) -> Tensor:
    """A zero between every two elements along every spatial axis."""
    for axis in range(2, x.ndim):
        doubled = torch.stack([x, torch.zeros_like(x)], dim=axis + 1).flatten(axis, axis + 1)
        x = doubled.narrow(axis, 0, doubled.shape[axis] - 1)
    return x


def plain_modulated_conv(self: ModulatedConv, x: Tensor, w: Tensor, *, gain: float = 1.0) -> Tensor:
    """One set of weights a sample: w'_ijk = s_i w_ijk / √(Σ (s_i w_ijk)² + ε) (arXiv 1912.04958, eq. 1 and 3)."""
    dims, batch = self.spatial_dims, len(x)
    weight = (self.weight * self.weight_gain)[None] * self.affine(w).view(batch, 1, -1, *(1,) * dims)
    if self.demodulate:
        weight = weight * torch.rsqrt(weight.square().flatten(2).sum(2) + 1e-8).view(batch, -1, 1, *(1,) * dims)
    pad = self.kernel_size // 2
    if self.up:  # zeros between the elements, the flipped kernel, then the filter
        x, weight = insert_zeros(x), weight.flip(list(range(3, 3 + dims)))
        pad = self.kernel_size - 1
    grouped = x.reshape(1, -1, *x.shape[2:])
    x = CONV[dims](grouped, weight.flatten(0, 1), padding=pad, groups=batch)
    x = x.view(batch, -1, *x.shape[2:])
    return (plain_filter(F.pad(x, [1, 1] * dims), gain=2.0**dims) if self.up else x) * gain


def plain_conv(self: EqualizedConv, x: Tensor, bias: Tensor | None = None, *, gain: float = 1.0) -> Tensor:
    """Filter over all pixels, convolve at all of them, keep every second one; then bias and gain."""
    dims, weight = self.spatial_dims, self.weight * self.weight_gain
    if self.down:
        x = CONV[dims](plain_filter(F.pad(x, [(self.kernel_size + 1) // 2] * 2 * dims)), weight)
        for axis in range(2, x.ndim):
            x = x.index_select(axis, torch.arange(0, x.shape[axis], 2, device=x.device))
    else:
        x = CONV[dims](x, weight, padding=self.kernel_size // 2)
    return (x if bias is None else x + bias) * gain


def plain(network: nn.Module) -> nn.Module:
    """A copy of a network with the plain forms in place of ours, and the same weights."""
    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(module, ModulatedConv):
            module.forward = types.MethodType(plain_modulated_conv, module)
        elif isinstance(module, EqualizedConv):
            module.forward = types.MethodType(plain_conv, module)
    return network


class Images:
    """Noise in the place of images: the time does not depend on what they show."""

    def __init__(self, count: int, shape: tuple[int, ...]) -> None:
        self.images, self.labels = torch.rand(count, *shape) * 2 - 1, torch.arange(count) % 2

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"image": self.images[index], "label": self.labels[index]}


def seconds_a_thousand(
    generator: StyleGAN2Generator,
    discriminator: nn.Module,
    images: Images,
    *,
    batch_size: int,
    iterations: int,
    ours: bool,
    objective: str,
    device: torch.device,
    channels_last: bool = False,
) -> tuple[float, float, float]:
    """Seconds a thousand images and peak memory in GiB, after one round of warming up, and the time of that."""
    layers.CHANNELS_LAST_DEVICES = {device.type} if channels_last else set()
    augment = DifferentiableAugment(p=0.3)
    defaults = gan_defaults(generator.img_size, generator.spatial_dims, objective=objective, autoencoder=None)
    loader = ResidentLoader(images, batch_size=batch_size, device=device) if ours else DataLoader(
        images, batch_size=batch_size, shuffle=True, drop_last=True
    )  # fmt: skip
    fused = {"fused": True} if ours else {"foreach": False}
    trainer = StyleGAN2Trainer(
        device=device, max_epochs=2, epoch_length=iterations, train_data_loader=loader,
        generator=generator, ema=copy.deepcopy(generator), discriminator=discriminator,
        g_optimizer=torch.optim.Adam(generator.parameters(), lr=0.002, betas=(0.0, 0.99), **fused),
        d_optimizer=torch.optim.Adam(discriminator.parameters(), lr=0.002, betas=(0.0, 0.99), **fused),
        augment=augment, adaptive=AdaptiveStrength(augment), amp=None if ours else False,
        objective=objective, r1_weight=defaults.r1_weight, r1_interval=defaults.r1_interval,
        r2_weight=defaults.r2_weight,
    )  # fmt: skip
    clock: list[float] = []

    def tick() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        clock.append(time.process_time() if device.type == "cpu" else time.perf_counter())

    trainer.add_event_handler(Events.EPOCH_STARTED, tick)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, tick)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    trainer.run()
    peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    )  # fmt: skip
    return (clock[3] - clock[2]) / (iterations * batch_size) * 1000, peak, clock[1] - clock[0]


def choices(argument: str) -> list[bool]:
    """ "off", "on" or "both" → what to time."""
    return {"off": [False], "on": [True], "both": [False, True]}[argument]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--img_size", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--spatial_dims", type=int, choices=(2, 3), default=2)
    parser.add_argument("--batch_size", type=int, nargs="+", help="default: that of gan_defaults")
    parser.add_argument("--channel_base", type=int, help="default: that of gan_defaults")
    parser.add_argument("--channel_max", type=int, help="default: that of gan_defaults")
    parser.add_argument("--iterations", type=int, default=16, help="timed, with one R1 term in every 16 (default: 16)")
    parser.add_argument(
        "--channels_last", choices=("off", "on", "both"), help="default: as the networks choose: on for a CPU"
    )
    parser.add_argument(
        "--objectives",
        nargs="+",
        choices=tuple(OBJECTIVES),
        help="of ours (default: logistic, gan_defaults')",
    )
    parser.add_argument("--no_plain", action="store_true", help="ours alone")
    options = parser.parse_args()
    device = torch.device(options.device)
    layouts = choices(options.channels_last or ("on" if device.type in layers.CHANNELS_LAST_DEVICES else "off"))

    print("| size | batch | weights, million | form | channels last | s/1000 images | ratio | GiB | first, s |")
    print("|---:|---:|---:|---|---|---:|---:|---:|---:|")
    for size in options.img_size:
        defaults = gan_defaults(size, options.spatial_dims, autoencoder=None)
        widths = {
            "channel_base": options.channel_base or defaults.channel_base,
            "channel_max": options.channel_max or defaults.channel_max,
        }
        torch.manual_seed(0)
        generator = StyleGAN2Generator(
            options.spatial_dims, size, 1, defaults.z_dim, defaults.w_dim, 2, mapping_layers=4, **widths
        ).to(device)
        discriminator = StyleGAN2Discriminator(options.spatial_dims, size, 1, 2, **widths).to(device)
        count = sum(p.numel() for network in (generator, discriminator) for p in network.parameters()) / 1e6
        for batch_size in options.batch_size or [defaults.batch_size]:
            images = Images(4 * batch_size, (1, *generator.img_size))
            check(generator, discriminator, images, device)
            objectives = options.objectives or sorted({"logistic", defaults.objective}, reverse=True)
            forms = list(itertools.product(objectives, layouts))
            if not options.no_plain:
                forms.append(("plain", False))  # the last, since the peak of a process never falls
            rows = []
            for form, channels_last in forms:
                ours = form != "plain"
                objective = form if ours else "logistic"
                if ours:
                    rival = gan_discriminator(objective, options.spatial_dims, size, 1, 2, **widths).to(device)
                    networks = (copy.deepcopy(generator), rival)
                else:
                    networks = (plain(generator), plain(discriminator))
                result = seconds_a_thousand(
                    *networks, images, batch_size=batch_size, iterations=options.iterations, ours=ours,
                    objective=objective, device=device, channels_last=channels_last,
                )  # fmt: skip
                rows.append((f"ours, {form}" if ours else form, channels_last, *result))
            for form, channels_last, seconds, peak, warm_up in rows:
                ratio = "" if options.no_plain else f"{rows[-1][2] / seconds:.1f}"
                print(
                    f"| {size} | {batch_size} | {count:.2f} | {form} | {'yes' if channels_last else 'no'} "
                    f"| {seconds:.2f} | {ratio} | {peak:.2f} | {warm_up:.0f} |",
                    flush=True,
                )


@torch.no_grad()
def check(generator: nn.Module, discriminator: nn.Module, images: Images, device: torch.device) -> None:
    """Raise if the plain forms do not compute what ours do."""
    w = torch.randn(2, generator.w_dim, device=device)
    first, labels = images.images[:4].to(device), images.labels[:4].to(device)
    for expected, found in (
        (plain(generator).synthesis(w, noise_mode="const"), generator.synthesis(w, noise_mode="const")),
        (plain(discriminator)(first, labels), discriminator(first, labels)),
    ):
        torch.testing.assert_close(expected, found, rtol=1e-3, atol=1e-3)


if __name__ == "__main__":
    main()
