"""Seconds per step and path, and memory, of the walk against its published form.

The published form: one pair at a time, points in chunks of four, one set of convolution weights per sample, float32,
the networks' weights not frozen, so that their gradients are computed for nothing. Before the clock starts, the script
checks that both give the same objective and the same gradient.

    python benchmarks/walk.py                                   # small, on the CPU
    python benchmarks/walk.py --device cuda --img_size 256 --pairs 8 --channel_base 16384 --channel_max 512
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from gan_training import plain
from monai.networks.nets import resnet18
from torch import Tensor

from monai_plan.latent import LatentWalk, WalkSettings, linear_path
from monai_plan.networks import StyleGAN2Generator
from monai_plan.networks.running import bf16_is_fast


def published_loss(networks: tuple, path: Tensor, label: int) -> Tensor:
    """L_dist + Σ over chunks of four of 0.1 · mean KL(U ‖ φ_id) + 1 · mean CE(φ_class, y)."""
    generator, identity_net, class_net = networks
    loss = (path[1:] - path[:-1]).square().sum()
    for chunk in path[1:-1].split(4):
        images = generator.synthesis(chunk, noise_mode="const").clamp(-1, 1)
        logits = identity_net(images)
        uniform = torch.full_like(logits, 1 / logits.shape[1])
        loss = loss + 0.1 * F.kl_div(logits.log_softmax(1), uniform, reduction="batchmean")
        loss = loss + F.cross_entropy(class_net(images), torch.full((len(chunk),), label, device=path.device))
    return loss


def seconds(function: Callable[[], None], device: torch.device, repeats: int) -> tuple[float, float]:
    """Seconds a call after one to warm up, and peak memory in GiB."""
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    began = time.perf_counter()
    for _ in range(repeats):
        function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    passed = (time.perf_counter() - began) / repeats
    if device.type == "cuda":
        return passed, torch.cuda.max_memory_allocated(device) / 2**30
    return passed, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--img_size", type=int, default=64)
    parser.add_argument("--img_channels", type=int, default=1)
    parser.add_argument("--num_points", type=int, default=50, help="T; a multiple of four and two more")
    parser.add_argument("--pairs", type=int, default=1, help="walked at once")
    parser.add_argument("--identities", type=int, default=400)
    parser.add_argument("--channel_base", type=int, default=4096)
    parser.add_argument("--channel_max", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    device = torch.device(options.device)

    torch.manual_seed(0)
    generator = StyleGAN2Generator(
        2, options.img_size, options.img_channels, 128, 128, 2,
        channel_base=options.channel_base, channel_max=options.channel_max,
    )  # fmt: skip
    classifiers = [
        resnet18(spatial_dims=2, n_input_channels=options.img_channels, num_classes=n).to(device).eval()
        for n in (options.identities, 2)
    ]
    generator = generator.to(device).eval()
    ends = torch.randn(2, options.pairs, 128, generator=torch.Generator().manual_seed(1)).to(device)
    labels = [0] * options.pairs
    lines = torch.stack([linear_path(a, b, options.num_points) for a, b in ends.unbind(1)])
    published = (plain(generator), *classifiers)

    published_settings = WalkSettings(num_points=options.num_points)
    exact = LatentWalk(generator, *classifiers, settings=published_settings)
    inner = lines[:, 1:-1]
    losses, gradient = exact.objective.losses_and_gradient(lines, inner, labels)
    path = lines[0].clone().requires_grad_()
    objective = published_loss(published, path, 0)
    (expected,) = torch.autograd.grad(objective, path)
    ours = (losses[:, 0] * torch.tensor([1.0, 0.025, 0.25], device=device)).sum()
    torch.testing.assert_close(ours, objective.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradient[0], expected[1:-1], rtol=1e-3, atol=1e-4)

    fast = LatentWalk(generator, *classifiers, settings=replace(published_settings, amp=bf16_is_fast(device)))
    for network in (generator, *classifiers):
        network.requires_grad_(False)
    ours_seconds, ours_peak = seconds(
        lambda: fast.objective.losses_and_gradient(lines, inner, labels), device, options.repeats
    )  # fmt: skip
    for network in published:
        network.requires_grad_(True)

    def step() -> None:
        leaf = lines[0].clone().requires_grad_()
        published_loss(published, leaf, 0).backward()

    plain_seconds, plain_peak = seconds(step, device, options.repeats)
    each = ours_seconds / options.pairs
    print("| size | published, s per step and path | ours | ratio | published, GiB | ours, GiB |")
    print("|---:|---:|---:|---:|---:|---:|")
    print(
        f"| {options.img_size} | {plain_seconds:.3f} | {each:.3f} | {plain_seconds / each:.1f} "
        f"| {plain_peak:.2f} | {ours_peak:.2f} |"
    )


if __name__ == "__main__":
    main()
