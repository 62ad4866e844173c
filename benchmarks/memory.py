"""Peak memory of what holds many images, at growing numbers of them, beside the images themselves.

    python benchmarks/memory.py

Every row is a process of its own, and its peak is what the system says of it, less that of a process that only holds
the images of the row (float32; of a release the 8 bits on disk are none of it). Flat means that it does not grow with
the images. "search" finds the nearest of N real images for 200 others with 256 MiB; "others" the nearest image of
another patient for all N (the time grows with N², so it stops at 2,000).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from monai_plan.engines import predict_probabilities
from monai_plan.metrics import RandomFeatureEmbedding, embed_statistics, nearest_other_images, nearest_real_images
from monai_plan.networks import StyleGAN2Generator, resnet_classifier
from monai_plan.release import read_release, synthesize_images, write_synthetic

LIMIT = 256 * 1024**2


def peak() -> int:
    """The most memory that this process ever had, in bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def images(count: int, size: int) -> torch.Tensor:
    """Noise."""
    return torch.empty(count, 1, size, size).uniform_(-1, 1, generator=torch.Generator().manual_seed(0))


def run(what: str, count: int, size: int, folder: str) -> None:
    """One row: print the peak."""
    torch.set_num_threads(1)
    embedding = RandomFeatureEmbedding(2, 1)
    if what == "held":
        images(count, size)
    elif what == "search":
        nearest_real_images(images(200, size), images(count, size), embedding, memory=LIMIT)
    elif what == "others":
        nearest_other_images(images(count, size), torch.arange(count) // 3, embedding, memory=LIMIT)
    elif what == "fidelity":
        embed_statistics(embedding, images(count, size))
    elif what == "classify":
        network = resnet_classifier(2, spatial_dims=2, img_channels=1, channels=(8, 8, 8, 8), stride=1)
        predict_probabilities(network, images(count, size))
    elif what == "synthesize":
        generator = StyleGAN2Generator(2, size, 1, 64, 64, channel_base=256, channel_max=16).eval()
        synthesize_images(generator, torch.zeros(count, 64))
    elif what == "release":
        read_release(folder).images  # noqa: B018  # read when it is asked for
    print(peak())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[200, 2000, 20_000])
    parser.add_argument("--img_size", type=int, default=64)
    parser.add_argument("--row", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        run(options.row[0], int(options.row[1]), options.img_size, options.row[2])
        return
    names = ("search", "others", "fidelity", "classify", "synthesize", "release")
    print(f"MiB beside {options.img_size} px images  " + "".join(f"{name:>12}" for name in names))
    for count in options.counts:
        peaks = {}
        with tempfile.TemporaryDirectory() as folder:
            write_synthetic(
                folder, images=images(count, options.img_size), labels=[0] * count, label_names={0: "a"},
                groups=range(count), name="noise", description="noise",
            )  # fmt: skip
            for name in ("held", *names):
                if name == "others" and count > 2000:
                    continue
                command = [sys.executable, str(Path(__file__)), "--img_size", str(options.img_size)]
                done = subprocess.run([*command, "--row", name, str(count), folder], capture_output=True, check=True)
                peaks[name] = int(done.stdout)
        beside = [f"{(peaks[name] - peaks['held']) / 2**20:12.0f}" if name in peaks else f"{'':12}" for name in names]
        print(f"{count:>8} images            " + "".join(beside), flush=True)


if __name__ == "__main__":
    main()
