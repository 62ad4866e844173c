"""Images inverted in the time of one by the published projector, and how near both come.

The published form is StyleGAN2's projector (arXiv 1912.04958, appendix D) without its noise maps: one image at a time,
from the mean w, 1,000 steps, one set of convolution weights per sample. The features of the image are computed once, as
there. Both minimise the same distance; before the clock starts, the script checks that at the same w both give the same
distance and the same gradient. The encoder is the one that the run has trained; its training is not in the times.

    python benchmarks/inversion.py quickstart \\
        --reference_steps 200
    python benchmarks/inversion.py OUT --device cuda --images 256
"""

from __future__ import annotations

import argparse
import copy
import math
import resource
import time
from collections.abc import Callable

import torch
from gan_training import plain
from torch import Tensor, nn

from monai_plan.bundle.finished_run import FinishedRun
from monai_plan.latent import LatentInverter


def published_distance(
    generator: nn.Module, embedding: nn.Module, pixel_weight: float, w: Tensor, image: Tensor
) -> Tensor:
    """d(w, x) of one image [1, C, *spatial], written out."""
    made = generator.synthesis(w)
    perceptual = (embedding(made) - embedding(image).detach()).square().sum()
    return perceptual + pixel_weight * (made - image).square().mean()


def published_projection(
    generator: nn.Module, inverter: LatentInverter, image: Tensor, label: int, steps: int
) -> float:
    """StyleGAN2's projector for one image [1, C, *spatial]; the distance at which it ends."""
    device = image.device
    with torch.no_grad():
        labels = torch.full((10_000,), label, device=device) if generator.num_classes else None
        samples = generator.mapping(torch.randn(10_000, generator.z_dim, device=device), labels)
        mean = samples.mean(0, keepdim=True)
        sigma = (samples - mean).square().sum(1).mean().sqrt()
        target = inverter.embedding(image)
    w = mean.clone().requires_grad_()
    adam = torch.optim.Adam([w], betas=(0.9, 0.999), lr=0.1)
    for step in range(steps):
        r = step / steps
        ramp = 0.5 - 0.5 * math.cos(math.pi * min(1, (1 - r) / 0.25))
        adam.param_groups[0]["lr"] = 0.1 * ramp * min(1, r / 0.05)
        made = generator.synthesis(w + 0.05 * sigma * max(0, 1 - r / 0.75) ** 2 * torch.randn_like(w))
        loss = (inverter.embedding(made) - target).square().sum()
        loss = loss + inverter.settings.pixel_weight * (made - image).square().mean()
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()
    with torch.no_grad():
        return published_distance(generator, inverter.embedding, inverter.settings.pixel_weight, w, image).item()


def check_equal(inverter: LatentInverter, images: Tensor, labels: Tensor) -> None:
    """Both forms give the same distance and gradient at the same w [N, w_dim].

    In double precision: a network with maxima has kinks, at which the last digit of a pixel changes the gradient.
    """
    generator, embedding = (copy.deepcopy(net).double() for net in (inverter.generator, inverter.embedding))
    slow, images = plain(generator), images.double()
    z = torch.randn(len(images), generator.z_dim, generator=torch.Generator().manual_seed(0)).to(images.device)
    w = inverter.generator.mapping(z, labels if generator.num_classes else None).detach().double().requires_grad_()
    made = generator.synthesis(w)
    ours = (embedding(made) - embedding(images)).square().sum(1)
    ours = ours + inverter.settings.pixel_weight * (made - images).square().flatten(1).mean(1)
    (gradient,) = torch.autograd.grad(ours.sum(), w)
    for i in range(len(images)):
        distance = published_distance(slow, embedding, inverter.settings.pixel_weight, w[i : i + 1], images[i : i + 1])
        (expected,) = torch.autograd.grad(distance, w)
        torch.testing.assert_close(ours[i], distance)
        torch.testing.assert_close(gradient[i], expected[i])


def timed(function: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Seconds, and peak memory in GiB."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    began = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter() - began, torch.cuda.max_memory_allocated(device) / 2**30
    return time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output_dir", help="of the finished run")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=32, help="inverted by ours")
    parser.add_argument("--reference_images", type=int, default=4, help="inverted by the published form")
    parser.add_argument("--reference_steps", type=int, default=1000)
    parser.add_argument("--steps", type=int, help="of ours at most; default: the run's inversion_steps")
    options = parser.parse_args()
    device = torch.device(options.device)

    config = FinishedRun.read(options.output_dir).config("common", "invert")
    config["device"], config["inversion_starts"] = device, 1
    config["inversion_batch_size"] = options.images
    if options.steps:
        config["inversion_steps"] = options.steps
    inverter: LatentInverter = config.get_parsed_content("inverter")
    dataset = config.get_parsed_content("training")
    chosen = torch.linspace(0, len(dataset) - 1, min(options.images, len(dataset))).long()
    images, labels, keys = dataset.images[chosen], dataset.labels[chosen], [dataset.keys[i] for i in chosen]
    few = torch.linspace(0, len(chosen) - 1, min(options.reference_images, len(chosen))).long().tolist()
    slow = plain(inverter.generator).requires_grad_(True)

    check_equal(inverter, images[few].to(device), labels[few].to(device))

    inverter(images[:2], labels[:2], keys[:2])  # to warm up
    found = []
    # ours first: the peak of a process never falls
    fast, fast_peak = timed(lambda: found.append(inverter(images, labels, keys)), device)
    reference: list[float] = []

    def one_by_one() -> None:
        for i in few:
            image = images[i : i + 1].to(device)
            reference.append(published_projection(slow, inverter, image, int(labels[i]), options.reference_steps))

    slow_time, slow_peak = timed(one_by_one, device)
    distances = found[0].distances[:, 0]
    each, slow_each = fast / len(images), slow_time / len(few)
    print(f"The mean distance of the same {len(few)} images; in brackets that of all {len(images)}.")
    print("| | seconds per image | mean distance | GiB |\n|---|---:|---:|---:|")
    print(f"| published, {options.reference_steps} steps | {slow_each:.3f} | {sum(reference) / len(few):.4f} "
          f"| {slow_peak:.2f} |")  # fmt: skip
    print(f"| ours | {each:.3f} | {distances[few].mean():.4f} ({distances.mean():.4f}) | {fast_peak:.2f} |")
    print(f"\n{slow_each / each:.1f} images in the time of one.")


if __name__ == "__main__":
    main()
